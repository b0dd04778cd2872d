"""Fréchet distance of two Gaussians, with a trace term that needs symmetric eigenvalues only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

BLOCK = 256  # columns


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D), in float64, of features (N, D), N >= 2."""
    rows = features.double()
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def covariance_factor(covariance: Tensor) -> Tensor:
    """Lower triangular C (D, R) with C @ C.T equal to a covariance (D, D) of rank R.

    A Cholesky factor, but without the directions of no variance, so that any covariance has one.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    factor: Tensor = torch.linalg.qr((vectors[:, kept] * values[kept].sqrt()).T).R.T
    return factor


def _lower_product(factor: Tensor, covariance: Tensor) -> Tensor:
    """The lower triangle of C.T @ S @ C (R, R) for a lower triangular C: a third of the work of the whole."""
    size = factor.shape[1]
    product = covariance.new_zeros(size, size)
    for start in range(0, size, BLOCK):
        columns = slice(start, start + BLOCK)
        product[start:, columns] = factor[start:, start:].T @ (covariance[start:, start:] @ factor[start:, columns])
    return product


def frechet_distance(mean: Tensor, factor: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Squared Fréchet distance between N(mean, factor @ factor.T) and N(other_mean, other_covariance).

    Heusel et al. 2017 (arXiv:1706.08500), eq. 6. The eigenvalues of S1 @ S2 are those of the symmetric C.T @ S2 @ C for
    S1 = C @ C.T, whatever the ranks: a several times cheaper problem than the non-symmetric one, and a factor of the
    reference (`covariance_factor`) serves again and again.
    """
    eigenvalues = torch.linalg.eigvalsh(_lower_product(factor, other_covariance), UPLO="L")
    trace_of_root = eigenvalues.clamp(min=0).sqrt().sum()
    distance: Tensor = (
        (mean - other_mean).square().sum() + factor.square().sum() + other_covariance.trace() - 2 * trace_of_root
    )
    return distance.clamp(min=0)  # rounding may leave a little less than nothing


class FrechetDistance(FrechetInceptionDistance):
    """torchmetrics' FID of features that are already extracted (N, D), with the trace term of `frechet_distance`.

    `reference` is the mean and the covariance factor of the real features, where they are known already; without it,
    both come from the real features given to `update`.
    """

    def __init__(self, feature_dim: int, reference: tuple[Tensor, Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(feature=Identity(feature_dim), **kwargs)
        self.reference = reference

    def compute(self) -> Tensor:
        """The distance, a float64 scalar."""
        if self.reference is None:
            mean, covariance = self._moments("real")
            return frechet_distance(mean, covariance_factor(covariance), *self._moments("fake"))
        return frechet_distance(*self.reference, *self._moments("fake"))

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        count = getattr(self, f"{kind}_features_num_samples")
        if count < 2:
            raise RuntimeError(f"FID needs at least 2 {kind} samples, got {int(count)}")
        mean = getattr(self, f"{kind}_features_sum") / count
        outer = getattr(self, f"{kind}_features_cov_sum")
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def group_of_rows(num_rows: int, num_groups: int) -> Tensor:
    """A group (N,) for each row, all of one size but for one row, by a fixed shuffle.

    Rows often come in an order, such as the ten classes in turn: neither every tenth row nor a run of rows will do.
    """
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(0)) % num_groups


def jackknife_groups(num_rows: int, num_groups: int = 10) -> list[Tensor]:
    """The rows that are left when one of the groups is left out: ten index tensors."""
    num_groups = min(num_groups, num_rows)
    group = group_of_rows(num_rows, num_groups)
    return [(group != left_out).nonzero().squeeze(1) for left_out in range(num_groups)]


def jackknife_error(values: list[float]) -> float:
    """Standard error of a statistic from its values with one of G equal groups left out (Efron & Stein 1981)."""
    left_out = torch.tensor(values, dtype=torch.float64)
    return float(((len(values) - 1) * (left_out - left_out.mean()).square().mean()).sqrt())


def frechet_standard_error(mean: Tensor, factor: Tensor, features: Tensor) -> float:
    """Standard error of the distance of generated features (N, D) from a reference: ten-group jackknife."""
    groups = jackknife_groups(len(features))
    values = [float(frechet_distance(mean, factor, *mean_and_covariance(features[rows]))) for rows in groups]
    return jackknife_error(values)


class Identity(nn.Identity):
    """A feature network for torchmetrics where features are at hand already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
