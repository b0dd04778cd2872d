"""Networks that grow with their pictures: Karras et al. 2018 (arXiv:1710.10196).

Their `level` says how far: at 0 they draw and judge pictures of the smallest size, at 1 pictures of twice that size,
and so on; at 0.3 the pictures have the size of level 1, and its layers count for 0.3 beside the enlarged pictures of
level 0. A GAN sets the level of its networks as training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.convolutional import sizes
from imagegen.networks.mlp import given, with_labels

FULL_GAIN, LAST_GAIN = math.sqrt(2), 1.0  # of He et al. 2015 before a rectifier, and of a layer without one


class EqualizedConv2d(nn.Conv2d):
    """A convolution with weights from N(0, 1), divided by He's constant whenever used: one learning rate fits all."""

    def __init__(self, before: int, after: int, kernel_size: int, gain: float = FULL_GAIN) -> None:
        super().__init__(before, after, kernel_size, padding=kernel_size // 2)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.scale = gain / math.sqrt(before * kernel_size**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualizedLinear(nn.Linear):
    """As `EqualizedConv2d`, for vectors."""

    def __init__(self, before: int, after: int, gain: float = FULL_GAIN) -> None:
        super().__init__(before, after)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = gain / math.sqrt(before)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def pixel_norm(x: Tensor) -> Tensor:
    """Vectors over the channels of (N, C, ...) brought to the length sqrt(C)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def minibatch_std(x: Tensor) -> Tensor:
    """(N, C, H, W) with one more channel: the deviation over the batch, averaged over channels and pixels."""
    deviation = (x.float().var(0, correction=0) + 1e-8).sqrt().mean().to(x.dtype)
    return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)


class Progressive(nn.Module):
    """A network with a `level`, which its `state_dict` holds beside the weights."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.sizes = sizes(image_shape)
        self.level = float(len(self.sizes) - 1)

    @property
    def num_levels(self) -> int:
        """Levels from 0 to `num_levels - 1`, where pictures have their full size."""
        return len(self.sizes)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.level, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        self.level = float(state)


def widths(width: int, num_levels: int) -> list[int]:
    """Channels of each level: `width` at full size, twice as many at each smaller one."""
    return [width * 2 ** (num_levels - 1 - i) for i in range(num_levels)]


class ProgressiveGenerator(Progressive):
    """Latents (N, latent_dim) and labels (N,) to images (N, C, h, w) of the size of the level, not bounded to (-1, 1).

    Each level doubles the size and adds two convolutions; vectors over the channels are normalised at each pixel.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 32,
    ) -> None:
        super().__init__(image_shape)
        channels = widths(width, self.num_levels)
        height, breadth = self.sizes[0]
        self.num_classes = num_classes
        # The one-hot label is short beside the latent: as long as it, it made training forget the latent.
        # As the paper's first layer, a gain of sqrt(2)/4: latents of length sqrt(D) enter a wide layer.
        self.project = EqualizedLinear(latent_dim + (num_classes or 0), channels[0] * height * breadth, FULL_GAIN / 4)
        self.first = EqualizedConv2d(channels[0], channels[0], 3)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualizedConv2d(before, after, 3), EqualizedConv2d(after, after, 3)])
            for before, after in zip(channels[:-1], channels[1:], strict=True)
        )
        self.to_image = nn.ModuleList(EqualizedConv2d(n, image_shape[0], 1, LAST_GAIN) for n in channels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.project(with_labels(pixel_norm(latents), labels, self.num_classes))
        x = x.view(len(latents), -1, *self.sizes[0]).contiguous(memory_format=torch.channels_last)
        x = self._activate(self.first(self._activate(x)))
        whole, share = math.floor(self.level), self.level % 1
        for block in self.blocks[:whole]:
            x = self._grow(x, block)
        if not share:
            return self.to_image[whole](x)  # type: ignore[no-any-return]
        return torch.lerp(
            F.interpolate(self.to_image[whole](x), scale_factor=2.0, mode="nearest").float(),
            self.to_image[whole + 1](self._grow(x, self.blocks[whole])).float(),
            share,
        )

    def _grow(self, x: Tensor, block: nn.Module) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        for convolution in block:  # type: ignore[attr-defined]
            x = self._activate(convolution(x))
        return x

    @staticmethod
    def _activate(x: Tensor) -> Tensor:
        return pixel_norm(F.leaky_relu(x, 0.2))


class ProgressiveDiscriminator(Progressive):
    """Images (N, C, h, w) of the size of the level and labels (N,) to logits (N,): the generator backwards.

    The deviation over the batch is a channel of the smallest size, so that a lack of variety can be seen.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: PositiveInt | None = None, width: PositiveInt = 32
    ) -> None:
        super().__init__(image_shape)
        channels = widths(width, self.num_levels)
        height, breadth = self.sizes[0]
        self.num_classes = num_classes
        self.from_image = nn.ModuleList(EqualizedConv2d(image_shape[0], n, 1) for n in channels)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualizedConv2d(before, before, 3), EqualizedConv2d(before, after, 3)])
            for after, before in zip(channels[:-1], channels[1:], strict=True)
        )
        self.last = EqualizedConv2d(channels[0] + 1, channels[0], 3)
        self.dense = EqualizedLinear(channels[0] * height * breadth, channels[0])
        self.head = EqualizedLinear(channels[0], num_classes or 1, LAST_GAIN)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        whole, share = math.floor(self.level), self.level % 1
        top = math.ceil(self.level)
        x = self._enter(images, top)
        if share:
            shrunk = self._enter(F.avg_pool2d(images, 2), whole)
            x = torch.lerp(shrunk, self._shrink(x, self.blocks[whole]), share)
        for block in reversed(self.blocks[:whole]):
            x = self._shrink(x, block)
        x = F.leaky_relu(self.last(minibatch_std(x)), 0.2)
        logits: Tensor = self.head(F.leaky_relu(self.dense(x.flatten(1)), 0.2))  # (N, num_classes or 1)
        if self.num_classes is None:
            return logits[:, 0]
        return logits.gather(1, given(labels)[:, None])[:, 0]

    def _enter(self, images: Tensor, level: int) -> Tensor:
        x: Tensor = F.leaky_relu(self.from_image[level](images), 0.2)
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def _shrink(x: Tensor, block: nn.Module) -> Tensor:
        for convolution in block:  # type: ignore[attr-defined]
            x = F.leaky_relu(convolution(x), 0.2)
        return F.avg_pool2d(x, 2)
