"""Curves that a resumed run goes on with: a CSV file, and Weights & Biases without surprises.

W&B is offline unless a key is configured, and never asks. TensorBoard and MLflow get the config and pictures too.
"""

from __future__ import annotations

import csv
import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image


class CSVLogger(loggers.Logger):
    """`<save_dir>/metrics.csv`: a row for each number of images seen, with whatever was logged there.

    A run that goes on from a checkpoint cuts off the rows behind it and appends to the others.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = ["step"]
        self._row: dict[str, Any] = {}
        self._offset = 0  # where the newest row begins in the file

    @property
    def name(self) -> str:
        """What the Trainer calls the kind of logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one file for each run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add to the row of `step`, the number of images seen, or begin it; it is in the file on return."""
        if self._row.get("step") == step:
            self._row |= metrics
        else:
            self._row = {"step": step, **metrics}
            self._offset = self.path.stat().st_size if self.path.exists() else 0
        if self._offset and self._row.keys() <= set(self._columns):
            with self.path.open("r+", newline="") as file:
                file.truncate(self._offset)
                file.seek(self._offset)
                csv.DictWriter(file, self._columns).writerow(self._row)
        else:
            self._rewrite(self._read(but=step), self._row)

    @rank_zero_only
    def resume(self, images_seen: int) -> None:
        """Forget what was logged after a number of images."""
        rows = [row for row in self._read() if int(row["step"]) <= images_seen]
        if rows:
            last = rows.pop()
            self._row = {"step": int(last.pop("step"))} | {key: value for key, value in last.items() if value}
        self._rewrite(rows, self._row)

    def _read(self, but: int | None = None) -> list[dict[str, Any]]:
        """The rows of the file, without that of the step `but`."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            # A row that a crash cut short lacks fields, and only the last one can.
            return [row for row in csv.DictReader(file) if None not in row.values() and row["step"] != str(but)]

    def _rewrite(self, rows: list[dict[str, Any]], last: dict[str, Any]) -> None:
        """Replace the file; `last` becomes its newest row, the one that may still grow."""
        self._columns = ["step", *sorted({key for row in [*rows, last] for key in row} - {"step"})]
        temporary = self.path.with_name(".metrics.csv.part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
            self._offset = file.tell()
            if last:
                writer.writerow(last)
        temporary.replace(self.path)


class WandbLogger(loggers.WandbLogger):
    """A W&B run per job. `mode` is online, offline, or auto: online only if an API key is configured.

    The x-axis is `images_seen`. The id of the run is kept in `<save_dir>/wandb/id`, so that a job that goes on in its
    folder goes on in its run; an agent of `wandb sweep` gives an id of its own.
    """

    def __init__(
        self,
        project: str,
        save_dir: str,
        mode: str = "auto",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        import wandb

        self._mode_before = os.environ.get("WANDB_MODE")  # Lightning overwrites it, for the next job as well
        if mode == "auto":
            mode = self._mode_before or ("online" if has_api_key() else "offline")
        mode = "offline" if mode == "dryrun" else mode
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"mode must be auto, online, offline or disabled, got {mode!r}")
        self.mode = mode
        os.environ.setdefault("WANDB_SILENT", "true")
        if mode == "offline":
            rank_zero_only(print)(f"W&B: offline, kept in {save_dir}/wandb (`wandb sync` uploads it)")
        settings = wandb.Settings(console="off", silent=True, mode=mode)  # type: ignore[arg-type]
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=name,
            save_dir=save_dir,
            project=project,
            offline=mode == "offline",
            settings=settings,
            id=None if "WANDB_SWEEP_ID" in os.environ or mode == "disabled" else _run_id(Path(save_dir)),
            group=group,
            tags=list(tags),
        )
        self._wandb_init.pop("anonymous", None)  # W&B warns of the mere presence of this old setting
        if mode != "online":
            self._wandb_init.pop("resume")  # only the server can; `wandb sync --append` joins the parts

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, with the number of images seen on the x-axis."""
        is_new = self._experiment is None
        run = super().experiment
        if is_new and hasattr(run, "define_metric"):
            run.define_metric("images_seen")
            run.define_metric("*", step_metric="images_seen", step_sync=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a number of images seen."""
        self.experiment.log({**metrics, "images_seen": step})

    @rank_zero_only
    def log_config(self, config: dict[str, Any]) -> None:
        """Record the run's config."""
        self.experiment.config.update(config, allow_val_change=True)

    @rank_zero_only
    def log_warnings(self, warnings: list[str]) -> None:
        """Put the training doctor's words into the run's summary, the newest also into an alert."""
        self.experiment.summary["warnings"] = list(warnings)
        self.experiment.alert("training doctor", warnings[-1])

    def log_files(self) -> None:
        """Keep the best weights with their config, scores and card as an artifact."""
        import wandb

        artifact = wandb.Artifact(f"run-{self.experiment.id}", type="model")
        for name in ("checkpoints/best.ckpt", "config.yaml", "scores.json", "card.md"):
            if (path := Path(str(self.save_dir)) / name).is_file():
                artifact.add_file(str(path))
        self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finish(self, summary: dict[str, Any]) -> None:
        """Write the final scores and close the run, so that the next job of a sweep gets its own."""
        import wandb

        self.experiment.summary.update(summary)
        if self.mode == "online":
            self.log_files()
        wandb.finish()
        if self._mode_before is None:
            os.environ.pop("WANDB_MODE", None)
        else:
            os.environ["WANDB_MODE"] = self._mode_before


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's, with the config as hyper-parameters and with pictures."""

    def log_config(self, config: dict[str, Any]) -> None:
        """Record the run's config."""
        self.log_hyperparams(config)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image.Image], step: int | None = None) -> None:
        """Show pictures of one kind at a number of images seen."""
        for i, image in enumerate(images):
            name = key if len(images) == 1 else f"{key}/{i}"
            self.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


class MLFlowLogger(loggers.MLFlowLogger):
    """Lightning's, with the config as hyper-parameters and with pictures."""

    def log_config(self, config: dict[str, Any]) -> None:
        """Record the run's config."""
        self.log_hyperparams(config)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image.Image], step: int | None = None) -> None:
        """Show pictures of one kind at a number of images seen."""
        for i, image in enumerate(images):
            name = key if len(images) == 1 else f"{key}_{i}"
            self.experiment.log_image(self.run_id, image, key=name, step=step)


def _run_id(save_dir: Path) -> str:
    path = save_dir / "wandb" / "id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text().strip()


def has_api_key() -> bool:
    """Whether an API key is in the environment or, as `wandb login` leaves it, in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return False
