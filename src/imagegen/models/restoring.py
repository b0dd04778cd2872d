"""What a model does that can draw images of which something is known: completion, enlargement, deblurring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imagegen.models.base import GenerativeModel
from imagegen.objectives.observations import Blurred, Known, Observation, Shrunk


class RestoringModel(GenerativeModel):
    """A subclass writes `restore`."""

    OBSERVATION_NOISE = 0.02  # deviation that is granted to what is observed, on pixels in [-1, 1]

    def restore(
        self, observed: Tensor, observation: Observation, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) of which `observed` is what `observation` says; image i by `seed + i`."""
        raise NotImplementedError

    def complete(
        self, images: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) with their pixels kept where the boolean `known` (N, 1, H, W) is set, the others drawn.

        Raises ValueError if `known` is of another size.
        """
        if known.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(f"known: the shape {tuple(known.shape)} does not fit images of {tuple(images.shape)}")
        observation = Known(known)
        drawn = self.restore(observation(images), observation, labels, seed, **options)
        return torch.where(known, images, drawn)

    def enlarge(
        self, images: Tensor, factor: int, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) whose squares of `factor` x `factor` pixels have the means (N, C, H / factor, ...)."""
        height, width = self.image_shape[1:]
        if factor < 1 or images.shape[2] * factor != height or images.shape[3] * factor != width:
            raise ValueError(f"factor: {factor} times {tuple(images.shape[2:])} pixels are not {height}x{width}")
        return self.restore(images, Shrunk(factor), labels, seed, **options)

    def deblur(self, images: Tensor, std: float, labels: Tensor | None = None, seed: int = 0, **options: Any) -> Tensor:
        """Images (N, C, H, W) that give the given ones if they are blurred by a Gaussian of `std` pixels."""
        return self.restore(images, Blurred(std), labels, seed, **options)
