"""What a trained model can do: draw, and work on given images. Pictures, films, arrays and tables of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from imagegen.config import build
from imagegen.data import ImageDataModule, shapes
from imagegen.data.module import from_uint8
from imagegen.denoising_tasks import GRIDS, TABLES, save_film
from imagegen.metrics.interpretability import mutual_information, mutual_information_gap
from imagegen.models.base import GenerativeModel
from imagegen.models.vae import ACTIVE
from imagegen.pictures import image_grid, save_arrays, save_interpolations, save_png, save_samples

Grid = NDArray[np.uint8]
TASKS: tuple[str, ...] = (
    "sample",
    "interpolate",
    "reconstruct",
    "denoise",
    "traverse",
    "change_class",
    "complete",
    "encode",
    "explain",
)
TASKS += ("film", *GRIDS, *TABLES)
NUM_IMAGES = 2000  # of the test split, for what is said of latents on average


def perform(model: GenerativeModel, trained_on: DictConfig, out: Path, request: dict[str, Any]) -> None:
    """Do the `task` of a request (the config of `sample.py`): write `out` and print its path, or print a table.

    `trained_on` is the config of the model's run, which names the data. Raises ValueError for what cannot be done.
    """
    task, num_samples, seed = request["task"], request["num_samples"], request["seed"]
    drawing = (seed, request["labels"], request["columns"], request["options"])
    if task not in TASKS:
        raise ValueError(f"task: {task} is not one of {', '.join(TASKS)}")
    if task in (*GRIDS, *TABLES, "film"):
        ability(model, {"film": "trajectory", "experts": "expert_usage"}.get(task, task), task)
    if task in TABLES:
        images, labels = test_images(trained_on)
        request = request | {"num_levels": trained_on.data.num_levels}
        return print(TABLES[task](model, images[:num_samples], labels[:num_samples], request))
    if task == "explain":
        images, labels = test_images(trained_on)
        return print(explain(model, images[:NUM_IMAGES], labels[:NUM_IMAGES], trained_on))
    if task == "sample":
        save_samples(model, out, num_samples, *drawing)
    elif task == "interpolate":
        save_interpolations(model, out, num_samples, request["num_steps"], *drawing)
    elif task == "film":
        save_film(model, out, request)
    else:
        _work_on_images(model, trained_on, out, request)
    print(out)


def _work_on_images(model: GenerativeModel, trained_on: DictConfig, out: Path, request: dict[str, Any]) -> None:
    task, num_samples, seed = request["task"], request["num_samples"], request["seed"]
    suffix = ".npz" if task == "encode" else ".png"
    if out.suffix != suffix:
        raise ValueError(f"out: {out} must end in {suffix} for task={task}")
    images, labels = test_images(trained_on)
    if task == "encode":
        return save_latents(model, images, labels, out)
    if task == "reconstruct":
        grid = reconstruct(model, images[:num_samples], labels[:num_samples])
    elif task == "denoise":
        grid = denoise(model, images[:num_samples], labels[:num_samples], request["noise"], seed)
    elif task == "complete":
        grid = complete(model, images[:num_samples], labels[:num_samples], request["known"], seed, request["options"])
    elif task in GRIDS:
        grid = GRIDS[task](model, images[:num_samples], labels[:num_samples], request)
    elif task == "traverse":
        grid = traverse(model, images[:NUM_IMAGES], num_samples, request["num_steps"], seed)
    else:
        grid = change_class(model, images[:NUM_IMAGES], labels[:NUM_IMAGES], min(num_samples, 10))
    return save_png(grid, out)


def test_images(trained_on: DictConfig) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and labels (N,) of the test split of a run's data."""
    data: ImageDataModule = build(trained_on.data, "data")
    data.prepare_data()
    data.setup("test")
    images, labels = data.splits["test"]
    return from_uint8(images), labels


def ability(model: GenerativeModel, name: str, task: str | None = None) -> Callable[..., Any]:
    """A method that only some families have. Raises ValueError where this one has not, in words of the task."""
    if not hasattr(model, name):
        raise ValueError(f"task: {type(model).__name__} cannot {(task or name).replace('_', ' ')}")
    method: Callable[..., Any] = getattr(model, name)
    return method


def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor) -> Grid:
    """Images (N, C, H, W), each with its reconstruction at its right."""
    restored = ability(model, "reconstruct")(images, labels)
    return image_grid(torch.stack([images, restored], 1).flatten(0, 1), columns=8)


