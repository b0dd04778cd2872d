"""Tasks of models that tell images from noise: given images restored and varied, films of sampling, tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from imagegen.objectives.likelihoods import bits_per_dim
from imagegen.objectives.observations import Blurred, Shrunk
from imagegen.pictures import image_grid, repeated, save_gif, save_png

Grid = NDArray[np.uint8]
Request = dict[str, Any]


def enlarge(model: Any, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images (N, C, H, W) shrunk by a factor, restored, as they were: three columns for each. Raises ValueError."""
    factor = request["factor"]
    if factor < 1 or any(side % factor for side in images.shape[2:]):
        raise ValueError(f"factor: {factor} does not divide pictures of {tuple(images.shape[2:])} pixels")
    small = Shrunk(factor)(images)
    restored = model.enlarge(small, factor, labels, request["seed"], **request["options"])
    return _beside(F.interpolate(small, scale_factor=float(factor), mode="nearest"), restored, images)


def deblur(model: Any, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images (N, C, H, W) blurred, restored, as they were: three columns for each. Raises ValueError."""
    if request["blur"] <= 0:
        raise ValueError(f"blur: must be above 0 pixels, got {request['blur']}")
    blurred = Blurred(request["blur"])(images)
    return _beside(
        blurred, model.deblur(blurred, request["blur"], labels, request["seed"], **request["options"]), images
    )


def vary(model: Any, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images (N, C, H, W) in the first of eight columns, beside seven variations."""
    columns = [model.vary(images, request["strength"], labels, request["seed"] + 10_000 * i) for i in range(7)]
    return image_grid(torch.stack([images, *columns], 1).flatten(0, 1), columns=8)


GRIDS: dict[str, Callable[[Any, Tensor, Tensor, Request], Grid]] = {"enlarge": enlarge, "deblur": deblur, "vary": vary}


def _beside(given: Tensor, restored: Tensor, images: Tensor) -> Grid:
    return image_grid(torch.stack([given, restored, images], 1).flatten(0, 1), columns=9)


def save_film(model: Any, out: Path, request: Request) -> None:
    """How noise becomes images: a row of `num_steps` frames for each sample (.png), or a film of all (.gif).

    Raises ValueError for another suffix.
    """
    if out.suffix not in (".png", ".gif"):
        raise ValueError(f"out: {out} must end in .png or .gif: rows or a film")
    num_samples, num_frames = request["num_samples"], request["num_steps"]
    labels = repeated(request["labels"], num_samples)
    frames = model.trajectory(num_samples, num_frames, labels, request["seed"], **request["options"])
    if out.suffix == ".png":
        save_png(image_grid(frames.flatten(0, 1), num_frames), out)
    else:  # the images stay for a while
        film = [image_grid(frame, request["columns"], min_width=320) for frame in frames.unbind(1)]
        save_gif([*film, *[film[-1]] * num_frames], out, milliseconds=120)


def log_likelihood(model: Any, images: Tensor, labels: Tensor, request: Request) -> str:
    """What the images of the test split cost in bits per dimension and nats, and how sure that is."""
    if hasattr(model, "estimate_likelihood"):
        kind = "estimate by the differential equation"
        nats, probe_error, step_error = model.estimate_likelihood(
            images, labels, request["num_levels"], seed=request["seed"], **request["options"]
        )
        errors = [("± over random signs", probe_error), ("change from half of the steps", step_error)]
    elif model.likelihood_kind is not None:
        kind, nats, errors = model.likelihood_kind, model.log_likelihood(images, labels), []
    else:
        raise ValueError(f"task: {type(model).__name__} has no likelihood")
    rows = [("mean", float(-nats.mean())), ("± over images", float(nats.std() / len(nats) ** 0.5)), *errors]
    lines = [f"negative log likelihood of {len(images)} test images ({kind})", f"{'':<30} {'bits/dim':>9} {'nats':>9}"]
    size = tuple(images.shape[1:])
    lines += [f"{name:<30} {float(bits_per_dim(torch.tensor(v), size)):>9.4f} {v:>9.2f}" for name, v in rows]
    return "\n".join(lines)


def experts(model: Any, images: Tensor, labels: Tensor, request: Request) -> str:
    """Which experts of a mixture are used: by layer, by the time of the images and by their class, in per cent."""
    times = (0.1, 0.5, 0.9)
    shares = torch.stack([model.expert_usage(images, t, labels, request["seed"]) for t in times])  # (3, layers, N, E)
    rows = [(f"layer {i + 1}", share) for i, share in enumerate(shares.mean((0, 2)))]
    rows += [(f"t = {t}", share) for t, share in zip(times, shares.mean((1, 2)), strict=True)]
    by_class = shares.mean((0, 1))
    rows += [(f"class {int(label)}", by_class[labels == label].mean(0)) for label in sorted(set(labels.tolist()))]
    lines = [f"{'':<10}" + "".join(f"{f'expert {i + 1}':>10}" for i in range(shares.shape[-1]))]
    lines += [f"{name:<10}" + "".join(f"{100 * float(x):>9.1f}%" for x in share) for name, share in rows]
    return "\n".join(lines)


TABLES: dict[str, Callable[[Any, Tensor, Tensor, Request], str]] = {
    "log_likelihood": log_likelihood,
    "experts": experts,
}
