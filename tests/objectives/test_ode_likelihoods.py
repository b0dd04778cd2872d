"""The density of Gaussian images is known, and so is that of a Gaussian with correlated pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import EDM, Cosine, NoiseSchedule, StraightPath
from imagegen.objectives.ode_likelihoods import log_density

SCHEDULES = [StraightPath(), Cosine(), EDM()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)


def rising(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    first = float(schedule.time(torch.tensor(1e-3, dtype=torch.float64))) ** (1 / 5)
    return torch.linspace(first, 1, num_steps + 1, dtype=torch.float64) ** 5


@every_schedule
def test_the_density_of_gaussian_images(schedule: NoiseSchedule) -> None:
    mean, std = 0.3, 0.4

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha = schedule.alpha(t)
        return mean + alpha * std**2 * (x - alpha * mean) / ((alpha * std) ** 2 + schedule.sigma(t) ** 2)

    images = mean + std * torch.randn(50, 1, 2, 2, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, std).log_prob(images).flatten(1).sum(1)
    signs = torch.randn_like(images).sign()
    found = log_density(denoiser, images, rising(schedule, 400), schedule, signs)
    # EDM: at sigma = 80 the mean of the images is not wholly gone
    torch.testing.assert_close(found, expected, atol=1e-3 if schedule != EDM() else 2e-2, rtol=0)


def test_random_signs_estimate_without_bias() -> None:
    schedule, factor = StraightPath(), torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
    covariance = factor @ factor.T

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2).double())
        return (x.flatten(1) @ gain.T).view_as(x)

    image = torch.tensor([0.4, -0.7], dtype=torch.float64).view(1, 1, 1, 2)
    expected = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(image.flatten())
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).view(4, 1, 1, 2)
    found = log_density(denoiser, image.repeat(4, 1, 1, 1), rising(schedule, 300), schedule, signs)
    assert found.mean().item() == pytest.approx(expected.item(), abs=2e-3)
    assert found.std() > 0.01
    assert math.isfinite(found.sum().item())
