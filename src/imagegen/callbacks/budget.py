"""The training budget, in images, epochs or wall-clock time, and everything that is counted in images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from lightning import Callback
from lightning.pytorch.callbacks import Timer
from pydantic import NonNegativeInt, PositiveInt

STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two steps share the lower 32 bits, which are all that a processor uses


class Budget(Callback):
    """Say how much of the budget is used (`model.progress`), stop at its end, and validate every so many images.

    The budget is the trainer's `max_images`, `max_epochs` or `max_time`; of several, whichever ends first. Progress
    follows images where there is an image or epoch budget, so that a run can be repeated exactly, and wall-clock time
    where only a time is given.

    It also seeds each step and each evaluation by (seed, images seen, rank), so that a resumed run draws the noise it
    would have drawn.
    """

    def __init__(self, val_every_images: PositiveInt, seed: NonNegativeInt) -> None:
        self.val_every_images = val_every_images
        self.seed = seed
        self.max_images: int | None = None
        self._timer: Timer | None = None
        self._run_seed = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            images_per_step = trainer.datamodule.batch_size * trainer.world_size
            trainer.check_val_every_n_epoch = None  # count batches across epochs
            trainer.val_check_interval = math.ceil(self.val_every_images / images_per_step)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        mixed = np.random.SeedSequence((self.seed, trainer.global_rank)).generate_state(1, np.uint64)
        self._run_seed = int(mixed[0])
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
        self._timer = timers[0] if timers else None
        self.max_images = getattr(trainer, "max_images", None)
        if self.max_images is None and trainer.max_epochs not in (None, -1):
            images_per_step = trainer.datamodule.batch_size * trainer.world_size
            self.max_images = int(trainer.max_epochs or 0) * int(trainer.num_training_batches) * images_per_step
        pl_module.progress = self.progress(pl_module)
        if pl_module.progress == 1:  # resumed after its last step
            trainer.should_stop = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._seed_step(trainer, pl_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._seed_step(trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._seed_step(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._write_scores("val/", trainer, pl_module)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._write_scores("test/", trainer, pl_module)

    def _write_scores(self, prefix: str, trainer: Any, pl_module: Any) -> None:
        """Hand the scores to the loggers, before a checkpoint says that the evaluation is done."""
        if not trainer.sanity_checking:
            scores = trainer.callback_metrics.items()
            pl_module.write_metrics({name: float(value) for name, value in scores if name.startswith(prefix)})

    def _seed_step(self, trainer: Any, pl_module: Any) -> None:
        seed = (self._run_seed + STRIDE * pl_module.images_seen) % 2**63
        # torch.manual_seed would note a stack trace for each kind of device that is not in use, and keep them all.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.progress = self.progress(pl_module)
        if self.max_images is not None and pl_module.images_seen >= self.max_images:
            trainer.should_stop = True

    def progress(self, pl_module: Any) -> float:
        """The used share of the budget, in [0, 1]."""
        if self.max_images is not None:
            return min(1.0, float(pl_module.images_seen / self.max_images))
        assert self._timer is not None, "a trainer without max_images or max_epochs has max_time"
        elapsed, remaining = self._timer.time_elapsed(), self._timer.time_remaining()
        return min(1.0, elapsed / (elapsed + (remaining or 0.0)))
