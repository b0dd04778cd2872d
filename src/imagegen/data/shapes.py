"""Drawn shapes: 32x32 RGB, 8 classes, any number of images, exact labels, no files and no network needed.

Each image has one shape of random position, size, angle and saturated colour before a plain or gently graded background
of another luminance. The same seed gives the same images. NumPy draws
them: torch's threads would gain little here, and lose much on a machine that is busy otherwise.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIDE = 32
PIXELS = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)  # their middles
CHUNK = 64  # images drawn at once: small enough for the intermediate results to stay in the cache
MIN_CONTRAST = 0.3  # least difference of luminance between the shape and the middle of the background
SLOPE = 0.08  # greatest change of the background's luminance from the middle of the image to its border

# A shape maps coordinates to the distance from its outline, negative inside, in units of its size. It fits into a
# circle of radius 1. Distances need to be right only within a pixel of the outline, where they give the coverage.
Array = npt.NDArray[Any]  # float32
Shape = Callable[[Array, Array], Array]


def _disc(x: Array, y: Array, radius: float) -> Array:
    return np.hypot(x, y) - radius


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    distance: Array = np.maximum(abs(x) - half_width, abs(y) - half_height)
    return distance


def _half_planes(x: Array, y: Array, count: int, distance: float) -> list[Array]:
    """Signed distances from the sides of a regular polygon whose sides are `distance` away from the centre."""
    angles = [2 * math.pi * k / count + math.pi / 2 for k in range(count)]
    return [x * math.cos(angle) + y * math.sin(angle) - distance for angle in angles]


def _circle(x: Array, y: Array) -> Array:
    return _disc(x, y, 0.9)


def _ring(x: Array, y: Array) -> Array:
    return abs(_disc(x, y, 0.75)) - 0.22


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.7, 0.7)


def _triangle(x: Array, y: Array) -> Array:
    first, second, third = _half_planes(x, y, 3, 0.5)
    return np.maximum(np.maximum(first, second), third)


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95))


def _star(x: Array, y: Array) -> Array:
    """Five-pointed star: the points that lie outside at most one side of its inner pentagon."""
    first, *others = _half_planes(x, y, 5, math.cos(2 * math.pi / 5))
    largest, second = first, np.full_like(first, -math.inf)
    for value in others:
        second = np.maximum(second, np.minimum(largest, value))
        largest = np.maximum(largest, value)
    return second


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(_disc(x, y, 0.98), -_disc(x - 0.5, y, 0.8))


def _heart(x: Array, y: Array) -> Array:
    """Square with half a disc on two neighbouring sides."""
    half = 0.5
    x, y = x + 0.2, y + 0.2  # moves the heart's middle to the origin
    lobes = np.minimum(_disc(x - half, y, half), _disc(x, y - half, half))
    return np.minimum(_box(x, y, half, half), lobes)


SHAPES: dict[str, Shape] = {
    "circle": _circle,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "crescent": _crescent,
    "heart": _heart,
}


def read(
    data_dir: Path | None, num_train: int = 20_000, num_val: int = 2_000, num_test: int = 5_000, seed: int = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return images uint8 (N, 3, 32, 32) in 0..255, labels int64 (N,) in 0..7: the position in `SHAPES`.

    Classes are balanced; each split has its own random stream. `data_dir` is not used.
    """
    sizes = {"train": num_train, "val": num_val, "test": num_test}
    return {split: _draw_split(size, [seed, stream]) for stream, (split, size) in enumerate(sizes.items())}


def attributes(num_images: int, split: str = "test", seed: int = 0) -> dict[str, Tensor]:
    """What varies in the images of a split as `read` draws it: numbers (num_images,) for each attribute.

    `shape` is the label; `size`, `x`, `y`, `angle`, `hue` and `background` (its luminance, before a tint) are uniform
    in [0, 1), of which the angle and the hue go round. The number of images must be that of the split.
    """
    rng = np.random.default_rng([seed, ("train", "val", "test").index(split)])
    labels, uniform = _random_numbers(rng, num_images)
    columns = {"size": 0, "x": 1, "y": 2, "angle": 3, "hue": 4, "background": 8}
    drawn = {name: torch.from_numpy(uniform[:, column].copy()) for name, column in columns.items()}
    return {"shape": torch.from_numpy(labels), **drawn}


