"""Against torchmetrics and the definition."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from imagegen.metrics.frechet import Identity
from imagegen.metrics.kernel import KernelDistance


def kid(real: torch.Tensor, fake: torch.Tensor, block_size: int = 1000) -> dict[str, float]:
    metric = KernelDistance(block_size=block_size)
    metric.update(real, real=True)
    for batch in fake.split(30):
        metric.update(batch, real=False)
    return dict(metric.compute())


@pytest.mark.parametrize("block_size", [7, 1000])
def test_agrees_with_torchmetrics_where_its_subset_is_everything(block_size: int) -> None:
    real, fake = torch.randn(90, 12), 0.3 + torch.randn(90, 12)
    theirs = KernelInceptionDistance(Identity(12), subsets=1, subset_size=90)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert kid(real, fake, block_size)["kid"] == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_is_unbiased() -> None:
    values = torch.tensor([kid(torch.randn(40, 3), torch.randn(30, 3))["kid"] for _ in range(300)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 300**0.5


def test_the_error_is_the_spread_over_repeated_draws() -> None:
    real = torch.randn(2000, 3)
    found = [kid(real, 0.5 + torch.randn(200, 3)) for _ in range(60)]
    spread = float(torch.tensor([values["kid"] for values in found]).std())
    assert sum(values["kid_se"] for values in found) / 60 == pytest.approx(spread, rel=0.3)


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kid(torch.randn(5, 3), torch.randn(1, 3))
