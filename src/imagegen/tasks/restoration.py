"""Tasks that restore spoilt images of the test split, or vary them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.models.base import GenerativeModel
from imagegen.objectives.observations import Blurred, Shrunk
from imagegen.pictures import Grid, image_grid
from imagegen.tasks.ability import Request, ability


def denoise(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images with Gaussian noise of deviation `noise`, restored, and as they were: three columns for each."""
    restore = ability(model, "denoise")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    generator = torch.Generator().manual_seed(request["seed"])
    noisy = images + request["noise"] * torch.randn(images.shape, generator=generator)
    return _beside(noisy, restore(noisy, labels, request["noise"]), images)


def complete(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images of which the share `known` of the rows is given, from the top; completed; as they were.

    Raises ValueError for a share that is none.
    """
    finish = ability(model, "complete")
    if not 0 <= request["known"] <= 1:
        raise ValueError(f"known: must be a share from 0 to 1, got {request['known']}")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    known = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool)
    known[:, :, : round(request["known"] * images.shape[2])] = True
    used = None if model.num_classes is None else labels
    return _beside(images * known, finish(images, known, used, request["seed"], **request["options"]), images)


def enlarge(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images shrunk by a `factor`, restored, as they were. Raises ValueError for a factor that does not divide them."""
    restore, factor = ability(model, "enlarge"), request["factor"]
    if factor < 1 or any(side % factor for side in images.shape[2:]):
        raise ValueError(f"factor: {factor} does not divide pictures of {tuple(images.shape[2:])} pixels")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    small = Shrunk(factor)(images)
    restored = restore(small, factor, labels, request["seed"], **request["options"])
    return _beside(F.interpolate(small, scale_factor=float(factor), mode="nearest"), restored, images)


def deblur(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images blurred by `blur` pixels, restored, as they were. Raises ValueError for a blur that is none."""
    restore, blur = ability(model, "deblur"), request["blur"]
    if blur <= 0:
        raise ValueError(f"blur: must be above 0 pixels, got {blur}")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    blurred = Blurred(blur)(images)
    return _beside(blurred, restore(blurred, blur, labels, request["seed"], **request["options"]), images)


def vary(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images in the first of eight columns, beside seven variations."""
    varied = ability(model, "vary")
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    columns = [varied(images, request["strength"], labels, request["seed"] + 10_000 * i) for i in range(7)]
    return image_grid(torch.stack([images, *columns], 1).flatten(0, 1), columns=8)


def _beside(given: Tensor, restored: Tensor, images: Tensor) -> Grid:
    return image_grid(torch.stack([given, restored, images], 1).flatten(0, 1), columns=9)
