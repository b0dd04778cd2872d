from __future__ import annotations

import pytest
import torch

from imagegen.objectives.noise_schedules import EDM, Cosine, LinearBeta, NoiseSchedule, StraightPath
from imagegen.objectives.parameterizations import Data, Noise, Parameterization, Preconditioned, Velocity

KINDS = [Noise(), Data(), Velocity(), Preconditioned(sigma_data=0.6)]
SCHEDULES = [StraightPath(), Cosine(), LinearBeta(), EDM()]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)


def pair(num: int = 99) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    t = torch.linspace(0.01, 0.99, num, dtype=torch.float64).view(-1, 1, 1, 1)
    images = torch.randn(num, 2, 3, 3, dtype=torch.float64)
    return images, torch.randn_like(images), t


@every_kind
@every_schedule
def test_the_right_output_denoises_rightly(kind: Parameterization, schedule: NoiseSchedule) -> None:
    images, noise, t = pair()
    target = kind.target(images, noise, t, schedule)
    torch.testing.assert_close(kind.denoised(target, schedule.x_t(images, noise, t), t, schedule), images)


@every_kind
@every_schedule
def test_every_output_can_be_said_in_every_other(kind: Parameterization, schedule: NoiseSchedule) -> None:
    """Output to denoised images to the output of another kind, and back."""
    output, x_t, t = pair()
    denoised = kind.denoised(output, x_t, t, schedule)
    noise = (x_t - schedule.alpha(t) * denoised) / schedule.sigma(t)
    torch.testing.assert_close(kind.target(denoised, noise, t, schedule), output)
    for other in KINDS:
        said = other.target(denoised, noise, t, schedule)
        torch.testing.assert_close(other.denoised(said, x_t, t, schedule), denoised)


@every_schedule
def test_preconditioning_keeps_the_variance_at_one(schedule: NoiseSchedule) -> None:
    """Karras et al. 2022, eq. 113 and 115: for images of deviation sigma_data."""
    kind, num = Preconditioned(0.6), 100_000
    images = 0.6 * torch.randn(num, 1, 1, 1, dtype=torch.float64)
    noise = torch.randn_like(images)
    for time in (0.05, 0.5, 0.9):
        t = torch.full((1, 1, 1, 1), time, dtype=torch.float64)
        pictures, _ = kind.network_input(schedule.x_t(images, noise, t), t, schedule)
        assert pictures.var().item() == pytest.approx(1, rel=0.03)
        assert kind.target(images, noise, t, schedule).var().item() == pytest.approx(1, rel=0.03)


def test_preconditioning_by_the_formulas_of_the_paper() -> None:
    kind, t = Preconditioned(0.5), torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64) / 80
    sigma = 80 * t
    skip, scale = kind.coefficients(t, EDM())
    torch.testing.assert_close(skip, 0.25 / (sigma**2 + 0.25))
    torch.testing.assert_close(scale, sigma * 0.5 / (sigma**2 + 0.25).sqrt())
    pictures, times = kind.network_input(torch.ones_like(t), t, EDM())
    torch.testing.assert_close(pictures, 1 / (sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(times, sigma.log() / 4)


@every_kind
@every_schedule
def test_nothing_is_infinite_where_sampling_begins(kind: Parameterization, schedule: NoiseSchedule) -> None:
    x, t = torch.randn(2, 1, 2, 2), torch.ones(2, 1, 1, 1)
    pictures, times = kind.network_input(x, t, schedule)
    assert pictures.isfinite().all()
    assert times.isfinite().all()
    assert kind.denoised(torch.randn_like(x), x, t, schedule).isfinite().all()
