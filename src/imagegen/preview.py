"""`dry=true`: what a run would cost, measured on a few of its steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig, open_dict
from torch.utils.flop_counter import FlopCounterMode

from imagegen.callbacks.generation_metrics import peak_memory_mb
from imagegen.config import UserError, build
from imagegen.models.base import GenerativeModel
from imagegen.models.image_model import ImageModel
from imagegen.run import quiet_lightning
from imagegen.scores import summary
from imagegen.trainer import Trainer

NUM_STEPS = 12
NUM_WARM = 4  # of them not timed
NUM_DRAWN = 32
ENOUGH = 5.0  # seconds, of which each part of the preview takes about so many, at least one step or image


class Everywhere:
    """In place of the modules that FlopCounterMode tracks, by hooks that forbid the gradients of a GAN's penalty."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Clock(Callback):
    """Times steps after the first `NUM_WARM`, or fewer if they take long, and counts the operations of the first."""

    def __init__(self) -> None:
        self.flops = 0
        self.num_timed = 0
        self.seconds = 0.0  # of the steps timed
        self._num_seen = 0
        self._begin = 0.0  # of all
        self._start = 0.0  # of the steps timed
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._num_seen == 0:
            self._begin = time.perf_counter()
            self._counter = FlopCounterMode(display=False)
            self._counter.mod_tracker = Everywhere()  # type: ignore[assignment]
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._num_seen += 1
        if self._counter is not None:
            self.flops = self._counter.get_total_flops() // len(batch[0])
            self._stop_counting()
        _wait()
        now = time.perf_counter()
        if self._start:
            self.num_timed, self.seconds = self.num_timed + 1, now - self._start
            trainer.should_stop = self.seconds > ENOUGH
        elif self._num_seen >= NUM_WARM or now - self._begin > ENOUGH:
            self._start = now

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._counter = None


def preview(cfg: DictConfig) -> None:
    """Train a few steps, draw a few images, print what the whole run would take; nothing is written."""
    quiet_lightning()
    data, model = build(cfg.data, "data"), build(cfg.model, "model")
    callbacks = {name: build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node}
    clock = Clock()
    trainer_cfg = cfg.trainer.copy()
    with open_dict(trainer_cfg):
        trainer_cfg.update(max_images=NUM_STEPS * cfg.data.batch_size, max_epochs=None, max_time=None)
        trainer_cfg.update(limit_val_batches=0, enable_checkpointing=False, devices=1, strategy="auto")
    trainer = build(trainer_cfg, "trainer", callbacks=[callbacks["budget"], clock], logger=False)
    trainer.fit(model, data)

    images_per_second = clock.num_timed * cfg.data.batch_size / clock.seconds
    rows = {
        "parameters": model.num_parameters,
        "FLOPs per image": f"{clock.flops:,} (a training step, convolutions and matrix products)",
        "memory": f"{peak_memory_mb(model.device):,.0f} MB",
        "images/s": f"{images_per_second:,.0f}, {trainer.precision} on {model.device.type}",
    }
    rows |= _durations(cfg, model, data, callbacks, images_per_second)
    print(summary(rows))


def _durations(
    cfg: DictConfig, model: ImageModel, data: Any, callbacks: dict[str, Any], images_per_second: float
) -> dict[str, str]:
    num_images, limit = cfg.trainer.get("max_images"), cfg.trainer.get("max_time")
    if cfg.trainer.get("max_epochs") is not None and num_images is None:
        num_images = cfg.trainer.max_epochs * data.num_train
    if num_images is None:
        try:
            total = Timer(str(limit or Trainer.DEFAULT_MAX_TIME)).time_remaining() or 0.0
        except MisconfigurationException as error:
            raise UserError(f"trainer.max_time: {error}") from error
        words = f"{_text(total)}, some {images_per_second * total:,.0f} images"
    else:
        words = f"{_text(num_images / images_per_second)} for {num_images:,} images"
    rows = {"training": words}
    if isinstance(model, GenerativeModel) and "metrics" in callbacks:
        per_image = _seconds_per_image(model)
        for split, number in callbacks["metrics"].num_samples.items():
            name = "each validation" if split == "val" else "the final scores"
            rows[name] = f"{_text(per_image * number)} to draw {number:,} images, and their features"
        rows["validations"] = f"every {cfg.val_every_images:,} images and at the end"
    return rows


def _seconds_per_image(model: GenerativeModel) -> float:
    """Of a batch of `NUM_DRAWN` images, or of one, if that takes long."""
    for num_images in (1, 1, NUM_DRAWN):
        start = time.perf_counter()
        model.sample(num_images)
        _wait()
        seconds = (time.perf_counter() - start) / num_images
        if seconds > ENOUGH:
            break
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
