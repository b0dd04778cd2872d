"""For Gaussian images the velocity field and its solution are known: x(0) = mean + std * x(1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import Cosine, NoiseSchedule, StraightPath
from imagegen.objectives.samplers import Velocity, euler, heun

MEAN, STD = 0.3, 0.4
Sampler = Callable[[Velocity, Tensor, Tensor], Tensor]
every_schedule = pytest.mark.parametrize(
    "schedule", [StraightPath(), Cosine()], ids=lambda schedule: type(schedule).__name__
)


def gaussian_velocity(schedule: NoiseSchedule) -> Velocity:
    """E[velocity | x_t] for images from N(MEAN, STD^2), by the rules of conditioned Gaussians."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        standardised = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        images = MEAN + alpha * STD**2 * standardised
        noise = sigma * standardised
        return schedule.velocity(images, noise, t)

    return velocity


def times(num_steps: int) -> Tensor:
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


@every_schedule
@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)], ids=["euler", "heun"])
def test_converges_to_the_exact_solution_with_its_order(sampler: Sampler, order: int, schedule: NoiseSchedule) -> None:
    noise = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    exact = MEAN + STD * noise
    steps = [32, 64, 128, 256]
    errors = [(sampler(gaussian_velocity(schedule), noise, times(num)) - exact).abs().max().item() for num in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.15)
    assert errors[-1] < {1: 2e-2, 2: 2e-4}[order]


@every_schedule
def test_samples_of_noise_have_the_distribution_of_the_images(schedule: NoiseSchedule) -> None:
    samples = heun(gaussian_velocity(schedule), torch.randn(20_000, 1, 1, 1, dtype=torch.float64), times(50))
    assert samples.mean().item() == pytest.approx(MEAN, abs=4 * STD / 20_000**0.5)
    assert samples.std().item() == pytest.approx(STD, rel=4 / (2 * 20_000) ** 0.5)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 18])
@pytest.mark.parametrize("sampler", [euler, heun])
def test_function_evaluations_are_counted_right(sampler: Sampler, num_steps: int) -> None:
    asked: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == ()
        asked.append(t.item())
        return -x

    sampler(velocity, torch.ones(2, 1, 2, 2, dtype=torch.float64), times(num_steps))
    assert len(asked) == sampler.evaluations(num_steps)  # type: ignore[attr-defined]
    assert asked[0] == 1.0
    assert min(asked) == pytest.approx(1 / num_steps), "the velocity at t=0 is not needed"


def test_heun_with_18_steps_costs_35() -> None:
    assert heun.evaluations(18) == 35  # type: ignore[attr-defined]


@pytest.mark.parametrize("sampler", [euler, heun])
def test_a_constant_velocity_is_solved_exactly_on_any_grid(sampler: Sampler) -> None:
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    grid = torch.tensor([1.0, 0.9, 0.35, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sampler(lambda x, t: torch.full_like(x, 2.0), x, grid), x - 2.0)


@pytest.mark.parametrize("sampler", [euler, heun])
def test_the_noise_is_left_as_it_was(sampler: Sampler) -> None:
    x = torch.randn(2, 1, 2, 2)
    before = x.clone()
    sampler(lambda x, t: x, x, torch.linspace(1, 0, 4))
    assert x.equal(before)
