"""A classifier that learns in seconds from few images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn


class ConvolutionalClassifier(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to logits (N, num_classes).

    Convolutions, each with batch normalisation and a maximum over 2x2 places, down to less than 4 pixels; images of 16
    pixels and more are first folded 2x2 into channels. Each halving doubles the width.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: PositiveInt, width: PositiveInt, dropout: NonNegativeFloat = 0.0
    ) -> None:
        super().__init__()
        channels, height, columns = image_shape
        patch_size = 2 if min(height, columns) >= 16 else 1
        if height % patch_size or columns % patch_size:
            raise ValueError(f"ConvolutionalClassifier folds images 2x2: {height}x{columns} must be even")
        channels, height, columns = channels * patch_size**2, height // patch_size, columns // patch_size
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch_size)]
        while min(height, columns) >= 4:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels, width, height, columns = width, 2 * width, height // 2, columns // 2
        head = nn.Linear(channels * height * columns, num_classes)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]
