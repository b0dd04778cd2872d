"""Against closed forms, scipy and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from imagegen.metrics.frechet import (
    FrechetDistance,
    Identity,
    covariance_factor,
    frechet_distance,
    frechet_standard_error,
    jackknife_error,
    mean_and_covariance,
)


def covariance(dim: int, rank: int, seed: int) -> Tensor:
    rows = torch.randn(dim, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows @ rows.T


def correlated(num: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + seed


def distance(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    return float(frechet_distance(mean, covariance_factor(cov), other_mean, other_cov))


def test_gaussians_on_a_line() -> None:
    mean, var, other_mean, other_var = (torch.tensor([x], dtype=torch.float64) for x in (1.0, 4.0, 3.0, 9.0))
    # (1 - 3)^2 + (2 - 3)^2
    assert distance(mean, var[None], other_mean, other_var[None]) == pytest.approx(5.0, rel=1e-12)


def test_covariances_that_commute() -> None:
    values, others = torch.rand(2, 7, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    zero = torch.zeros(7, dtype=torch.float64)
    expected = float((values.sqrt() - others.sqrt()).square().sum())
    found = distance(zero, basis * values @ basis.T, zero, basis * others @ basis.T)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("rank", "other_rank"), [(20, 20), (5, 20), (20, 5), (5, 5), (1, 20)])
def test_agrees_with_scipy_whatever_the_ranks(rank: int, other_rank: int) -> None:
    cov, other = covariance(20, rank, 1), covariance(20, other_rank, 2)
    mean, other_mean = torch.randn(2, 20, dtype=torch.float64)
    # scipy needs a little help where the product is singular
    root = scipy.linalg.sqrtm((cov @ other).numpy() + (1e-14 * np.eye(20) if min(rank, other_rank) < 20 else 0))
    expected = float((mean - other_mean).square().sum() + cov.trace() + other.trace()) - 2 * float(np.trace(root.real))
    relative = 1e-6 if min(rank, other_rank) == 20 else 1e-4
    assert distance(mean, cov, other_mean, other) == pytest.approx(expected, rel=relative)


def test_a_factor_has_the_rank_of_its_covariance() -> None:
    cov = covariance(20, 5, 3)
    factor = covariance_factor(cov)
    assert factor.shape == (20, 5)
    assert factor.equal(factor.tril())
    torch.testing.assert_close(factor @ factor.T, cov)


@pytest.mark.parametrize(("dim", "rank"), [(600, 600), (600, 300), (512, 512)])
def test_agrees_with_the_eigenvalues_of_the_plain_product_across_blocks(dim: int, rank: int) -> None:
    cov, other = covariance(dim, rank, 4), covariance(dim, dim, 5)
    zero = torch.zeros(dim, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0)
    expected = float(cov.trace() + other.trace() - 2 * eigenvalues.sqrt().sum())
    assert distance(zero, cov, zero, other) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dim", [3, 64])
def test_agrees_with_torchmetrics(dim: int) -> None:
    real, fake = correlated(400, dim, 1), correlated(300, dim, 2)
    ours, theirs = FrechetDistance(dim), FrechetInceptionDistance(Identity(dim))
    for metric in (ours, theirs):
        for batch in real.split(130):
            metric.update(batch, real=True)
        metric.update(fake, real=False)
    known = mean_and_covariance(real)
    with_reference = FrechetDistance(dim, reference=(known[0], covariance_factor(known[1])))
    with_reference.update(fake, real=False)
    # torchmetrics rounds its result to the float32 of the features
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert float(with_reference.compute()) == pytest.approx(float(ours.compute()), rel=1e-8)


def test_a_single_sample_is_refused() -> None:
    metric = FrechetDistance(3)
    metric.update(torch.randn(5, 3), real=True)
    metric.update(torch.randn(1, 3), real=False)
    with pytest.raises(RuntimeError, match="at least 2 fake samples"):
        metric.compute()


def test_the_jackknife_error_of_a_mean_is_the_textbook_one() -> None:
    rows = torch.randn(50, dtype=torch.float64)
    left_out = [float((rows.sum() - row) / 49) for row in rows]
    assert jackknife_error(left_out) == pytest.approx(float(rows.std() / 50**0.5), rel=1e-9)


def test_the_standard_error_is_the_spread_over_repeated_draws() -> None:
    mean, cov = torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    factor = covariance_factor(cov)
    draws = [1.0 + 0.5 * torch.randn(500, 4) for _ in range(60)]
    values = torch.tensor([float(frechet_distance(mean, factor, *mean_and_covariance(rows))) for rows in draws])
    errors = torch.tensor([frechet_standard_error(mean, factor, rows) for rows in draws])
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.3)


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_the_standard_error_does_not_depend_on_the_order_of_the_classes(order: str) -> None:
    """Groups that follow the classes would leave a whole class out, and find an error many times too large."""
    labels = torch.arange(1000) % 10
    labels = labels.sort().values if order == "sorted" else labels
    rows = 10 * torch.nn.functional.one_hot(labels, 10) + torch.randn(1000, 10)
    mean, cov = mean_and_covariance(rows)
    shuffled = rows[torch.randperm(1000)]
    errors = [frechet_standard_error(mean + 0.5, covariance_factor(cov), x) for x in (rows, shuffled)]
    assert errors[0] == pytest.approx(errors[1], rel=0.6)
