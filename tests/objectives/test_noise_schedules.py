from __future__ import annotations

import math

import pytest
import torch

from imagegen.objectives.noise_schedules import EDM, Cosine, LinearBeta, NoiseSchedule, StraightPath

SCHEDULES = [StraightPath(), Cosine(), LinearBeta(), EDM()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)


def grid(num: int = 101) -> torch.Tensor:
    return torch.linspace(0, 1, num, dtype=torch.float64)


@every_schedule
def test_time_zero_is_data_and_time_one_is_noise(schedule: NoiseSchedule) -> None:
    images, noise = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.x_t(images, noise, ends[0]), images)
    # what is left of the images is no more than a hundredth, or nothing
    left = {StraightPath: 0.0, Cosine: 1e-12, LinearBeta: 7e-3, EDM: 1 / 80}[type(schedule)]
    assert (schedule.alpha(ends[1]) / schedule.sigma(ends[1])).item() <= left


@every_schedule
def test_the_time_of_a_noise_level(schedule: NoiseSchedule) -> None:
    t = grid()[:-1]
    torch.testing.assert_close(schedule.time(schedule.sigma(t) / schedule.alpha(t)), t)


def test_the_linear_schedule_is_that_of_ddpm() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0).sqrt()
    found = LinearBeta().alpha(grid(1001)[1:])
    torch.testing.assert_close(found, alphas, atol=2e-3, rtol=0)


@every_schedule
@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_derivatives_are_those_of_autograd(schedule: NoiseSchedule, name: str) -> None:
    t = grid()[1:].requires_grad_()  # sigma of LinearBeta begins like a square root
    [expected] = torch.autograd.grad((getattr(schedule, name)(t) + 0.0 * t).sum(), t)
    torch.testing.assert_close(getattr(schedule, f"{name}_derivative")(t.detach()), expected)


@every_schedule
def test_velocity_is_the_time_derivative_of_x_t(schedule: NoiseSchedule) -> None:
    images, noise = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    t, step = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64).reshape(3, 1, 1, 1), 1e-6
    slope = (schedule.x_t(images, noise, t + step) - schedule.x_t(images, noise, t - step)) / (2 * step)
    torch.testing.assert_close(schedule.velocity(images, noise, t), slope, atol=1e-7, rtol=1e-7)


@every_schedule
def test_marginals_of_gaussian_images(schedule: NoiseSchedule) -> None:
    mean, std, num = 0.4, 0.5, 200_000
    images = mean + std * torch.randn(num, dtype=torch.float64)
    noise = torch.randn_like(images)
    for t in grid(5):
        x_t = schedule.x_t(images, noise, t)
        variance = (schedule.alpha(t) * std) ** 2 + schedule.sigma(t) ** 2
        error = variance.sqrt().item() / math.sqrt(num)
        assert x_t.mean().item() == pytest.approx((schedule.alpha(t) * mean).item(), abs=4 * error)
        assert x_t.var().item() == pytest.approx(variance.item(), rel=4 * math.sqrt(2 / num))


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta()], ids=["cosine", "linear"])
def test_variance_is_preserved(schedule: NoiseSchedule) -> None:
    t = grid()
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))


def test_straight_path_has_a_constant_velocity() -> None:
    images, noise = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(StraightPath().velocity(images, noise, torch.tensor(t)), noise - images)


@every_schedule
def test_log_snr_falls_and_is_zero_where_both_weigh_the_same(schedule: NoiseSchedule) -> None:
    log_snr = schedule.log_snr(grid()[1:-1])
    assert (log_snr.diff() < 0).all()
    assert log_snr.isfinite().all()
    equal = schedule.time(torch.tensor(1.0, dtype=torch.float64))
    assert schedule.log_snr(equal).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("schedule", [StraightPath(), Cosine()], ids=["straight", "cosine"])
def test_log_snr_by_hand(schedule: NoiseSchedule) -> None:
    t = torch.tensor(0.25, dtype=torch.float64)
    expected = {StraightPath: 2 * math.log(3.0), Cosine: -2 * math.log(math.tan(math.pi / 8))}[type(schedule)]
    assert schedule.log_snr(t).item() == pytest.approx(expected)


@every_schedule
def test_a_batch_of_times_broadcasts_over_images(schedule: NoiseSchedule) -> None:
    images, noise, t = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.tensor([0.0, 0.2, 0.7, 1.0])
    together = schedule.x_t(images, noise, t[:, None, None, None])
    for i in range(4):
        torch.testing.assert_close(together[i], schedule.x_t(images[i], noise[i], t[i]))
