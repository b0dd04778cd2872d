"""How large the pictures of a growing GAN are, as training goes on (Karras et al. 2018, sec. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Growth:
    """From the smallest pictures to full size in the first `share` of the training.

    Each size is first trained alone and then faded into the next one, for equal parts of that share.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"growth.share must lie in (0, 1], got {self.share}")

    def level(self, progress: float, num_levels: int) -> float:
        """The level in [0, num_levels - 1] at this used share of the budget; a fraction says how far a fade-in is."""
        position = progress / self.share * (num_levels - 1)  # one unit for each size but the last
        if position >= num_levels - 1:
            return float(num_levels - 1)
        return int(position) + max(0.0, 2 * (position % 1) - 1)


def shrink(images: Tensor, level: float, num_levels: int) -> Tensor:
    """Images (N, C, H, W) as a generator of that level could draw them at best, (N, C, h, w).

    They are averaged to the size of the level; within a fade-in, mixed with what the level before can show.
    """
    above = num_levels - 1 - int(-(-level // 1))
    images = F.avg_pool2d(images, 2**above) if above else images
    share = level % 1
    if not share:
        return images
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="nearest")
    return torch.lerp(coarse, images, share)
