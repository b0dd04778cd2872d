"""Kernel distance (KID): an unbiased distance between two sets of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from imagegen.metrics.frechet import group_of_rows, jackknife_error


class KernelDistance(Metric):
    """Squared maximum mean discrepancy of features under the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, sec. 4).

    All pairs are used, so nothing is drawn at random and the estimate has the least variance there is; the public
    implementations average the same estimator over random subsets. Memory stays bounded by blocks of `block_size` rows.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, block_size: int = 1000, num_groups: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_size = block_size
        self.num_groups = num_groups
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Count features (N, D)."""
        (self.real if real else self.fake).append(features)

    def compute(self) -> dict[str, float]:
        """`kid` and its standard error `kid_se` over the generated features (ten-group jackknife)."""
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        if min(len(real), len(fake)) < 2:
            raise ValueError(f"KID needs at least 2 real and 2 generated samples, got {len(real)} and {len(fake)}")
        num_groups = min(self.num_groups, len(fake) // 2)
        group = group_of_rows(len(fake), max(num_groups, 1)).to(fake.device)
        real_mean = (self._sums(real, real).sum() - self._diagonal(real).sum()) / (len(real) * (len(real) - 1))
        to_real = self._sums(fake, real)
        member = torch.nn.functional.one_hot(group, max(num_groups, 1)).double()
        between = member.T @ self._sums(fake, fake, member)  # (G, G): kernel sums of each pair of groups
        to_real, diagonal = member.T @ to_real, member.T @ self._diagonal(fake)
        sizes = member.sum(0)

        def distance(kept: Tensor) -> float:
            count = float(sizes @ kept)
            within = kept @ between @ kept - diagonal @ kept
            return float(real_mean + within / (count * (count - 1)) - 2 * (to_real @ kept) / (count * len(real)))

        everything = torch.ones_like(sizes)
        left_out = [distance(everything - row) for row in torch.eye(len(sizes), dtype=sizes.dtype, device=sizes.device)]
        return {
            "kid": distance(everything),
            "kid_se": jackknife_error(left_out) if num_groups > 1 else float("nan"),
        }

    def _sums(self, rows: Tensor, others: Tensor, weights: Tensor | None = None) -> Tensor:
        """Kernel values of each row with all others, summed (N,), or summed by weights (M, G): (N, G); float64."""
        parts = []
        for block in torch.split(rows, self.block_size):
            part: Tensor | float = 0.0
            for start in range(0, len(others), 4 * self.block_size):
                kernel = (block @ others[start : start + 4 * self.block_size].T / rows.shape[1] + 1).pow_(3).double()
                part = part + (kernel.sum(1) if weights is None else kernel @ weights[start : start + kernel.shape[1]])
            parts.append(part)
        return torch.cat(parts)  # type: ignore[arg-type]

    @staticmethod
    def _diagonal(rows: Tensor) -> Tensor:
        return (rows.square().sum(1) / rows.shape[1] + 1).pow(3).double()
