"""A small residual classifier whose pooled features describe an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualClassifier(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to logits (N, num_classes), by way of features (N, feature_dim).

    Two resolutions; images of 16 pixels and more are first folded 2x2 into channels, as in the U-Net.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt,
        width: PositiveInt,
        feature_dim: PositiveInt,
        dropout: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.width = width
        self.feature_dim = feature_dim
        self.patch_size = 2 if min(image_shape[1:]) >= 16 else 1
        height, width_pixels = image_shape[1:]
        if height % (2 * self.patch_size) or width_pixels % (2 * self.patch_size):
            folds = 2 * self.patch_size
            raise ValueError(f"ResidualClassifier halves images: {height}x{width_pixels} must divide by {folds}")
        widths = [width, 2 * width]
        self.stem = nn.Conv2d(image_shape[0] * self.patch_size**2, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList([_Block(widths[max(i - 1, 0)], w), _Block(w, w)]) for i, w in enumerate(widths)
        )
        self.to_features = nn.Linear(widths[-1], feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_dim, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        """Features (N, feature_dim)."""
        x = self.stem(F.pixel_unshuffle(images, self.patch_size))
        x = x.contiguous(memory_format=torch.channels_last)  # here: one channel alone has no order of its own
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = F.avg_pool2d(x, 2)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return F.silu(self.to_features(F.silu(x).mean((2, 3))))

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, num_classes) of features (N, feature_dim)."""
        return self.head(self.dropout(features))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))  # type: ignore[no-any-return]
