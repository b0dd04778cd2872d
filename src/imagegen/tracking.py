"""Weights & Biases without surprises: offline unless a key is configured, and never a prompt."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only


class WandbLogger(loggers.WandbLogger):
    """A W&B run per job. `mode` is online, offline, or auto: online only if an API key is configured."""

    def __init__(self, project: str, save_dir: str, mode: str = "auto", name: str | None = None) -> None:
        import wandb

        self._mode_before = os.environ.get("WANDB_MODE")  # Lightning overwrites it, for the next job as well
        if mode == "auto":
            mode = self._mode_before or ("online" if has_api_key() else "offline")
        mode = "offline" if mode == "dryrun" else mode
        if mode not in ("online", "offline", "disabled"):
            raise ValueError(f"mode must be auto, online, offline or disabled, got {mode!r}")
        os.environ.setdefault("WANDB_SILENT", "true")
        if mode == "offline":
            rank_zero_only(print)(f"W&B: offline, kept in {save_dir}/wandb (`wandb sync` uploads it)")
        settings = wandb.Settings(console="off", silent=True, mode=mode)  # type: ignore[arg-type]
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(name=name, save_dir=save_dir, project=project, offline=mode == "offline", settings=settings)
        self._wandb_init.pop("anonymous", None)  # W&B warns of the mere presence of this old setting

    @rank_zero_only
    def log_config(self, config: dict[str, Any]) -> None:
        """Record the run's config."""
        self.experiment.config.update(config, allow_val_change=True)

    @rank_zero_only
    def log_warnings(self, warnings: list[str]) -> None:
        """Put the training doctor's words into the run's summary, the newest also into an alert."""
        self.experiment.summary["warnings"] = list(warnings)
        self.experiment.alert("training doctor", warnings[-1])

    @rank_zero_only
    def finish(self, summary: dict[str, Any]) -> None:
        """Write the final scores and close the run, so that the next job of a sweep gets its own."""
        import wandb

        self.experiment.summary.update(summary)
        wandb.finish()
        if self._mode_before is None:
            os.environ.pop("WANDB_MODE", None)
        else:
            os.environ["WANDB_MODE"] = self._mode_before


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
