"""A progress bar that costs nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback
from tqdm import tqdm


class Progress(Callback):
    """How much of the budget is used, the speed, the losses and the newest scores.

    A bar on a terminal, redrawn every `INTERVAL` seconds; elsewhere one line per epoch, but not more often than every
    `LINE_INTERVAL` seconds. Between redraws a step costs one look at the clock.
    """

    INTERVAL = 0.5
    LINE_INTERVAL = 10.0

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._next = 0.0
        self._start = (0.0, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = (time.monotonic(), int(pl_module.images_seen))
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(total=100, bar_format="{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining} {postfix}")
        else:
            self._next = time.monotonic() + self.LINE_INTERVAL

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._bar is not None and time.monotonic() >= self._next:
            self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._bar is None and trainer.is_global_zero and time.monotonic() >= self._next:
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _show(self, trainer: Any, pl_module: Any) -> None:
        now = time.monotonic()
        images_seen: int = pl_module.images_seen
        speed = (images_seen - self._start[1]) / max(now - self._start[0], 1e-9)
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        terms = {**pl_module.train_means, **scores}
        text = f"{images_seen:,} images, {speed:,.0f}/s  " + "  ".join(f"{k} {v:.4g}" for k, v in terms.items())
        progress: float = pl_module.progress
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = round(100 * progress)
            self._bar.refresh()
            self._next = now + self.INTERVAL
        else:
            print(f"{100 * progress:3.0f} %  {text}", flush=True)
            self._next = now + self.LINE_INTERVAL
