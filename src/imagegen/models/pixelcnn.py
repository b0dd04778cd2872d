"""PixelCNN: an autoregressive model of 8-bit pixels with an exact likelihood."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from imagegen.models.base import GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.likelihoods import bits_per_dim, categorical_log_prob, levels

MAX_VALUES = 2**15  # whose logits take 32 MiB


class PixelCNN(GenerativeModel):
    """van den Oord et al. 2016 (arXiv:1601.06759): a categorical distribution of each grey level given those before.

    The network maps images (N, C, H, W) and labels (N,) to logits (N, 256, C, H, W); its `start(num_images, labels)`
    opens a cache that yields the logits of one pixel and channel after the other.
    """

    likelihood_kind = "exact"

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.num_classes = num_classes

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Negative log likelihood in bits per dimension."""
        logits = self.network(images, labels).permute(0, 3, 4, 2, 1)  # (N, H, W, C, 256), as they lie in memory
        targets = levels(images).permute(0, 2, 3, 1)
        # Under bf16 autocast the logits stay in bf16 here: in fp32 this line would be half the cost of a step.
        with torch.autocast(images.device.type, enabled=False):
            nll = F.cross_entropy(logits.flatten(0, 3), targets.flatten(), reduction="none")
        return {"loss": bits_per_dim(nll.float().sum() / len(images), self.image_shape)}

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Exact log likelihood of images (N, C, H, W) given their labels, in nats (N,), under averaged weights.

        It is computed in full precision, in parts small enough for the memory that 256 logits per value take.
        """
        size = max(1, MAX_VALUES // math.prod(self.image_shape))
        log_likelihoods = []
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, len(images), size):
                part = images[start : start + size]
                part_labels = None if labels is None else labels[start : start + size]
                log_likelihoods.append(categorical_log_prob(part, self.ema.module(part, part_labels)))
        return torch.cat(log_likelihoods)

    def sampling_protocol(self) -> dict[str, Any]:
        """Name the sampler; every value takes one evaluation of one position, together they cost about one pass."""
        return {"sampler": "ancestral", "num_function_evaluations": math.prod(self.image_shape)}

    def draw(self, seeds: range, labels: Tensor | None, temperature: float = 1.0) -> Tensor:
        """Draw pixel after pixel; a `temperature` below 1 sharpens every distribution."""
        return self._draw(self.uniforms(seeds, self.image_shape), self.sample_labels(seeds, labels), temperature)

    @torch.no_grad()
    def complete(
        self, images: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Images (N, C, H, W) with their pixels kept where the boolean `known` (N, 1, H, W) is set, the others drawn.

        A drawn pixel follows the known ones before it in raster order, not those after it. Image i is drawn from
        `seed + i`.
        """
        self.ema.eval()
        seeds = range(seed, seed + len(images))
        uniforms = self.uniforms(seeds, self.image_shape)
        with torch.autocast(images.device.type, enabled=False):
            return self._draw(uniforms, self.sample_labels(seeds, labels), temperature, images, known)

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
        channels, height, width = self.image_shape
        cache = self.ema.module.start(len(uniforms), labels)  # type: ignore[operator]
        images = torch.empty_like(uniforms)
        steps = list(itertools.product(range(height), range(width), range(channels)))
        # the bar appears after a second, and only at a terminal
        for row, col, channel in tqdm(steps, desc="sampling", leave=False, delay=1.0, disable=None):
            logits = cache.logits(row, col, channel) / temperature
            values = inverse_cdf(logits, uniforms[:, channel, row, col]) / 127.5 - 1
            if known is not None and given is not None:
                values = torch.where(known[:, 0, row, col], given[:, channel, row, col], values)
            cache.write(row, col, channel, values)
            images[:, channel, row, col] = values
        return images


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Levels (N,) at which the cumulative distributions of logits (N, L) reach uniforms (N,) in [0, 1)."""
    cumulative = logits.softmax(dim=1).cumsum(dim=1)
    thresholds = uniforms[:, None] * cumulative[:, -1:]  # never above the last one, whatever its rounding
    return torch.searchsorted(cumulative, thresholds)[:, 0]