def denoise(model: GenerativeModel, images: Tensor, labels: Tensor, noise: float, seed: int) -> Grid:
    """Images with Gaussian noise of that deviation, restored, and as they were: three columns for each."""
    generator = torch.Generator().manual_seed(seed)
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    restored = ability(model, "denoise")(noisy, labels, noise)
    return image_grid(torch.stack([noisy, restored, images], 1).flatten(0, 1), columns=9)


def complete(
    model: GenerativeModel, images: Tensor, labels: Tensor, known_share: float, seed: int, options: dict[str, Any]
) -> Grid:
    """Images of which that share of the rows is given, from the top; completed; as they were: three columns for each.

    Raises ValueError for a share that is none.
    """
    finish = ability(model, "complete")
    if not 0 <= known_share <= 1:
        raise ValueError(f"known: must be a share from 0 to 1, got {known_share}")
    known = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
    known[:, :, : round(known_share * images.shape[2])] = True
    completed = finish(images, known, None if model.num_classes is None else labels, seed, **options)
    return image_grid(torch.stack([images * known, completed, images], 1).flatten(0, 1), columns=9)


def traverse(model: GenerativeModel, images: Tensor, num_units: int, num_steps: int, seed: int) -> Grid:
    """A row for each of the latents that say most about the images: the image as this one changes."""
    rows = ability(model, "traverse")(num_units, num_steps, seed, images)
    return image_grid(rows.flatten(0, 1), columns=rows.shape[1])


def change_class(model: GenerativeModel, images: Tensor, labels: Tensor, num_samples: int) -> Grid:
    """Attribute arithmetic: images in the first column, then the same moved by the difference of two classes' means.

    To the latents of an image the mean latents of the column's class are added and those of its own subtracted.
    """
    encode, decode = ability(model, "encode"), ability(model, "decode")
    latents = encode(images, labels)
    if latents.dim() != 2:
        raise ValueError(f"task: the latents of {type(model).__name__} are codes and cannot be added")
    num_classes = int(labels.max()) + 1
    means = torch.stack([latents[labels == label].mean(0) for label in range(num_classes)])
    moved = latents[:num_samples, None] - means[labels[:num_samples], None] + means[None]
    drawn_labels = None if model.num_classes is None else labels[:num_samples].repeat_interleave(num_classes)
    changed = decode(moved.flatten(0, 1), drawn_labels).unflatten(0, moved.shape[:2])
    rows = torch.cat([images[:num_samples, None], changed.clamp(-1, 1)], 1)
    return image_grid(rows.flatten(0, 1), columns=num_classes + 1)


def save_latents(model: GenerativeModel, images: Tensor, labels: Tensor, path: Path) -> None:
    """Write `latents` of images and their `labels` (N,) to an .npz file."""
    encode = ability(model, "encode")
    parts = [encode(*part) for part in zip(torch.split(images, 500), torch.split(labels, 500), strict=True)]
    save_arrays(path, latents=torch.cat(parts), labels=labels)


def explain(model: GenerativeModel, images: Tensor, labels: Tensor, trained_on: DictConfig) -> str:
    """Which latents are active and, where the attributes of images are known (shapes), which say what of them."""
    report = ability(model, "unit_report")(images, labels)
    variance = report["variance"]
    active = int((variance > ACTIVE).sum())
    lines = [f"{active} of {len(variance)} latents are active (variance of the posterior mean above {ACTIVE})"]
    lines.append(f"KL: {float(report['kl'].sum()):.2f} nats per image")
    if trained_on.data.name != "shapes":
        return "\n".join(lines)
    read = trained_on.data.read
    drawn = shapes.attributes(read.num_test, "test", read.seed)
    attributes = torch.stack([x.float() for x in drawn.values()], 1)[: len(images)]
    latents = ability(model, "encode")(images, labels)
    information = mutual_information(latents, attributes)
    gaps = mutual_information_gap(information, attributes)
    lines.append(f"{'attribute':<12} {'gap':>6}   latents that say most of it (nats)")
    for column, (name, gap) in enumerate(zip(drawn, gaps, strict=True)):
        best = information[:, column].topk(min(3, len(information)))
        found = ", ".join(f"{int(i)} ({float(v):.2f})" for v, i in zip(*best, strict=True))
        lines.append(f"{name:<12} {float(gap):>6.3f}   {found}")
    lines.append(f"mutual information gap, mean: {float(gaps.mean()):.3f}")
    return "\n".join(lines)
