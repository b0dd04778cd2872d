"""Pictures of what the model draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt

from imagegen.data.module import from_uint8
from imagegen.pictures import image_grid, save_png

NUM_GIVEN = 500  # validation images


class SampleGrid(Callback):
    """Write `<dirpath>/<name>_<images seen>.png` at each validation, and hand the grid to loggers that show images.

    The same seeds are drawn each time, so that the pictures of a run make a film. Models that take images apart also
    show what they make of the first of the validation split.
    """

    def __init__(self, dirpath: str, num_samples: PositiveInt, seed: NonNegativeInt) -> None:
        self.dirpath = Path(dirpath)
        self.num_samples = num_samples
        self.seed = seed
        self.last: Path | None = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
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
