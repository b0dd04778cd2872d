"""The training budget, in images, epochs or wall-clock time, and everything that is counted in images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from pydantic import PositiveInt


class Budget(Callback):
    """Say how much of the budget is used (`model.progress`), stop at its end, and validate every so many images.

    The budget is `max_images`, `trainer.max_epochs` or `trainer.max_time`; of several, whichever ends first. Where
    none is given it is `default_max_images`. Progress follows images where there is an image or epoch budget, so that
    a run can be repeated exactly, and wall-clock time where only a time is given.

    It also seeds each step by (seed, images seen, rank), so that a resumed run draws the noise it would have drawn.
    """

    def __init__(
        self, max_images: PositiveInt | None, default_max_images: PositiveInt, val_every_images: PositiveInt, seed: int
    ) -> None:
        self.max_images = max_images
        self.default_max_images = default_max_images
        self.val_every_images = val_every_images
        self.seed = seed
        self._timer: Timer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        images_per_step = data.batch_size * trainer.world_size
        trainer.check_val_every_n_epoch = None  # count batches across epochs
        trainer.val_check_interval = max(1, round(self.val_every_images / images_per_step))
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        self._timer = timers[0] if timers else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.max_images is None and trainer.max_epochs not in (None, -1):
            steps_per_epoch = int(trainer.num_training_batches)
            batch_size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
            self.max_images = int(trainer.max_epochs or 0) * steps_per_epoch * batch_size * trainer.world_size
        elif self.max_images is None and self._timer is None:
            self.max_images = self.default_max_images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pl_module.progress = self.progress(pl_module)  # type: ignore[assignment]
        step_seed = np.random.SeedSequence((self.seed, int(pl_module.images_seen), trainer.global_rank))  # type: ignore[arg-type]
        torch.manual_seed(int(step_seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.max_images is not None and pl_module.images_seen >= self.max_images:  # type: ignore[operator]
            trainer.should_stop = True

    def progress(self, pl_module: LightningModule) -> float:
        """The used share of the budget, in [0, 1]."""
        if self.max_images is not None:
            return min(1.0, pl_module.images_seen / self.max_images)  # type: ignore[operator]
        assert self._timer is not None
        elapsed, remaining = self._timer.time_elapsed(), self._timer.time_remaining()
        return min(1.0, elapsed / (elapsed + (remaining or 0.0)))
