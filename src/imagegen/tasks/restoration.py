"""Tasks that restore spoilt images, or vary them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.models.base import GenerativeModel
from imagegen.objectives.observations import Blurred, Shrunk
from imagegen.pictures import Grid, image_grid
from imagegen.tasks.ability import Request, ability
from imagegen.tasks.given import in_parts, known_pixels


def denoise(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images with Gaussian noise of deviation `noise`, restored, and as they were: three columns for each."""
    restore, seed = ability(model, "denoise"), request["seed"]
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    noisy = images + request["noise"] * model.noise(range(seed, seed + len(images)), images.shape[1:])

    def restored(part: slice) -> Tensor:
        result: Tensor = restore(noisy[part], labels[part], request["noise"], seed + part.start, **request["options"])
        return result

    return _beside(noisy, in_parts(restored, len(images)), images)


def complete(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images of which some pixels are given (`known_pixels`); completed; as they were."""
    finish = ability(model, "complete")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    known = known_pixels(images, request)

    def completed(part: slice) -> Tensor:
        used = None if model.num_classes is None else labels[part]
        drawn: Tensor = finish(images[part], known[part], used, request["seed"] + part.start, **request["options"])
        return drawn

    return _beside(images * known, in_parts(completed, len(images)), images)


def enlarge(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images shrunk by a `factor`, restored, as they were. Raises ValueError for a factor that does not divide them."""
    restore, factor = ability(model, "enlarge"), request["factor"]
    if not isinstance(factor, int) or factor < 1 or any(side % factor for side in images.shape[2:]):
        raise ValueError(f"factor: {factor} does not divide pictures of {tuple(images.shape[2:])} pixels")
    images = images[: request["num_samples"]]
    small = Shrunk(factor)(images)
    restored = _restored(restore, small, factor, labels, request)
    return _beside(F.interpolate(small, scale_factor=float(factor), mode="nearest"), restored, images)


def deblur(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images blurred by `blur` pixels, restored, as they were. Raises ValueError for a blur that is none."""
    restore, blur = ability(model, "deblur"), request["blur"]
    if blur <= 0:
        raise ValueError(f"blur: must be above 0 pixels, got {blur}")
    images = images[: request["num_samples"]]
    blurred = Blurred(blur)(images)
    return _beside(blurred, _restored(restore, blurred, blur, labels, request), images)


def vary(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images in the first of eight columns, beside seven variations."""
    varied, strength = ability(model, "vary"), request["strength"]
    images = images[: request["num_samples"]]
    columns = [_restored(varied, images, strength, labels, request, 10_000 * i) for i in range(7)]
    return image_grid(torch.stack([images, *columns], 1).flatten(0, 1), columns=8)


def _restored(
    method: Callable[..., Any], given: Tensor, how: float, labels: Tensor, request: Request, first: int = 0
) -> Tensor:
    """What a method makes of what is given (N, ...), in parts: image i by the seed of the request, plus `first + i`."""
    seed, options = request["seed"] + first, request["options"]
    return in_parts(lambda part: method(given[part], how, labels[part], seed + part.start, **options), len(given))


def _beside(given: Tensor, restored: Tensor, images: Tensor) -> Grid:
    return image_grid(torch.stack([given, restored, images], 1).flatten(0, 1), columns=9)
