"""Pixels that are independent and standard normal: the best denoiser and what an observation adds to it are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import EDM, Cosine, NoiseSchedule, StraightPath
from imagegen.objectives.observations import Blurred, Conditioned, Known, Observation, Shrunk
from imagegen.objectives.samplers import Denoiser, ancestral, heun
from imagegen.objectives.time_grids import uniform

SHAPE, NOISE = (1, 1, 4, 4), 0.1
KNOWN = torch.arange(16).view(1, 1, 4, 4) % 3 == 0
OBSERVATIONS: list[Observation] = [Known(KNOWN), Shrunk(2), Blurred(0.8)]
every_observation = pytest.mark.parametrize("observation", OBSERVATIONS, ids=lambda x: type(x).__name__)


def matrix(observation: Observation) -> Tensor:
    """A, column by column."""
    units = torch.eye(16, dtype=torch.float64).view(16, *SHAPE[1:])
    return torch.cat([observation(unit[None]).flatten(1) for unit in units]).T


@every_observation
def test_the_correction_is_that_of_the_matrix(observation: Observation) -> None:
    a, variance = matrix(observation), torch.tensor(0.3, dtype=torch.float64)
    difference = observation(torch.randn(SHAPE, dtype=torch.float64))
    inner = variance * a @ a.T + NOISE**2 * torch.eye(len(a)).double()
    expected = a.T @ torch.linalg.solve(inner, difference.flatten())
    found = observation.correction(difference, variance, NOISE**2)
    torch.testing.assert_close(found.flatten(), expected)


@every_observation
@pytest.mark.parametrize("schedule", [StraightPath(), Cosine(), EDM()], ids=["straight", "cosine", "edm"])
def test_the_denoiser_knows_what_was_observed(observation: Observation, schedule: NoiseSchedule) -> None:
    """E[images | x_t, y], by the rules of conditioned Gaussians, from the precision of both."""
    a, t = matrix(observation), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x, y = torch.randn(SHAPE, dtype=torch.float64), observation(torch.randn(SHAPE, dtype=torch.float64))
    precision = (1 + (alpha / sigma) ** 2) * torch.eye(16).double() + a.T @ a / NOISE**2
    expected = torch.linalg.solve(precision, alpha / sigma**2 * x.flatten() + a.T @ y.flatten() / NOISE**2)
    found = Conditioned(standard_normal(schedule), observation, y, NOISE, schedule)(x, t)
    torch.testing.assert_close(found.flatten(), expected)
    assert not found.requires_grad


def test_sampling_with_it_draws_the_posterior() -> None:
    schedule, observation = StraightPath(), Known(KNOWN)
    y = observation(torch.full(SHAPE, 0.7))
    denoiser = Conditioned(standard_normal(schedule), observation, y, NOISE, schedule)
    samples = heun(denoiser, torch.randn(4000, *SHAPE[1:]), uniform(40).float(), schedule, lambda step: y)
    known, unknown = samples[:, KNOWN[0]], samples[:, ~KNOWN[0]]
    assert known.mean().item() == pytest.approx(0.7 / (1 + NOISE**2), abs=0.02)
    assert known.std().item() < 0.15
    assert unknown.mean().item() == pytest.approx(0, abs=0.02)
    assert unknown.std().item() == pytest.approx(1, abs=0.03)


class StandardNormal:
    """The best denoiser of independent standard normal pixels, which also says variances."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return standard_normal(Cosine())(x, t)

    def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        return self(x, t), 0 * x + 0.25


def test_the_share_of_the_variance_is_that_of_the_network() -> None:
    y = Known(KNOWN)(torch.full(SHAPE, 0.7))
    given = Conditioned(StandardNormal(), Known(KNOWN), y, NOISE, Cosine())
    x, t = torch.randn(SHAPE), torch.tensor(0.4)
    denoised, share = given.with_variance_share(x, t)
    torch.testing.assert_close(denoised, given(x, t))
    assert share is not None
    assert share.eq(0.25).all()
    assert not share.requires_grad
    start = torch.randn(500, *SHAPE[1:])
    samples = ancestral(given, start, uniform(30).float(), Cosine(), lambda step: torch.randn_like(start), None)
    assert (samples[:, KNOWN[0]] - 0.7).abs().mean() < 0.1


def test_a_blur_keeps_the_mean_and_shrinks_detail() -> None:
    images = torch.randn(2, 3, 8, 6)
    blurred = Blurred(1.0)(images)
    torch.testing.assert_close(blurred.mean((2, 3)), images.mean((2, 3)))
    assert blurred.std() < 0.5 * images.std()
    torch.testing.assert_close(Blurred(0.0)(images), images)


def standard_normal(schedule: NoiseSchedule) -> Denoiser:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * x / (alpha**2 + sigma**2)

    return denoise
