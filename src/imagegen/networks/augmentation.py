"""Random changes of pictures through which gradients flow: a discriminator that sees only changed ones cannot memorise.

Zhao et al. 2020 (arXiv:2006.10738): the same kinds of change for real and generated pictures, so that the generator
learns to draw unchanged ones.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn


class DiffAugment(nn.Module):
    """Change each of the images (N, C, H, W) with a probability: colours, then position, then a missing square.

    `color` scales brightness, contrast and saturation changes (1 as in the paper, 0 for none); `shift` and `cutout`
    are shares of the picture's side. With a `target` the probability is adapted to it (Karras et al. 2020,
    arXiv:2006.06676): it rises while the discriminator tells more pairs of real and generated images apart.
    """

    ADAPTATION = 500_000  # images in which an adaptive probability can go from 0 to 1

    def __init__(
        self,
        color: NonNegativeFloat = 1.0,
        shift: NonNegativeFloat = 0.125,
        cutout: NonNegativeFloat = 0.5,
        probability: NonNegativeFloat = 1.0,
        target: NonNegativeFloat | None = None,
    ) -> None:
        super().__init__()
        if max(shift, cutout, probability, target or 0) > 1:
            raise ValueError("shift, cutout, probability and target of an augmentation are shares, at most 1")
        self.color = color
        self.shift = shift
        self.cutout = cutout
        self.target = target
        self.probability: Tensor
        self.register_buffer("probability", torch.tensor(float(probability)))

    def forward(self, images: Tensor) -> Tensor:
        changed = images
        if self.color:
            changed = self._recolor(changed)
        if self.shift:
            changed = self._move(changed)
        if self.cutout:
            changed = self._cut(changed)
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.probability
        return torch.where(chosen, changed, images)

    @torch.no_grad()
    def adapt(self, accuracy: Tensor, num_images: int) -> None:
        """Move an adaptive probability after a step of `num_images` with this share of pairs told apart."""
        if self.target is not None:
            step = torch.sign(accuracy - self.target) * num_images / self.ADAPTATION
            self.probability.add_(step).clamp_(0, 1)

    def _recolor(self, images: Tensor) -> Tensor:
        brightness, saturation, contrast = (2 * self._random(images, 3) - 1) * self.color
        images = images + 0.5 * brightness
        if images.shape[1] > 1:
            grey = images.mean(1, keepdim=True)
            images = torch.lerp(grey, images, (1 + saturation).clamp(min=0).to(images.dtype))
        mean = images.mean((1, 2, 3), keepdim=True)
        return torch.lerp(mean, images, (1 + 0.5 * contrast).clamp(min=0).to(images.dtype))

    def _move(self, images: Tensor) -> Tensor:
        """Move each image by up to `shift` of its sides; what comes in is grey."""
        num, channels, height, width = images.shape
        down, right = (self._offset(images, round(self.shift * side)) for side in (height, width))
        rows = torch.arange(height, device=images.device)[None] + down + 1  # (N, H), 0 and H + 1 lie outside
        columns = torch.arange(width, device=images.device)[None] + right + 1
        padded = nn.functional.pad(images, (1, 1, 1, 1))
        rows, columns = rows.clamp(0, height + 1), columns.clamp(0, width + 1)
        which = torch.arange(num, device=images.device)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]]  # (N, H, W, C)
        return moved.permute(0, 3, 1, 2)

    def _cut(self, images: Tensor) -> Tensor:
        """Make a square of `cutout` of the sides grey, around a point anywhere in the picture."""
        height, width = images.shape[2:]
        y, x = self._random(images, 2)[:, :, 0, 0, 0]  # (2, N)
        rows = torch.arange(height, device=images.device)[None] - (y * height).floor()[:, None]
        columns = torch.arange(width, device=images.device)[None] - (x * width).floor()[:, None]
        is_row, is_column = (rows.abs() < self.cutout * height / 2), (columns.abs() < self.cutout * width / 2)
        return images.masked_fill((is_row[:, :, None] & is_column[:, None])[:, None], 0.0)

    @staticmethod
    def _random(images: Tensor, count: int) -> Tensor:
        return torch.rand(count, len(images), 1, 1, 1, device=images.device)

    @staticmethod
    def _offset(images: Tensor, most: int) -> Tensor:
        return torch.randint(-most, most + 1, (len(images), 1), device=images.device)
