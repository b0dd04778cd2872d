"""Pictures of what the model draws."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from imagegen.data.module import from_uint8
from imagegen.pictures import image_grid, save_png

NUM_GIVEN = 500  # validation images


class SampleGrid(Callback):
    """Write `<dirpath>/<name>_<images seen>.png` at each validation, and hand the grid to loggers that show images.

    The same seeds are drawn each time, so that the pictures of a run make a film. Models that take images apart also
    show what they make of the first of the validation split. As the first validation of a slow model may be far away,
    one process alone also draws after `first_seconds` of training, after twice as many, four times, and so on.
    """

    def __init__(
        self, dirpath: str, num_samples: PositiveInt, seed: NonNegativeInt, first_seconds: PositiveFloat | None = None
    ) -> None:
        self.dirpath = Path(dirpath)
        self.num_samples = num_samples
        self.seed = seed
        self.first_seconds = first_seconds
        self.last: Path | None = None
        self._start = 0.0
        self._next = math.inf

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.monotonic()
        if self.first_seconds is not None and trainer.world_size == 1:
            self._next = self._start + self.first_seconds

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        now = time.monotonic()
        if now < self._next or trainer.should_stop:
            return
        self._next = now + (now - self._start)
        modes = [(module, module.training) for module in pl_module.modules()]
        pl_module.eval()
        with torch.no_grad():
            self._draw(trainer, pl_module)
        for module, is_training in modes:
            module.training = is_training

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Any, pl_module: Any) -> None:
        # Every process draws, as weights that lie in shards come together only where all take part; the first writes.
        images, labels = (rows[:NUM_GIVEN].to(pl_module.device) for rows in trainer.datamodule.splits["val"])
        given = pl_module.pictures_of(from_uint8(images), labels)
        pictures = pl_module.pictures(self.num_samples, self.seed) | given
        if not trainer.is_global_zero:
            return
        for name, images in pictures.items():
            path = self.dirpath / f"{name}_{pl_module.images_seen:09d}.png"
            grid = image_grid(images, columns=8 if name in given else None)
            save_png(grid, path)
            if name == "samples":
                self.last = path
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(name, [Image.fromarray(grid)], step=pl_module.images_seen)

    def state_dict(self) -> dict[str, Any]:
        return {"last": None if self.last is None else self.last.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.last is None and state_dict["last"] is not None:  # not at the test of the best weights
            self.last = self.dirpath / state_dict["last"]
