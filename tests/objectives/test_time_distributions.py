from __future__ import annotations

import pytest
import scipy.stats
import torch

from imagegen.objectives.time_distributions import log_normal, logit_normal, uniform

CPU = torch.device("cpu")


@pytest.mark.parametrize("num", [1, 2, 7, 64])
def test_uniform_puts_one_time_in_each_interval(num: int) -> None:
    for _ in range(20):
        t = uniform(num, CPU)
        assert t.shape == (num,)
        assert (t * num).floor().long().sort().values.equal(torch.arange(num))


def test_uniform_is_uniform_for_every_row() -> None:
    draws = torch.stack([uniform(5, CPU) for _ in range(4000)])
    for row in range(5):
        assert scipy.stats.kstest(draws[:, row].numpy(), "uniform").pvalue > 1e-4


def test_uniform_has_less_variance_than_independent_times() -> None:
    means = torch.stack([uniform(16, CPU).mean() for _ in range(500)])
    # The mean of independent times has variance 1 / (12 * 16); one per interval, 1 / (12 * 16^3).
    assert means.var().item() == pytest.approx(1 / (12 * 16**3), rel=0.3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 1.6)])
def test_logit_normal_has_normal_logits(mean: float, std: float) -> None:
    t = logit_normal(20_000, CPU, mean, std)
    assert t.shape == (20_000,)
    assert ((t > 0) & (t < 1)).all()
    assert scipy.stats.kstest(torch.logit(t.double()).numpy(), "norm", args=(mean, std)).pvalue > 1e-4


def test_log_normal_has_normal_logarithms_of_noise_levels() -> None:
    t = log_normal(20_000, CPU, -1.2, 1.2, sigma_max=80.0)
    assert ((t > 0) & (t <= 1)).all()
    assert scipy.stats.kstest((80 * t.double()).log().numpy(), "norm", args=(-1.2, 1.2)).pvalue > 1e-4
    assert log_normal(100, CPU, mean=10.0).max() == 1


@pytest.mark.parametrize("distribution", [uniform, logit_normal, log_normal])
def test_no_two_draws_are_the_same_and_a_seed_repeats_them(distribution: object) -> None:
    assert callable(distribution)
    torch.manual_seed(3)
    first, second = distribution(8, CPU), distribution(8, CPU)
    torch.manual_seed(3)
    assert distribution(8, CPU).equal(first)
    assert not first.equal(second)