def _random_numbers(rng: np.random.Generator, num_images: int) -> tuple[npt.NDArray[np.int64], Array]:
    labels = rng.permutation(np.arange(num_images, dtype=np.int64) % len(SHAPES))
    return labels, rng.random((num_images, 14), dtype=np.float32)


def _draw_split(num_images: int, seed: list[int]) -> tuple[Tensor, Tensor]:
    labels, uniform = _random_numbers(np.random.default_rng(seed), num_images)
    images = np.empty((num_images, 3, SIDE, SIDE), np.uint8)
    for label, shape in enumerate(SHAPES.values()):
        (members,) = np.nonzero(labels == label)
        for start in range(0, len(members), CHUNK):
            chosen = members[start : start + CHUNK]
            images[chosen] = _draw(shape, uniform[chosen])
    return torch.from_numpy(images), torch.from_numpy(labels)


def _draw(shape: Shape, uniform: Array) -> npt.NDArray[np.uint8]:
    """Draw one shape for each row of `uniform` (N, 14), numbers in [0, 1): images (N, 3, 32, 32)."""
    size, centre_x, centre_y, angle = uniform[:, :4].T[:, :, None, None]
    size = 7 + 6 * size  # pixels from the centre to the farthest point
    angle = 2 * math.pi * angle
    # The whole circle around the shape lies in the image, a pixel away from the border.
    margin = size + 1
    x = (PIXELS[None, None, :] - (margin + (SIDE - 2 * margin) * centre_x)) / size
    y = (PIXELS[None, :, None] - (margin + (SIDE - 2 * margin) * centre_y)) / size
    cos, sin = np.cos(angle), np.sin(angle)
    distance = shape(x * cos + y * sin, y * cos - x * sin) * size
    coverage = np.clip(0.5 - distance, 0, 1)[:, None]  # of each pixel by the shape: smooth edges
    fill = _fill_colours(uniform[:, 4:7])
    background = _backgrounds(_luminance(fill), uniform[:, 7:])
    colours = background + coverage * (fill[:, :, None, None] - background)
    pixels: npt.NDArray[np.uint8] = np.rint(255 * colours).astype(np.uint8)
    return pixels


def _luminance(colours: Array) -> Array:
    """Rec. 601 luma (N,) of colours (N, 3) in [0, 1]."""
    return colours @ np.array([0.299, 0.587, 0.114], np.float32)


def _fill_colours(uniform: Array) -> Array:
    """Saturated colours (N, 3) in [0, 1], of any hue."""
    hue, saturation, value = uniform[:, :1], 0.75 + 0.25 * uniform[:, 1:2], 0.75 + 0.25 * uniform[:, 2:]
    # HSV to RGB: each channel falls off with the distance of the hue from its own.
    distance = (6 * hue + np.array([0, 4, 2], np.float32)) % 6
    pure = np.clip(abs(distance - 3) - 1, 0, 1)
    colours: Array = value * (1 - saturation * (1 - pure))
    return colours


def _backgrounds(fill: Array, uniform: Array) -> Array:
    """Backgrounds (N, 3, 32, 32) in [0, 1], darker or lighter than the luminance `fill` (N,) of the shape."""
    side, level, kind, direction = uniform[:, :4].T
    dark, light = fill - MIN_CONTRAST, 1 - (fill + MIN_CONTRAST)  # room on either side
    below = side * (np.maximum(dark, 0) + np.maximum(light, 0)) < dark
    luminance = np.where(below, level * dark, 1 - level * light)
    tint = 0.3 * (uniform[:, 4:7] - 0.5)
    colour = luminance[:, None] + tint - _luminance(tint)[:, None]  # the tint leaves the luminance as it is
    slope = SLOPE * (kind > 0.5).astype(np.float32)[:, None, None]  # every second background is plain
    along = (2 * math.pi * direction)[:, None, None]
    position = (PIXELS - SIDE / 2) / (SIDE / 2)
    # At most SLOPE in the corners too, as |cos| + |sin| <= sqrt(2).
    graded = np.cos(along) * position[None, None, :] + np.sin(along) * position[None, :, None]
    images: Array = np.clip(colour[:, :, None, None] + (slope / math.sqrt(2) * graded)[:, None], 0, 1)
    return images
