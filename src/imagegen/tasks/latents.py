"""Tasks of models with an encoder: what latents keep of images, and what they change."""

from __future__ import annotations

import torch
from torch import Tensor

from imagegen.metrics.generation import check_labels
from imagegen.models.base import GenerativeModel
from imagegen.pictures import Grid, image_grid
from imagegen.tasks.ability import NUM_IMAGES, Request, ability
from imagegen.tasks.given import check_several, in_parts, test_images


def reconstruct(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Images, each with its reconstruction at its right."""
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    restore = ability(model, "reconstruct")
    restored = in_parts(lambda part: restore(images[part], labels[part]), len(images))
    return image_grid(torch.stack([images, restored], 1).flatten(0, 1), columns=8)


def traverse(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """A row for each of the latents that say most about the images: the image as this one changes."""
    check_several(images)
    count, num_frames, seed = request["num_samples"], request["num_frames"], request["seed"]
    rows = ability(model, "traverse")(count, num_frames, seed, images[:NUM_IMAGES], labels[:NUM_IMAGES])
    return image_grid(rows.flatten(0, 1), columns=rows.shape[1])


def change_class(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> Grid:
    """Attribute arithmetic: images in the first column, then the same moved by the difference of two classes' means.

    To the latents of an image the mean latents of the column's class are added and those of its own subtracted, and a
    model that knows labels is told the column's. The means are those of the test split, also for images of one's own.
    """
    encode, decode = ability(model, "encode"), ability(model, "decode")
    known, classes = (images, labels) if request["images"] is None else test_images(request["data"], model)
    latents, classes = encode(known[:NUM_IMAGES], classes[:NUM_IMAGES]), classes[:NUM_IMAGES]
    if latents.dim() != 2:
        raise ValueError(f"task: the latents of {type(model).__name__} are codes and cannot be added")
    num_classes, count = int(classes.max()) + 1, min(request["num_samples"], 10)
    means = torch.stack([latents[classes == label].mean(0) for label in range(num_classes)])
    images, labels = images[:count], labels[:count]
    check_labels(labels, num_classes)
    moved = (encode(images, labels) - means[labels])[:, None] + means
    drawn_labels = (
        None if model.num_classes is None else torch.arange(num_classes, device=model.device).repeat(len(images))
    )
    changed = decode(moved.flatten(0, 1), drawn_labels).unflatten(0, moved.shape[:2])
    rows = torch.cat([images[:, None], changed.clamp(-1, 1)], 1)
    return image_grid(rows.flatten(0, 1), columns=num_classes + 1)


def encode(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> dict[str, Tensor]:
    """The `latents` of images and their `labels` (N,)."""
    method = ability(model, "encode")
    return {"latents": in_parts(lambda part: method(images[part], labels[part]), len(images)), "labels": labels}
