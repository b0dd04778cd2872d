"""What a trained model can do: draw, and work on given images. Pictures, films, arrays and tables of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from imagegen.models.base import GenerativeModel
from imagegen.pictures import Grid, save_arrays, save_png
from imagegen.tasks.drawing import film, interpolate, sample
from imagegen.tasks.given import given_images
from imagegen.tasks.latents import change_class, encode, reconstruct, traverse
from imagegen.tasks.reports import experts, explain, log_likelihood
from imagegen.tasks.restoration import complete, deblur, denoise, enlarge, vary

# From noise alone: (model, out, request) -> None.
DRAWING: dict[str, Callable[..., None]] = {"sample": sample, "interpolate": interpolate, "film": film}
# Of given images: (model, images, labels, request) -> a picture, arrays by their names, or lines of text.
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
# Whose methods take no options of a sampler.
WITHOUT_OPTIONS = ("reconstruct", "traverse", "change_class", "encode", "explain", "experts")


def perform(model: GenerativeModel, trained_on: DictConfig, out: Path, request: dict[str, Any]) -> None:
    """Do the `task` of a request (the config of `sample.py`): write `out` and print its path, or print a table.

    `trained_on` is the config of the model's run, which names the data. Raises ValueError for what cannot be done, and
    SamplingError for a sampler that fails.
    """
    _check(request)
    task, data = request["task"], trained_on.data.copy()
    if request["data_dir"] is not None:
        data.data_dir = request["data_dir"]
    request = request | {"data": data}
    has_gpu = request["accelerator"] == "auto" and torch.cuda.is_available()
    model.to("cuda" if has_gpu else "cpu")
    if task in TABLES:
        return print(TABLES[task](model, *given_images(model, request), request))
    if task in DRAWING:
        DRAWING[task](model, out, request)
    elif task in GRIDS:
        _check_suffix(out, ".png", task)
        save_png(GRIDS[task](model, *given_images(model, request), request), out)
    else:
        _check_suffix(out, ".npz", task)
        save_arrays(out, **ARRAYS[task](model, *given_images(model, request), request))
    print(out)


def _check(request: dict[str, Any]) -> None:
    """Raise ValueError for what no task, or not this one, can make something of."""
    task, tasks = request["task"], (*DRAWING, *GRIDS, *ARRAYS, *TABLES)
    if task not in tasks:
        raise ValueError(f"task: {task} is not one of {', '.join(tasks)}")
    for key in ("num_samples", "num_frames", "columns"):
        value = request[key]
        if not (isinstance(value, int) and value >= 1 or key == "columns" and value is None):
            raise ValueError(f"{key} must be a whole number of at least 1, got {value}")
    labels = request["labels"]
    if labels is not None and not (isinstance(labels, list) and labels and all(isinstance(x, int) for x in labels)):
        raise ValueError(f"labels must be null or a list of at least one class, as [3,5], got {labels}")
    if request["images"] is not None and task in DRAWING:
        raise ValueError(f"images: task={task} begins with noise alone")
    if request["mask"] is not None and task != "complete":
        raise ValueError(f"mask: is for task=complete, not task={task}")
    if request["options"] and task in WITHOUT_OPTIONS:
        raise ValueError(f"options: task={task} has none, got {', '.join(request['options'])}")
    if request["accelerator"] not in ("auto", "cpu"):
        raise ValueError(f"accelerator must be auto or cpu, got {request['accelerator']}")


def _check_suffix(out: Path, suffix: str, task: str) -> None:
    if out.suffix != suffix:
        raise ValueError(f"out: {out} must end in {suffix} for task={task}")
