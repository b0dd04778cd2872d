"""One run: its folder, its state on disk, its loggers, and what it prints at the end."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from lightning import seed_everything
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf, open_dict

from imagegen.callbacks.checkpoints import ProcessError
from imagegen.checkpoint_io import CheckpointError
from imagegen.config import UserError, build
from imagegen.data import DataError
from imagegen.json_files import update_json, write_json
from imagegen.metrics.features import FeatureError
from imagegen.metrics.generation import SampleError
from imagegen.models.image_model import DivergenceError, MismatchError
from imagegen.objectives.denoisers import SamplingError
from imagegen.resume import Start, arguments
from imagegen.scores import card, summary
from imagegen.stop_signals import REQUEUES, STOP

# What the user can mend.
MISHAPS: tuple[type[Exception], ...] = (
    DataError,
    FeatureError,
    SampleError,
    DivergenceError,
    MismatchError,
    SamplingError,
    CheckpointError,
    ProcessError,
)
# Of the processes of a run only the first makes the folder; Lightning starts the others with this variable set.
RUN_DIR_VARIABLE = "IMAGEGEN_RUN_DIR"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOTDIR, errno.EACCES)
PEER_ERRORS = re.compile("gloo|nccl|tcpstore|connection (closed|reset)|pair closure", re.IGNORECASE)
LAUNCH_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", RUN_DIR_VARIABLE)

FROM_OUTSIDE = "run_dir: give one where the processes of a run are started from outside, as by torchrun or srun"


def is_first_process() -> bool:
    """Whether this is the first of all processes of a run: on all nodes, whatever has started them."""
    if "RANK" in os.environ:  # torchrun
        return os.environ["RANK"] == "0"
    if SLURMEnvironment.detect():  # srun
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return os.environ.get("NODE_RANK", "0") == os.environ.get("LOCAL_RANK", "0") == "0"


def _has_peers() -> bool:
    """Whether processes that this one has not started train with it."""
    name = "SLURM_NTASKS" if SLURMEnvironment.detect() else "WORLD_SIZE"
    return int(os.environ.get(name, "1")) > 1


class Run:
    """A context in which a job runs: makes the run folder, keeps `status.json`, leaves nothing behind for the next job.

    Sets `cfg.run_dir`. A run that ends in an exception is recorded as failed, with the reason, and one that a signal
    ends as stopped; SIGUSR1 also puts a SLURM job back into its queue.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self.cfg = start.cfg
        self.is_first = is_first_process()
        self.loggers: list[Any] = []
        self.scores: Mapping[str, Any] = {}
        self.started = time.time()
        self._lock: int | None = None

    def __enter__(self) -> Run:
        quiet_lightning()
        self.environment = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
        self.argv = sys.argv[:]
        self.path = self._make_folder() if self.is_first else self._folder_of_the_first()
        os.environ[RUN_DIR_VARIABLE] = str(self.path)
        with open_dict(self.cfg):
            self.cfg.run_dir = str(self.path)
        # Other ranks are started with sys.argv: in a multirun it must be this job's overrides, not the sweep's.
        sys.argv[1:] = arguments(self.cfg)
        if self.is_first:
            self._lock = _lock(self.path)
            (self.path / "config.yaml").write_text(OmegaConf.to_yaml(self.cfg, resolve=True))
        self._write_status("running", overrides=self.start.overrides)
        if self.start.checkpoint is not None and self.is_first:
            print(f"goes on after {self.start.images_seen:,} images ({self.start.checkpoint})", flush=True)
        seed_everything(self.cfg.seed, verbose=False)
        torch.set_flush_denormal(True)  # numbers below 1e-38 would only slow a processor down
        STOP.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of a full disk has been told already
            self._write_end(kind, error)
            self._close_loggers()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in self.environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        sys.argv[:] = self.argv
        if self._lock is not None:
            os.close(self._lock)
        STOP.__exit__(kind, error, traceback)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the run began."""
        return time.time() - self.started

    def build_loggers(self) -> list[Any]:
        """The loggers of the config, closed when the run ends."""
        nodes = self.cfg.logger or {}
        self.loggers = [build(node, f"logger.{name}") for name, node in nodes.items() if node]
        for logger in self.loggers:
            if self.start.checkpoint is not None and hasattr(logger, "resume"):
                logger.resume(self.start.images_seen)
            if hasattr(logger, "log_config"):
                logger.log_config(OmegaConf.to_container(self.cfg, resolve=True))
        return self.loggers

    @rank_zero_only
    def finish(self, scores: Mapping[str, Any]) -> None:
        """Write `scores.json` and `card.md`, and print the table of the run."""
        about = {"data": self.cfg.data.name, "model": self.model, "overrides": " ".join(self.start.overrides)}
        scores = {**about, **scores}
        write_json(self.path / "scores.json", scores)
        (self.path / "card.md").write_text(card(scores, self.path))
        self.scores = scores
        print(summary({"run folder": str(self.path), **scores}))

    @property
    def model(self) -> str:
        """The name of the model's config."""
        return str(self.start.choices.get("model", "model"))

    def _make_folder(self) -> Path:
        given = self.cfg.run_dir
        if self.start.in_place:
            return Path(given)
        if given is None and _has_peers():
            raise UserError(FROM_OUTSIDE)
        try:
            if given is not None:
                path = Path(given)
                path.mkdir(parents=True, exist_ok=True)
                if any(path.iterdir()):
                    raise UserError(f"run_dir: {path} is not empty; choose another folder, nothing is overwritten")
                probe = path / "status.json"
                probe.touch(exist_ok=False)
                return path
            parent = Path(self.cfg.log_dir) / self.cfg.data.name / self.model
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
            raise UserError(FROM_OUTSIDE)
        return Path(path)

    def _write_end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if kind is None:
            self._write_status("finished", reason=None)
        elif isinstance(error, SystemExit) and STOP.received is not None:
            name = STOP.received.name
            self._write_status("stopped", reason=name)
            if self.is_first:
                print(f"stopped by {name}; python train.py resume={self.path} goes on", file=sys.stderr, flush=True)
                if STOP.received in REQUEUES:
                    _requeue()
        else:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            self._write_status("failed", reason="interrupted" if interrupted else f"{kind.__name__}: {error}")

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


def _lock(folder: Path) -> int:
    """Keep other processes from training in the same folder for as long as this one lives."""
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise UserError(f"run_dir: another process is training in {folder}") from None
    except OSError:  # some network file systems have no locks
        pass
    return file


def _requeue() -> None:
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and "SUBMITIT_EXECUTOR" not in os.environ:  # which does it by itself
        subprocess.run(["scontrol", "requeue", job], check=False)


def quiet_lightning() -> None:
    """Leave out the lines of Lightning that tell a user of this project nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*isinstance.*LeafSpec.*",
        ".*`LightningDataModule`.*",
        ".*all_gather is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
    warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer.*")


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn mishaps that the user can mend, and exceptions of these kinds, into a UserError of one line."""
    try:
        yield
    except MISHAPS + kinds as error:
        raise UserError(str(error).strip()) from error
    except RuntimeError as error:
        if PEER_ERRORS.search(str(error)):
            raise UserError(
                f"another process of this run has died or hangs ({str(error).splitlines()[0][:120]})"
            ) from error
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise UserError(f"cannot write {error.filename or 'a file'}: {error.strerror}") from error
        raise
