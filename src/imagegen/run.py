"""One run: its folder, its state on disk, its loggers, and what it prints at the end."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from imagegen.config import UserError, build
from imagegen.data import DataError
from imagegen.json_files import update_json, write_json
from imagegen.metrics.features import FeatureError
from imagegen.metrics.generation import SampleError
from imagegen.models.image_model import DivergenceError
from imagegen.scores import summary

# Of the processes of a run only the first makes the folder; Lightning starts the others with this variable set.
RUN_DIR_VARIABLE = "IMAGEGEN_RUN_DIR"
LAUNCH_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", RUN_DIR_VARIABLE)


class Run:
    """A context in which a job runs: makes the run folder, keeps `status.json`, leaves nothing behind for the next job.

    Sets `cfg.run_dir`. A run that ends in an exception is recorded as failed, with the reason.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.is_first = int(os.environ.get("LOCAL_RANK", "0")) == 0
        self.loggers: list[Any] = []
        self.scores: Mapping[str, Any] = {}
        self.started = time.time()

    def __enter__(self) -> Run:
        quiet_lightning()
        self.environment = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
        self.argv = sys.argv[:]
        self.path = self._make_folder() if self.is_first else self._folder_of_the_first()
        os.environ[RUN_DIR_VARIABLE] = str(self.path)
        with open_dict(self.cfg):
            self.cfg.run_dir = str(self.path)
        # Other ranks are started with sys.argv: in a multirun it must be this job's overrides, not the sweep's.
        sys.argv[1:] = self._overrides()
        if self.is_first:
            (self.path / "config.yaml").write_text(OmegaConf.to_yaml(self.cfg, resolve=True))
        self._write_status("running")
        seed_everything(self.cfg.seed, verbose=False)
        torch.set_flush_denormal(True)  # numbers below 1e-38 would only slow a processor down
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_status("finished")
        else:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)  # Lightning turns Ctrl-C into an exit
            reason = "interrupted" if interrupted else f"{kind.__name__}: {error}"
            self._write_status("failed", reason=reason)
        self._close_loggers()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in self.environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        sys.argv[:] = self.argv

    @property
    def seconds(self) -> float:
        """Wall-clock time since the run began."""
        return time.time() - self.started

    def build_loggers(self) -> list[Any]:
        """The loggers of the config, closed when the run ends."""
        nodes = self.cfg.logger or {}
        self.loggers = [build(node, f"logger.{name}") for name, node in nodes.items() if node]
        for logger in self.loggers:
            if hasattr(logger, "log_config"):
                logger.log_config(OmegaConf.to_container(self.cfg, resolve=True))
        return self.loggers

    @rank_zero_only
    def finish(self, scores: Mapping[str, Any]) -> None:
        """Write `scores.json` and print the table of the run."""
        about = {"data": self.cfg.data.name, "model": self._model_name(), "overrides": " ".join(self._overrides())}
        scores = {**about, **scores}
        write_json(self.path / "scores.json", scores)
        self.scores = scores
        print(summary({"run folder": str(self.path), **scores}))

    def _model_name(self) -> str:
        return str(HydraConfig.get().runtime.choices.get("model", "model"))

    def _overrides(self) -> list[str]:
        return list(HydraConfig.get().overrides.task)

    def _make_folder(self) -> Path:
        given = self.cfg.run_dir
        try:
            if given is not None:
                path = Path(given)
                path.mkdir(parents=True, exist_ok=True)
                if any(path.iterdir()):
                    raise UserError(f"run_dir: {path} is not empty; choose another folder, nothing is overwritten")
                probe = path / "status.json"
                probe.touch(exist_ok=False)
                return path
            parent = Path(self.cfg.log_dir) / self.cfg.data.name / self._model_name()
            parent.mkdir(parents=True, exist_ok=True)
            return _unique_folder(parent)
        except OSError as error:
            where = given or self.cfg.log_dir
            raise UserError(
                f"cannot write the run folder in {where}: {error.strerror}; choose another with log_dir= or run_dir="
            ) from None

    def _folder_of_the_first(self) -> Path:
        path = os.environ.get(RUN_DIR_VARIABLE) or self.cfg.run_dir
        if path is None:
            raise UserError("run_dir: give one where the processes of a run are started from outside, as by torchrun")
        return Path(path)

    def _write_status(self, state: str, **more: Any) -> None:
        if self.is_first:
            status = {"state": state, "seconds": round(self.seconds, 1), "pid": os.getpid(), **more}
            update_json(self.path / "status.json", **status)  # the training doctor writes there too

    def _close_loggers(self) -> None:
        for logger in self.loggers:
            if hasattr(logger, "finish"):
                logger.finish(self.scores)


def _unique_folder(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        path = parent / (stamp + suffix)
        try:
            path.mkdir()  # exclusive: of two runs in the same second one gets the next name
            return path
        except FileExistsError:
            continue
    raise UserError(f"cannot find a free run folder in {parent}")


def quiet_lightning() -> None:
    """Leave out the lines of Lightning that tell a user of this project nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    for text in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*", ".*`LightningDataModule`.*"):
        warnings.filterwarnings("ignore", message=text)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer.*")


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn mishaps that the user can mend, and exceptions of these kinds, into a UserError of one line."""
    try:
        yield
    except (DataError, FeatureError, SampleError, DivergenceError) + kinds as error:
        raise UserError(str(error).strip()) from error
