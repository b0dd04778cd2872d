"""For Gaussian images the best denoiser and the path from noise to images are known.

x_t has the mean alpha_t * MEAN and the variance v_t = alpha_t^2 STD^2 + sigma_t^2, and the differential equation keeps
each x_t at the same number of standard deviations from the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from imagegen.objectives.adaptive_sampler import adaptive
from imagegen.objectives.denoisers import Sampler, num_evaluations
from imagegen.objectives.noise_schedules import EDM, Cosine, LinearBeta, NoiseSchedule, StraightPath
from imagegen.objectives.samplers import (
    ancestral,
    consistency,
    ddim,
    dpm_solver,
    euler,
    heun,
    stochastic_heun,
)
from imagegen.objectives.time_grids import karras, uniform

MEAN, STD = 0.3, 0.4
SCHEDULES = [StraightPath(), Cosine(), LinearBeta(), EDM(sigma_max=10.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
DETERMINISTIC = {"euler": euler, "heun": heun, "ddim": ddim, "dpm_solver": dpm_solver}
STOCHASTIC = {
    "ddpm": ancestral,
    "ddpm, large": partial(ancestral, variance_share=1.0),
    "ddim, eta 1": partial(ddim, eta=1.0),
    "ddim, eta 0.5": partial(ddim, eta=0.5),
    "stochastic heun": partial(stochastic_heun, churn=30.0, min_level=0.01, max_level=3.0, inflation=1.0),
}


def best_denoiser(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """E[images | x_t] for images from N(MEAN, STD^2), by the rules of conditioned Gaussians."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        t = t.view(-1, 1, 1, 1)
        alpha = schedule.alpha(t)
        return MEAN + alpha * STD**2 * (x - alpha * MEAN) / variance(schedule, t)

    return denoise


