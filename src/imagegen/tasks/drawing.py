"""Tasks that begin with noise alone."""

from __future__ import annotations

from pathlib import Path

from imagegen.models.base import GenerativeModel
from imagegen.pictures import image_grid, repeated, save_gif, save_interpolations, save_png, save_samples
from imagegen.tasks.ability import Request, ability


def sample(model: GenerativeModel, out: Path, request: Request) -> None:
    """Images of the model: a grid (.png) or arrays (.npz)."""
    drawing = (request["seed"], request["labels"], request["columns"], request["options"])
    save_samples(model, out, request["num_samples"], *drawing)


def interpolate(model: GenerativeModel, out: Path, request: Request) -> None:
    """A row of `num_frames` images from one latent to another for each sample, or a film of a round walk (.gif)."""
    drawing = (request["seed"], request["labels"], request["columns"], request["options"])
    save_interpolations(model, out, request["num_samples"], request["num_frames"], *drawing)


def film(model: GenerativeModel, out: Path, request: Request) -> None:
    """How noise becomes images: a row of `num_frames` frames for each sample (.png), or a film of all (.gif).

    Raises ValueError for another suffix.
    """
    trajectory = ability(model, "trajectory", "film")
    if out.suffix not in (".png", ".gif"):
        raise ValueError(f"out: {out} must end in .png or .gif: rows or a film")
    num_samples, num_frames = request["num_samples"], request["num_frames"]
    labels = repeated(request["labels"], num_samples)
    frames = trajectory(num_samples, num_frames, labels, request["seed"], **request["options"])
    if out.suffix == ".png":
        save_png(image_grid(frames.flatten(0, 1), num_frames), out)
    else:  # the images stay for a while
        pictures = [image_grid(frame, request["columns"], min_width=320) for frame in frames.unbind(1)]
        save_gif([*pictures, *[pictures[-1]] * num_frames], out, milliseconds=120)
