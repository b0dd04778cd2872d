"""Tasks of models with an encoder: what latents keep of images of the test split, and what they change."""

from __future__ import annotations

import torch
from torch import Tensor

from imagegen.models.base import GenerativeModel
from imagegen.pictures import Grid, image_grid
from imagegen.tasks.ability import NUM_IMAGES, Request, ability


def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images, each with its reconstruction at its right."""
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    restored = ability(model, "reconstruct")(images, labels)
    return image_grid(torch.stack([images, restored], 1).flatten(0, 1), columns=8)


def traverse(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """A row for each of the latents that say most about the images: the image as this one changes."""
    count, num_steps, seed = request["num_samples"], request["num_steps"], request["seed"]
    rows = ability(model, "traverse")(count, num_steps, seed, images[:NUM_IMAGES])
    return image_grid(rows.flatten(0, 1), columns=rows.shape[1])


def change_class(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Attribute arithmetic: images in the first column, then the same moved by the difference of two classes' means.

    To the latents of an image the mean latents of the column's class are added and those of its own subtracted.
    """
    encode, decode = ability(model, "encode"), ability(model, "decode")
    images, labels, num_samples = images[:NUM_IMAGES], labels[:NUM_IMAGES], min(request["num_samples"], 10)
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


def encode(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> dict[str, Tensor]:
    """The `latents` of images and their `labels` (N,)."""
    method = ability(model, "encode")
    parts = [method(*part) for part in zip(torch.split(images, 500), torch.split(labels, 500), strict=True)]
    return {"latents": torch.cat(parts), "labels": labels}
