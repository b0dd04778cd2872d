"""Autoregressive models: each pixel given those before it in raster order, with an exact likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from tqdm import tqdm

from imagegen.models.base import GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.likelihoods import bits_per_dim, from_levels, levels
from imagegen.objectives.pixel_distributions import PixelDistribution

MAX_VALUES = 2**15  # whose 256 logits take 32 MiB


class Autoregressive(GenerativeModel):
    """A network of the past of each pixel, and a distribution of the pixel: van den Oord et al. 2016 and followers.

    `network` makes a network for the distribution's number of groups and parameters, which maps images (N, C, H, W) and
    labels (N,) to parameters (N, P, G, H, W). Its `start(num_images, labels)` opens a cache with `parameters(row, col,
    group)` (N, P) and `write(row, col, group, values)`, by which any of them is drawn from in one loop.
    """

    likelihood_kind = "exact"

    def __init__(
        self,
        network: Callable[..., nn.Module],
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        distribution: PixelDistribution,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        channels = image_shape[0]
        self.num_groups = distribution.num_groups(channels)
        num_parameters = distribution.num_parameters(channels)
        built = network(num_groups=self.num_groups, num_parameters=num_parameters, is_softmax=distribution.is_softmax)
        super().__init__(built, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.num_classes = num_classes
        self.distribution = distribution
        self.num_levels = distribution.num_levels

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Negative log likelihood in bits per dimension."""
        log_prob = self.distribution.log_prob(images, self.network(images, labels))
        return {"loss": bits_per_dim(-log_prob.mean(), self.image_shape)}

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Exact log likelihood of images (N, C, H, W) given their labels, in nats (N,), under averaged weights.

        It is computed in full precision, in parts small enough for the memory that 256 logits per value take.
        """
        self._check_levels(images)
        size = max(1, MAX_VALUES // math.prod(self.image_shape))
        log_likelihoods = []
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, len(images), size):
                part = images[start : start + size]
                part_labels = None if labels is None else labels[start : start + size]
                log_likelihoods.append(self.distribution.log_prob(part, self.ema.module(part, part_labels)))
        return torch.cat(log_likelihoods)

    def sampling_protocol(self) -> dict[str, Any]:
        """Name the sampler; every value takes one evaluation of one position, together they cost about one pass."""
        return {"sampler": "ancestral", "num_function_evaluations": math.prod(self.image_shape)}

    def draw(self, seeds: range, labels: Tensor | None, temperature: float = 1.0) -> Tensor:
        """Draw pixel after pixel; a `temperature` below 1 sharpens every distribution."""
        return self._draw(self._uniforms(seeds), self.sample_labels(seeds, labels), temperature)

    @torch.no_grad()
    def complete(
        self, images: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Images (N, C, H, W) with their pixels kept where the boolean `known` (N, 1, H, W) is set, the others drawn.

        A drawn pixel follows the known ones before it in raster order, not those after it. Image i is drawn from
        `seed + i`.

        Raises:
            ValueError: images of another shape or with values between the levels, or nothing to complete.

        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be {self.image_shape}, got {tuple(images.shape[1:])}")
        if known.shape != (len(images), 1, *self.image_shape[1:]) or known.dtype != torch.bool:
            raise ValueError(f"known must be boolean {(len(images), 1, *self.image_shape[1:])}, got {known.shape}")
        if known.all():
            raise ValueError("known leaves no pixel to complete")
        self._check_levels(images[known.expand_as(images)])
        self.ema.eval()
        seeds = range(seed, seed + len(images))
        with torch.autocast(images.device.type, enabled=False):
            labels = self.sample_labels(seeds, labels)
            return self._draw(self._uniforms(seeds), labels, temperature, images, known)

    def _uniforms(self, seeds: range) -> Tensor:
        """The random numbers (N, G, U, H, W) of images."""
        per_group = self.distribution.num_uniforms(self.image_shape[0])
        return self.uniforms(seeds, (self.num_groups, per_group, *self.image_shape[1:]))

    def _draw(
        self,
        uniforms: Tensor,
        labels: Tensor | None,
        temperature: float,
        given: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        size = self.image_shape[0] // self.num_groups
        images = uniforms.new_empty(len(uniforms), *self.image_shape)
        # a place is one pixel (row, col), or several whose rows and columns are tensors (K,)
        pixels, numbers = images.permute(0, 2, 3, 1), uniforms.permute(0, 3, 4, 1, 2)
        with torch.inference_mode():  # many tiny operations, whose bookkeeping counts
            cache = self.ema.module.start(len(uniforms), labels)  # type: ignore[operator]
            # the bar appears after a second, and only at a terminal
            for row, col in tqdm(cache.places, desc="sampling", leave=False, delay=1.0, disable=None):
                for group in range(self.num_groups):
                    channels = slice(group * size, (group + 1) * size)
                    parameters = cache.parameters(row, col, group)
                    values = self.distribution.draw(parameters, numbers[:, row, col, group], temperature)
                    if known is not None and given is not None:
                        is_known, old = (part.permute(0, 2, 3, 1)[:, row, col] for part in (known, given))
                        values = torch.where(is_known, old[..., channels], values)
                    cache.write(row, col, group, values)
                    pixels[:, row, col, channels] = values.to(pixels.dtype)
        return images

    def _check_levels(self, images: Tensor) -> None:
        num_levels = self.distribution.num_levels
        distance = (images - from_levels(levels(images, num_levels), num_levels)).abs()
        if images.numel() and not (images.abs().max() <= 1 and distance.max() < 0.01 / num_levels):
            raise ValueError(
                f"pixels must lie at one of {num_levels} levels in [-1, 1], but some lie between or outside"
            )
