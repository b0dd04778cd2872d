"""Pictures and sample files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imagegen.data.module import from_uint8, to_uint8
from imagegen.models.base import GenerativeModel

Grid = NDArray[np.uint8]  # a picture (rows, columns, 3)
WAYPOINTS = 4  # of a film of latents


def image_grid(images: Tensor, columns: int | None = None, min_width: int = 480) -> Grid:
    """Images (N, C, H, W) in [-1, 1] as one picture (rows, columns, 3) of 8-bit levels.

    About square unless `columns` is given; small images are enlarged by a whole factor, without smoothing, until the
    picture is about `min_width` pixels wide.
    """
    num, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    cells = torch.full((rows * columns, channels, height + 2, width + 2), 255, dtype=torch.uint8)
    cells[:num, :, 1:-1, 1:-1] = to_uint8(images).cpu()
    grid = cells.reshape(rows, columns, channels, height + 2, width + 2).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * (height + 2), columns * (width + 2), channels)
    if channels == 1:
        grid = grid.expand(-1, -1, 3)
    factor = max(1, round(min_width / grid.shape[1]))
    return grid.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy()


def with_neighbours(samples: Tensor, neighbours: Tensor) -> Grid:
    """A grid of uint8 samples (N, C, H, W), each with its neighbour (N, C, H, W) at its right."""
    pairs = torch.stack([samples, neighbours], dim=1).flatten(0, 1)
    return image_grid(from_uint8(pairs), columns=8)


def save_png(grid: Grid, path: Path) -> None:
    """Write a picture so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(grid).save(temporary, format="png", optimize=True)
    temporary.replace(path)


def save_gif(frames: Sequence[Grid], path: Path, milliseconds: int = 60) -> None:
    """Write pictures as an endless film, so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    first, *rest = (Image.fromarray(frame).quantize(64) for frame in frames)
    first.save(temporary, format="gif", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    temporary.replace(path)


def save_samples(
    model: GenerativeModel,
    path: Path,
    num_samples: int,
    seed: int,
    labels: Sequence[int] | None = None,
    columns: int | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Draw images and write them: a grid (.png), or arrays (.npz) `images` uint8 (N, H, W, C) and `labels` int64 (N,).

    `labels` are repeated as needed; -1 in the file means "without a class". Raises ValueError for another suffix.
    """
    _check_request(path, (".png", ".npz"), num_samples, labels, columns)
    seeds = range(seed, seed + num_samples)
    drawn_labels = model.sample_labels(seeds, repeated(labels, num_samples))
    images = model.sample(num_samples, drawn_labels, seed, **(options or {}))
    if path.suffix == ".png":
        save_png(image_grid(images, columns), path)
    else:
        _save_drawn(path, images, drawn_labels, num_samples)


def save_interpolations(
    model: GenerativeModel,
    path: Path,
    num_samples: int,
    num_frames: int,
    seed: int,
    labels: Sequence[int] | None = None,
    columns: int | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Draw images between latents and write them.

    A `.png` has a row of `num_frames` images for each sample, from one latent to another. A `.gif` is a film of all
    samples side by side, on a round walk through `WAYPOINTS` latents. A `.npz` holds the rows, `images` uint8 (N,
    num_frames, H, W, C), and `labels` int64 (N,). Raises ValueError for another suffix, or a model without latents.
    """
    _check_request(path, (".png", ".gif", ".npz"), num_samples, labels, columns)
    is_film = path.suffix == ".gif"
    drawn_labels = model.sample_labels(range(seed, seed + num_samples), repeated(labels, num_samples))
    waypoints = WAYPOINTS if is_film else 2
    paths = model.interpolate(num_samples, num_frames, waypoints, is_film, drawn_labels, seed, **(options or {}))
    if is_film:
        save_gif([image_grid(frame, columns, min_width=320) for frame in paths.unbind(1)], path)
    elif path.suffix == ".png":
        save_png(image_grid(paths.flatten(0, 1), num_frames), path)
    else:
        _save_drawn(path, paths, drawn_labels, num_samples)


def _check_request(
    path: Path, suffixes: Sequence[str], num_samples: int, labels: Sequence[int] | None, columns: int | None
) -> None:
    if path.suffix not in suffixes:
        raise ValueError(f"out: {path} must end in {', '.join(suffixes)}: a grid, arrays or a film")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if labels is not None and len(labels) == 0:
        raise ValueError("labels must name at least one class, or be null")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")


def repeated(labels: Sequence[int] | None, num_samples: int) -> Tensor | None:
    """The classes (N,) of a list that is repeated as needed."""
    return None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(num_samples)])


def _save_drawn(path: Path, images: Tensor, labels: Tensor | None, num_samples: int) -> None:
    classes = torch.full((num_samples,), -1) if labels is None else labels
    save_arrays(path, images=to_uint8(images).movedim(-3, -1), labels=classes)


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write named arrays as an .npz file so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, **{name: array.cpu().numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
    temporary.replace(path)
