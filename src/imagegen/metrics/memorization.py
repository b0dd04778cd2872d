"""Whether samples are copies of training images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from imagegen.metrics.manifold import standard_error

CLOSE = 0.01  # the share of held-out images that counts as suspiciously close to the training images


def nearest(rows: Tensor, others: Tensor, block_size: int = 500) -> tuple[Tensor, Tensor]:
    """Distance (N,) and index (N,) of the nearest of the others (M, ...) to each of the rows (N, ...).

    uint8 rows are pixels: their distance is the root of the mean squared difference, on the scale 0..1.
    """
    distances = torch.full((len(rows),), torch.inf, device=rows.device)
    indices = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    space: _Levels | _Vectors = _Levels() if _has_int8_products(rows) else _Vectors(others)
    for first in range(0, len(others), 10_000):
        part = space.flat(others[first : first + 10_000])
        squares = space.squares(part)
        for start in range(0, len(rows), block_size):
            block = space.flat(rows[start : start + block_size])
            # the squared distance, less what is the same for all of the others
            score, at = torch.sub(squares[None], space.products(block, part), alpha=2).min(1)
            found = (score + space.squares(block)).clamp(min=0).sqrt() * space.unit(block)
            closer = found < distances[start : start + block_size]
            distances[start : start + block_size][closer] = found[closer]
            indices[start : start + block_size][closer] = at[closer] + first
    return distances, indices


def _has_int8_products(rows: Tensor) -> bool:
    # Where the processor has no instructions for them they take 16 times as long as float32.
    is_fast = torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return rows.dtype == torch.uint8 and rows.device.type == "cpu" and bool(is_fast)


class _Levels:
    """Pixels as whole numbers from -128 to 127, whose products are exact and take a quarter of the time of float32."""

    def flat(self, rows: Tensor) -> Tensor:
        return (rows.flatten(1) ^ 128).view(torch.int8)  # as two's complement: 128 less

    def products(self, rows: Tensor, others: Tensor) -> Tensor:
        return torch._int_mm(rows, others.T)

    def squares(self, rows: Tensor) -> Tensor:
        return rows.int().square().sum(1, dtype=torch.int32)

    def unit(self, rows: Tensor) -> float:
        return float(1 / (255 * rows.shape[1] ** 0.5))


class _Vectors:
    """Features, or pixels where there are no integer products: float32, about the mean of some of them."""

    def __init__(self, rows: Tensor) -> None:
        self.centre = self._scaled(rows[:1000]).mean(0)

    def flat(self, rows: Tensor) -> Tensor:
        return self._scaled(rows) - self.centre

    def products(self, rows: Tensor, others: Tensor) -> Tensor:
        return rows @ others.T

    def squares(self, rows: Tensor) -> Tensor:
        return rows.square().sum(1)

    def unit(self, rows: Tensor) -> float:
        return 1.0

    @staticmethod
    def _scaled(rows: Tensor) -> Tensor:
        flat = rows.flatten(1)
        return flat.float() / (255 * flat.shape[1] ** 0.5) if rows.dtype == torch.uint8 else flat.float()


class Memorization(Metric):
    """The share of samples that lie closer to a training image than all but 1 % of held-out real images do.

    An ideal generator has 0.01, one that draws the training images has 1. `reference` holds the training rows and
    `held_out` the distances (N,) of held-out rows to them, both of one space: pixels (uint8 images) or features.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    distances: list[Tensor]
    indices: list[Tensor]

    def __init__(self, reference: Tensor, held_out: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reference = reference
        self.threshold = torch.quantile(held_out.float(), CLOSE)
        self.add_state("distances", [], dist_reduce_fx="cat")
        self.add_state("indices", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Find the nearest training rows of samples: uint8 images (N, C, H, W) or features (N, D)."""
        distances, indices = nearest(rows, self.reference)
        self.distances.append(distances)
        self.indices.append(indices)

    def compute(self) -> dict[str, float]:
        """`copy_rate` and its standard error `copy_rate_se`."""
        distances = self.neighbours()[0]
        copies = distances <= self.threshold
        return {"copy_rate": float(copies.double().mean()), "copy_rate_se": standard_error(copies)}

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """Distance (N,) and index (N,) of the nearest training row of each sample so far."""
        return dim_zero_cat(self.distances), dim_zero_cat(self.indices)
