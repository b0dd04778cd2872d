"""What a trained model can do: draw, and work on given images. Pictures, films, arrays and tables of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from imagegen.config import build
from imagegen.data import ImageDataModule
from imagegen.data.module import from_uint8
from imagegen.models.base import GenerativeModel
from imagegen.pictures import Grid, save_arrays, save_png
from imagegen.tasks.drawing import film, interpolate, sample
from imagegen.tasks.latents import change_class, encode, reconstruct, traverse
from imagegen.tasks.reports import experts, explain, log_likelihood
from imagegen.tasks.restoration import complete, deblur, denoise, enlarge, vary

# From noise alone: (model, out, request) -> None.
DRAWING: dict[str, Callable[..., None]] = {"sample": sample, "interpolate": interpolate, "film": film}
# Of images of the test split: (model, images, labels, request) -> a picture, arrays by their names, or lines of text.
GRIDS: dict[str, Callable[..., Grid]] = {
    "reconstruct": reconstruct,
    "denoise": denoise,
    "complete": complete,
    "enlarge": enlarge,
    "deblur": deblur,
    "vary": vary,
    "traverse": traverse,
    "change_class": change_class,
}
ARRAYS: dict[str, Callable[..., dict[str, Tensor]]] = {"encode": encode}
TABLES: dict[str, Callable[..., str]] = {"explain": explain, "log_likelihood": log_likelihood, "experts": experts}


def perform(model: GenerativeModel, trained_on: DictConfig, out: Path, request: dict[str, Any]) -> None:
    """Do the `task` of a request (the config of `sample.py`): write `out` and print its path, or print a table.

    `trained_on` is the config of the model's run, which names the data. Raises ValueError for what cannot be done.
    """
    task, request = request["task"], request | {"data": trained_on.data}
    if task in TABLES:
        return print(TABLES[task](model, *test_images(trained_on), request))
    if task in DRAWING:
        DRAWING[task](model, out, request)
    elif task in GRIDS:
        _check_suffix(out, ".png", task)
        save_png(GRIDS[task](model, *test_images(trained_on), request), out)
    elif task in ARRAYS:
        _check_suffix(out, ".npz", task)
        save_arrays(out, **ARRAYS[task](model, *test_images(trained_on), request))
    else:
        raise ValueError(f"task: {task} is not one of {', '.join((*DRAWING, *GRIDS, *ARRAYS, *TABLES))}")
    print(out)


def _check_suffix(out: Path, suffix: str, task: str) -> None:
    if out.suffix != suffix:
        raise ValueError(f"out: {out} must end in {suffix} for task={task}")


def test_images(trained_on: DictConfig) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and labels (N,) of the test split of a run's data."""
    data: ImageDataModule = build(trained_on.data, "data")
    data.prepare_data()
    data.setup("test")
    images, labels = data.splits["test"]
    return from_uint8(images), labels
