"""What a task is given: images of the test split or one's own, and which of their pixels are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from imagegen.config import build
from imagegen.data import ImageDataModule
from imagegen.data.folder import read_pictures
from imagegen.data.module import from_uint8
from imagegen.metrics.generation import check_labels
from imagegen.models.base import GenerativeModel
from imagegen.tasks.ability import Request

PART_SIZE = 100  # images that go through a network at once, so that memory does not limit their number


def given_images(model: GenerativeModel, request: Request) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and labels (N,), on the model's device: those at `images`, else the test split.

    One's own have the classes `labels`, repeated as needed, or else 0. Where the model knows but black and white they
    are made so. Raises ValueError for a class that the model does not know.
    """
    if request["images"] is None:
        return test_images(request["data"], model)
    levels = read_pictures(Path(request["images"]), model.image_shape)
    if request["data"].get("binarize") is not None:
        levels = 255 * (levels > 127).to(torch.uint8)
    labels = torch.tensor((request["labels"] or [0]) * len(levels))[: len(levels)]
    if model.num_classes is not None:
        check_labels(labels, model.num_classes)
    return from_uint8(levels).to(model.device), labels.to(model.device)


def test_images(data: DictConfig, model: GenerativeModel) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and labels (N,) of the test split, on the model's device."""
    module: ImageDataModule = build(data, "data")
    module.prepare_data()
    module.setup("test")
    images, labels = module.splits["test"]
    return from_uint8(images).to(model.device), labels.to(model.device)


def check_several(images: Tensor) -> None:
    """Raise ValueError for a single image, whose latents do not vary."""
    if len(images) < 2:
        raise ValueError("images: this task compares images; give a folder of two or more")


def known_pixels(images: Tensor, request: Request) -> Tensor:
    """Which pixels of images are known (N, 1, H, W): where the picture `mask` is white, else the share `known` of rows.

    Raises ValueError for a share that is none, or where all pixels are known, or none of a mask.
    """
    known = torch.zeros(1, 1, *images.shape[2:], dtype=torch.bool)
    if request["mask"] is None:
        if not 0 <= request["known"] <= 1:
            raise ValueError(f"known: must be a share from 0 to 1, got {request['known']}")
        known[:, :, : round(request["known"] * images.shape[2])] = True
    else:
        known = read_pictures(Path(request["mask"]), (1, *images.shape[2:])) > 127
        if len(known) > 1:
            raise ValueError(f"mask: {request['mask']} holds {len(known)} pictures; give one, for all images")
        if not known.any():
            raise ValueError(f"mask: {request['mask']} is all black: nothing is known, task=sample draws from nothing")
    if known.all():
        name = "known" if request["mask"] is None else f"mask: {request['mask']} is all white and"
        raise ValueError(f"{name} leaves no pixel to complete")
    return known.to(images.device).expand(len(images), -1, -1, -1)


def in_parts(work: Callable[[slice], Tensor], num_images: int, dim: int = 0) -> Tensor:
    """The results of `work` on up to `PART_SIZE` images at a time, joined in the dimension of the images."""
    starts = range(0, num_images, PART_SIZE)
    return torch.cat([work(slice(start, min(start + PART_SIZE, num_images))) for start in starts], dim)
