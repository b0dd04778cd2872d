"""Precision, recall, density and coverage: how real the samples are, and how much of the real they reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def pairwise_distances(rows: Tensor, others: Tensor, block_size: int = 1000) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of blocks of rows (N, D) to all others (M, D): slices and matrices (block, M)."""
    centre = others.mean(0)  # small numbers lose fewer digits in the differences of squares
    others = others - centre
    squares = others.square().sum(1)
    for start in range(0, len(rows), block_size):
        block = rows[start : start + block_size] - centre
        squared = torch.addmm(squares[None], block, others.T, alpha=-2).add_(block.square().sum(1, keepdim=True))
        yield slice(start, start + len(block)), squared.clamp_(min=0).sqrt_()


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """The distance (N,) of each of the features (N, D) to its k-th nearest neighbour among the others."""
    radii = torch.empty(len(features), device=features.device, dtype=features.dtype)
    for rows, distances in pairwise_distances(features, features):
        at = torch.arange(rows.start, rows.stop, device=features.device)
        distances[at - rows.start, at] = 0.0  # itself, whatever the rounding
        radii[rows] = distances.topk(k + 1, dim=1, largest=False).values[:, k]
    return radii


class PrecisionRecall(Metric):
    """Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    All four with the k-th nearest neighbour as radius, k = 5 as in Naeem et al. Distances are computed in blocks: no
    matrix of all pairs is held. `real_radii` (M,) are those of the real features, where they are known already.
    """

    K = 5
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, k: int = K, real_radii: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k
        self.real_radii = real_radii
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Count features (N, D)."""
        (self.real if real else self.fake).append(features)

    def compute(self) -> dict[str, float]:
        """`precision`, `recall`, `density`, `coverage`, each with its standard error `<name>_se`."""
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        if min(len(real), len(fake)) <= self.k:
            raise ValueError(f"precision and recall need more than {self.k} samples, got {len(real)} and {len(fake)}")
        real_radii = neighbour_radii(real, self.k) if self.real_radii is None else self.real_radii
        fake_radii = neighbour_radii(fake, self.k)
        precise, dense = [], []
        recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
        covered = recalled.clone()
        for rows, distances in pairwise_distances(fake, real):
            inside = distances < real_radii
            counts = inside.sum(1, dtype=torch.int32)
            precise.append(counts > 0)
            dense.append(counts / self.k)
            covered |= _any_row(inside)
            recalled |= _any_row(distances < fake_radii[rows, None])
        values = {"precision": torch.cat(precise), "recall": recalled, "density": torch.cat(dense), "coverage": covered}
        return {
            key: float(number)
            for name, each in values.items()
            for key, number in ((name, each.double().mean()), (f"{name}_se", standard_error(each)))
        }


def _any_row(rows: Tensor) -> Tensor:
    return rows.view(torch.uint8).amax(0).bool()  # on a processor `any` takes ten times as long


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of values (N,)."""
    return float(values.double().std(unbiased=True)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