def variance(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return (schedule.alpha(t) * STD).square() + schedule.sigma(t).square()


def moved(schedule: NoiseSchedule, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Where the differential equation brings x_t."""
    deviations = (x - schedule.alpha(t) * MEAN) / variance(schedule, t).sqrt()
    return schedule.alpha(t_next) * MEAN + variance(schedule, t_next).sqrt() * deviations


def fresh(like: Tensor) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(like.shape, generator=torch.Generator().manual_seed(step), dtype=like.dtype)


def no_noise(step: int) -> Tensor:
    raise AssertionError("this sampler draws no noise")


def part(start: float, end: float, num_steps: int) -> Tensor:
    return torch.linspace(start, end, num_steps + 1, dtype=torch.float64)


@every_schedule
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm_solver", 2)])
def test_converges_to_the_exact_solution_with_its_order(name: str, order: int, schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    x, steps, errors = torch.randn(4, 1, 3, 3, dtype=torch.float64), [64, 128, 256, 512], []
    x = schedule.alpha(part(0.9, 0.1, 1)[0]) * MEAN + variance(schedule, part(0.9, 0.1, 1)[0]).sqrt() * x
    for num_steps in steps:
        times = part(0.9, 0.1, num_steps)
        found = DETERMINISTIC[name](best_denoiser(schedule), x, times, schedule, no_noise)
        errors.append((found - moved(schedule, x, times[0], times[-1])).abs().max().item())
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.25)
    assert errors[-1] < {1: 2e-2, 2: 2e-3}[order]


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("schedule", [StraightPath(), Cosine()], ids=["straight", "cosine"])
def test_noise_becomes_images(name: str, schedule: NoiseSchedule) -> None:
    noise = torch.randn(20_000, 1, 1, 1, dtype=torch.float64)
    samples = DETERMINISTIC[name](best_denoiser(schedule), noise, uniform(200), schedule, no_noise)
    torch.testing.assert_close(samples, MEAN + STD * noise, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize(
    ("schedule", "times"),
    [(LinearBeta(), uniform(300)), (Cosine(), uniform(300)), (EDM(10.0), karras(300, sigma_max=10.0))],
    ids=["linear", "cosine", "edm"],
)
def test_stochastic_samplers_draw_the_distribution_of_the_images(
    name: str, schedule: NoiseSchedule, times: Tensor
) -> None:
    x = schedule.sigma(times[0]) * torch.randn(10_000, 1, 1, 1, dtype=torch.float64)
    samples = STOCHASTIC[name](best_denoiser(schedule), x, times, schedule, fresh(x))  # type: ignore[operator]
    assert samples.mean().item() == pytest.approx(MEAN, abs=5 * STD / 10_000**0.5 + 0.005)
    assert samples.std().item() == pytest.approx(STD, rel=0.05)


@every_schedule
def test_a_perfect_variance_makes_each_ancestral_step_exact(schedule: NoiseSchedule) -> None:
    """Between the two fixed variances lies the true one: its steps are right however few they are."""

    class Knowing:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return best_denoiser(schedule)(x, t)

        def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            following = times[int((times == t).nonzero()) + 1]
            shrink = (schedule.sigma(following) / schedule.sigma(t)).square()
            large = schedule.sigma(t).square()
            large = large - (schedule.alpha(t) / schedule.alpha(following) * schedule.sigma(following)).square()
            uncertainty = (STD * schedule.sigma(t)).square() / variance(schedule, t)
            true = (
                shrink * large + (schedule.alpha(following) * large / schedule.sigma(t).square()).square() * uncertainty
            )
            return self(x, t), (true / (shrink * large)).log() / (1 / shrink).log()

    times = part(0.95, 0.05, 6)
    first = times[0]
    x = schedule.alpha(first) * MEAN + variance(schedule, first).sqrt() * torch.randn(40_000, 1, 1, 1).double()
    samples = ancestral(Knowing(), x, times, schedule, fresh(x), variance_share=None)
    assert samples.mean().item() == pytest.approx(schedule.alpha(times[-1]).item() * MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(variance(schedule, times[-1]).sqrt().item(), rel=0.02)


@pytest.mark.parametrize("schedule", [StraightPath(), LinearBeta(), EDM(10.0)], ids=["straight", "linear", "edm"])
def test_an_adaptive_sampler_keeps_its_tolerance_and_images_apart(schedule: NoiseSchedule) -> None:
    times, denoiser = part(0.95, 0.05, 1), best_denoiser(schedule)
    x = schedule.sigma(times[0]) * torch.randn(5, 1, 4, 4, dtype=torch.float64)
    exact, errors, counts = moved(schedule, x, times[0], times[-1]), [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        count = 0

        def counted(x: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            count += len(x)
            return denoiser(x, t)

        found = adaptive(counted, x, times, schedule, no_noise, tolerance)
        errors.append((found - exact).abs().max().item())
        assert errors[-1] < 10 * tolerance * float(x.abs().max())
        counts.append(count)
        alone = adaptive(denoiser, x[2:3], times, schedule, no_noise, tolerance)
        torch.testing.assert_close(alone, found[2:3])
    # third order: a hundredth of the tolerance takes at most 100^(1/3) = 4.6 times the steps
    assert counts[0] < counts[1] < counts[2] < 6 * counts[1]
    to_data = adaptive(denoiser, x, torch.tensor([0.95, 0.0]).double(), schedule, no_noise, 1e-5)
    torch.testing.assert_close(to_data, moved(schedule, x, times[0], times[0] * 0), atol=5e-3, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_takes_the_steps_of_diffusers(eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule, num_steps = LinearBeta(), 20
    scheduler = diffusers.DDIMScheduler(trained_betas=betas(schedule), clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    x, step, i = torch.randn(3, 1, 4, 4), fresh(torch.zeros(3, 1, 4, 4)), 0
    found = ddim(best_denoiser(schedule), x, uniform(num_steps).float(), schedule, step, eta)
    for i, t in enumerate(scheduler.timesteps):
        noise = noise_in(x, schedule, (t + 1) / 1000)
        x = scheduler.step(noise, t, x, eta=eta, variance_noise=step(i) if eta else None).prev_sample
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "share"), [("fixed_small", 0.0), ("fixed_large", 1.0), ("learned_range", None)])
def test_ancestral_takes_the_steps_of_diffusers(
    kind: str, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    schedule, num_steps = LinearBeta(), 20
    options = {"clip_sample": False, "timestep_spacing": "trailing", "variance_type": kind}
    scheduler = diffusers.DDPMScheduler(trained_betas=betas(schedule), **options)
    scheduler.set_timesteps(num_steps)
    x, step, i = torch.randn(3, 1, 4, 4), fresh(torch.zeros(3, 1, 4, 4)), 0
    said = torch.linspace(-1, 1, x.numel()).view_as(x)

    class Saying:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return best_denoiser(schedule)(x, t)

        def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self(x, t), (said + 1) / 2

    # but for the last one, in which diffusers adds noise that the sample keeps
    found = ancestral(Saying(), x, uniform(num_steps)[:-1].float(), schedule, step, share)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: step(i))
    for i, t in enumerate(scheduler.timesteps[:-1]):  # noqa: B007  # `randn_tensor` reads it
        output = noise_in(x, schedule, (t + 1) / 1000)
        output = torch.cat([output, said], 1) if share is None else output
        x = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


def betas(schedule: NoiseSchedule) -> list[float]:
    alphas = schedule.alpha(torch.linspace(0, 1, 1001, dtype=torch.float64)).square()
    return (1 - alphas[1:] / alphas[:-1]).tolist()


def noise_in(x: Tensor, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    return (x - schedule.alpha(t) * best_denoiser(schedule)(x, t)) / schedule.sigma(t)


def test_on_a_straight_path_euler_is_ddim_and_steps_of_dpm_solver_begin_as_them() -> None:
    schedule, x = StraightPath(), torch.randn(4, 1, 3, 3, dtype=torch.float64)
    first, second, third = (s(best_denoiser(schedule), x, uniform(7), schedule, no_noise) for s in (euler, ddim, heun))
    torch.testing.assert_close(first, second)
    assert not first.allclose(third)
    for num_steps in (1, 2):  # it has but one value of D before the last step to t=0
        a, b = (s(best_denoiser(schedule), x, uniform(num_steps), schedule, no_noise) for s in (ddim, dpm_solver))
        torch.testing.assert_close(a, b)


def test_churn_of_nothing_is_heun() -> None:
    schedule, x, times = EDM(), 80 * torch.randn(2, 1, 2, 2), karras(9).float()
    still = stochastic_heun(best_denoiser(schedule), x, times, schedule, no_noise, churn=0.0)
    assert still.equal(heun(best_denoiser(schedule), x, times, schedule, no_noise))


def test_consistency_denoises_at_once_and_again() -> None:
    schedule, x = StraightPath(), torch.randn(3, 1, 2, 2)
    denoiser, noise = best_denoiser(schedule), fresh(x)
    once = denoiser(x, torch.tensor(1.0))
    assert consistency(denoiser, x, uniform(1).float(), schedule, noise).equal(once)

    def again(t: float) -> Tensor:
        time = torch.tensor(t)
        return denoiser((1 - time) * once + time * noise(0), time)

    assert consistency(denoiser, x, uniform(2).float(), schedule, noise).equal(again(0.5**0.6))
    assert consistency(denoiser, x, uniform(2).float(), schedule, noise, power=1.0).equal(again(0.5))
    later = consistency(denoiser, x, 0.5 * uniform(2).float(), schedule, noise)  # from the first of the times on
    once = denoiser(x, torch.tensor(0.5))
    torch.testing.assert_close(later, again(0.5 * 0.5**0.6))


EVALUATIONS: list[tuple[Sampler, Callable[[int], int]]] = [
    (euler, lambda n: n),
    (ddim, lambda n: n),
    (ancestral, lambda n: n),
    (partial(ancestral, variance_share=None), lambda n: n),
    (dpm_solver, lambda n: n),
    (consistency, lambda n: n),
    (heun, lambda n: 2 * n - 1),
    (stochastic_heun, lambda n: 2 * n - 1),
]


@pytest.mark.parametrize("num_steps", [1, 2, 5, 18])
@pytest.mark.parametrize(("sampler", "expected"), EVALUATIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_function_evaluations_are_counted_right(
    sampler: Sampler, expected: Callable[[int], int], num_steps: int
) -> None:
    assert num_evaluations(sampler, uniform(num_steps), StraightPath()) == expected(num_steps)
    assert num_evaluations(sampler, uniform(num_steps), StraightPath(), lambda t: 3) == 3 * expected(num_steps)


def test_evaluations_may_differ_in_cost() -> None:
    # at 1, 0.8, 0.6, 0.4, 0.2 and once more at each but the first
    assert num_evaluations(heun, uniform(5), StraightPath(), lambda t: 2 if 0.3 < t < 0.7 else 1) == 9 + 4


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_noise_is_left_as_it_was(name: str) -> None:
    x = torch.randn(2, 1, 2, 2)
    before = x.clone()
    DETERMINISTIC[name](lambda x, t: 0.5 * x, x, uniform(4).float(), StraightPath(), no_noise)
    assert x.equal(before)
