"""Lightning's Trainer with a precision chosen by what the hardware has."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import PassThroughProfiler
from pydantic import PositiveInt

from imagegen.checkpoint_io import AtomicCheckpointIO
from imagegen.epoch_loop import EpochLoop


class Trainer(lightning.Trainer):
    """A training budget is `max_images`, `max_epochs` or `max_time`; without one, a run trains for 45 seconds.

    `precision="auto"` is bf16-mixed where the processor or GPU computes in bf16, else 32-true. Raises ValueError where
    an accelerator is asked for and absent. All else is Lightning's; the `Budget` callback counts the images.
    """

    DEFAULT_MAX_TIME = "00:00:00:45"  # DD:HH:MM:SS

    def __init__(
        self,
        accelerator: str = "auto",
        precision: str | int = "auto",
        max_images: PositiveInt | None = None,
        max_epochs: PositiveInt | None = None,
        max_time: str | None = None,
        profiler: Any = None,
        log_every_n_steps: PositiveInt = 50,
        **kwargs: Any,
    ) -> None:
        self.max_images = max_images
        if max_images is None and max_epochs is None and max_time is None:
            max_time = self.DEFAULT_MAX_TIME
        if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ValueError("no GPU found; use trainer=cpu, or trainer=auto for the best device there is")
        if precision == "auto":
            precision = "bf16-mixed" if has_bf16(accelerator) else "32-true"
        try:
            super().__init__(
                accelerator=accelerator,
                precision=precision,  # type: ignore[arg-type]
                max_epochs=-1 if max_epochs is None else max_epochs,  # Lightning's own default is 1000 epochs
                max_time=max_time,
                profiler=NoProfiler() if profiler is None else profiler,
                log_every_n_steps=log_every_n_steps,
                plugins=AtomicCheckpointIO(),
                **kwargs,
            )
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error
        loop = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = EpochLoop(self, loop.min_steps, loop.max_steps)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, as Lightning's own, at a fifth of the cost: a step enters it about forty times."""

    NOTHING: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Return a context that does nothing."""
        return self.NOTHING


def has_bf16(accelerator: str) -> bool:
    """Whether bf16 arithmetic is in the hardware of the device that `accelerator` chooses."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
