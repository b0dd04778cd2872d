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

    uint8 rows are pixels: their distance is the root of the mean squared difference, on the scale 0..1. Exact: most of
    the others are ruled out by a lower bound of their distance, what is left is compared in all dimensions.
    """
    unit = 1 / rows[0].numel() ** 0.5 if rows.dtype == torch.uint8 else 1.0
    if rows[0].numel() <= _LowerBound.NUM_DIRECTIONS:
        squared, indices = _nearest_of_all(_vectors(rows), others)
        return squared.sqrt() * unit, indices
    bound = _LowerBound(others)
    short_others = torch.cat([bound.shortened(part) for part in torch.split(others, block_size)])
    other_squares = short_others.square().sum(1)
    found = []
    for block in torch.split(rows, max(1, min(block_size, MOST_BOUNDS // len(others)))):
        full, short = _vectors(block), bound.shortened(block)
        squares = short.square().sum(1)
        # the bound squared, less `squares`, which is the same for all of the others
        bounds = torch.addmm(other_squares[None], short, short_others.T, alpha=-2)
        candidates = bounds.argmin(1)
        distances = (full - _vectors(others[candidates])).square().sum(1)
        rounding = 3e-5 * (squares + distances)
        is_left = bounds <= (distances - squares + rounding)[:, None]
        if int(is_left.count_nonzero()) > MOST_LEFT * is_left.numel():
            found.append(_nearest_of_all(full, others))
        else:
            found.append(_nearest_of_pairs(full, others, *is_left.nonzero().T))
    squared, indices = (torch.cat(part) for part in zip(*found, strict=True))
    return squared.sqrt() * unit, indices


MOST_BOUNDS = 2**25  # at a time: 128 MiB
MOST_LEFT = 0.01  # the share that is not ruled out from which on comparing all is faster


def _vectors(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat.float() / 255 if rows.dtype == torch.uint8 else flat.float()


class _LowerBound:
    """Shortens vectors so that distances never grow: main directions of some rows, and the length of what they leave.

    By the triangle inequality the difference of two such lengths is at most the distance of what was left.
    """

    NUM_DIRECTIONS = 96

    def __init__(self, rows: Tensor) -> None:
        some = _vectors(rows[:: max(1, len(rows) // 2000)])
        self.centre = some.mean(0)
        some = some - self.centre
        generator = torch.Generator(some.device).manual_seed(0)
        start = torch.randn(some.shape[1], self.NUM_DIRECTIONS, device=some.device, generator=generator)
        # Power iterations; how near they come to the main directions decides how fast the search is, not how right.
        self.directions = torch.linalg.qr(some.T @ (some @ (some.T @ (some @ start)))).Q

    def shortened(self, rows: Tensor) -> Tensor:
        """Vectors (N, NUM_DIRECTIONS + 1) in place of rows (N, ...)."""
        vectors = _vectors(rows) - self.centre
        along = vectors @ self.directions
        rest = vectors.square().sum(1) - along.square().sum(1)
        return torch.cat([along, rest.clamp(min=0).sqrt()[:, None]], 1)


def _nearest_of_pairs(full: Tensor, others: Tensor, row: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance and index of the nearest for each of the vectors (B, D), of pairs (P,) of row and other."""
    parts = zip(torch.split(row, 5000), torch.split(other, 5000), strict=True)
    each = torch.cat([(full[rows] - _vectors(others[at])).square().sum(1) for rows, at in parts])
    squared = each.new_full((len(full),), torch.inf).scatter_reduce(0, row, each, "amin")
    is_nearest = each == squared[row]
    last = other.new_full((len(full),), len(others))
    return squared, last.scatter_reduce(0, row[is_nearest], other[is_nearest], "amin")


def _nearest_of_all(full: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The same, by the products of all vectors."""
    centre = _vectors(others[:1000]).mean(0)  # small numbers lose fewer digits in the differences of squares
    best = full.new_full((len(full),), torch.inf)
    indices = torch.zeros(len(full), dtype=torch.long, device=full.device)
    for first in range(0, len(others), 10_000):
        part = _vectors(others[first : first + 10_000]) - centre
        squares = part.square().sum(1)
        for start in range(0, len(full), 500):
            rows = slice(start, start + 500)
            score, at = torch.addmm(squares[None], full[rows] - centre, part.T, alpha=-2).min(1)
            closer = score < best[rows]
            best[rows] = torch.where(closer, score, best[rows])
            indices[rows] = torch.where(closer, at + first, indices[rows])
    return (full - _vectors(others[indices])).square().sum(1), indices


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
