"""Samplers: from noise (t=1) to images (t=0) by asking a denoiser, as plain functions.

Each takes

- `denoiser`, a function of x_t (N, C, H, W) and t, a scalar or (N,): the expected images given x_t;
- `x` at the first of `times`, which fall, to be brought to the last;
- `schedule`: alpha_t and sigma_t (`objectives.noise_schedules`);
- `noise`, which gives the standard normal numbers (N, C, H, W) of a step: those who need none do not ask.

With D = denoiser(x_t, t) the noise in x_t is (x_t - alpha_t D) / sigma_t, and the ordinary differential equation

    dx_t/dt = velocity(D, noise, t) = alpha'_t D + sigma'_t noise

moves noise to images. Near t = 0 an error of D is divided by sigma_t: no sampler evaluates there.
"""

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from imagegen.objectives.noise_schedules import NoiseSchedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
StepNoise = Callable[[int], Tensor]


def euler(denoiser: Denoiser, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: StepNoise) -> Tensor:
    """First order in t; one evaluation for each step."""
    for t, t_next in _steps(times):
        x = x + (t_next - t) * velocity(denoiser(x, t), x, t, schedule)
    return x


def heun(denoiser: Denoiser, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: StepNoise) -> Tensor:
    """Second order in t; two evaluations for each step, one for a last step to t=0 (Karras et al. 2022, alg. 1)."""
    for t, t_next in _steps(times):
        slope = velocity(denoiser(x, t), x, t, schedule)
        x_next = x + (t_next - t) * slope
        if schedule.sigma(t_next) > 0:
            slope_next = velocity(denoiser(x_next, t_next), x_next, t_next, schedule)
            x_next = x + (t_next - t) * 0.5 * (slope + slope_next)
        x = x_next
    return x


def ddim(
    denoiser: Denoiser, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: StepNoise, eta: float = 0.0
) -> Tensor:
    """Song et al. 2021 (arXiv:2010.02502), eq. 12: the noise is scaled down, a share `eta` of it drawn anew.

    First order in the noise level; one evaluation for each step. Random only if `eta` is above 0; 1 is DDPM with its
    smallest variances.
    """
    for i, (t, t_next) in enumerate(_steps(times)):
        denoised = denoiser(x, t)
        eps = (x - schedule.alpha(t) * denoised) / schedule.sigma(t)
        variance = eta**2 * posterior_variance(t, t_next, schedule)
        kept = (schedule.sigma(t_next).square() - variance).clamp(min=0).sqrt()
        x = schedule.alpha(t_next) * denoised + kept * eps
        if eta > 0 and variance > 0:
            x = x + variance.sqrt() * noise(i)
    return x


def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    noise: StepNoise,
    variance_share: float | None = 0.0,
) -> Tensor:
    """DDPM (Ho et al. 2020, eq. 6 and 7): x at the next time as if D were the images; one evaluation for each step.

    Its variance lies between that given the images (`variance_share` 0, their fixed small one) and that without them
    (1, fixed large), on a logarithmic scale. None: where the network says (Nichol & Dhariwal 2021, eq. 15); the
    denoiser then has `with_variance_share`, which returns D and the share.
    """
    for i, (t, t_next) in enumerate(_steps(times)):
        if variance_share is None:
            denoised, share = denoiser.with_variance_share(x, t)  # type: ignore[attr-defined]
            if share is None:
                raise ValueError("variance_share is null, but the network has no second output that would say it")
        else:
            denoised, share = denoiser(x, t), variance_share
        on_x, on_denoised = posterior_mean(t, t_next, schedule)
        x = on_x * x + on_denoised * denoised
        small, large = posterior_variance(t, t_next, schedule), transition_variance(t, t_next, schedule)
        if small > 0:
            x = x + torch.exp(0.5 * (share * large.log() + (1 - share) * small.log())) * noise(i)
    return x


def dpm_solver(denoiser: Denoiser, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: StepNoise) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2): second order, one evaluation for each step.

    D is extrapolated along log(alpha_t / sigma_t) by its last two values. The first step and one to t=0 have but one.
    """
    before: Tensor | None = None
    step_before = torch.zeros(())
    for t, t_next in _steps(times):
        denoised = denoiser(x, t)
        step = 0.5 * (schedule.log_snr(t_next) - schedule.log_snr(t))
        extrapolated = denoised
        if before is not None and step.isfinite() and step_before.isfinite():
            extrapolated = denoised + 0.5 * step / step_before * (denoised - before)
        shrink = schedule.sigma(t_next) / schedule.sigma(t)
        x = shrink * x + (schedule.alpha(t_next) - schedule.alpha(t) * shrink) * extrapolated
        before, step_before = denoised, step
    return x


def stochastic_heun(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    noise: StepNoise,
    churn: float = 20.0,
    min_level: float = 0.05,
    max_level: float = 50.0,
    inflation: float = 1.003,
) -> Tensor:
    """Karras et al. 2022, alg. 2: Heun's steps, each from a little more noise than the one before had left.

    `churn`, `min_level`, `max_level` and `inflation` are their S_churn, S_min, S_max and S_noise, levels being
    sigma_t / alpha_t. As many evaluations as Heun's.
    """
    gain = min(churn / (len(times) - 1), 2**0.5 - 1)
    for i, (t, t_next) in enumerate(_steps(times)):
        level = schedule.sigma(t) / schedule.alpha(t)
        if gain > 0 and min_level <= level <= max_level:
            raised = schedule.time(level * (1 + gain)).clamp(max=1.0)
            new_level = schedule.sigma(raised) / schedule.alpha(raised)
            added = (new_level.square() - level.square()).sqrt() * inflation * noise(i)
            x, t = schedule.alpha(raised) * (x / schedule.alpha(t) + added), raised
        x = heun(denoiser, x, torch.stack([t, t_next]), schedule, noise)
    return x


def consistency(
    denoiser: Denoiser, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: StepNoise, power: float = 0.6
) -> Tensor:
    """Song et al. 2023 (arXiv:2303.01469), alg. 1: denoise at once, add fresh noise, denoise again at a lesser time.

    One evaluation for each step. For networks that have learnt to denoise in one step (`objectives.consistency`), and
    for young ones of any kind, whose errors fresh noise mends. The times between the first and 0 are moved by `power`,
    towards the first if it is below 1: t becomes t_first * (t / t_first)^power.
    """
    times = times[0] * (times / times[0]) ** power
    for i, (t, t_next) in enumerate(_steps(times)):
        denoised = denoiser(x, t)
        sigma = schedule.sigma(t_next)
        x = schedule.x_t(denoised, noise(i), t_next) if sigma > 0 else schedule.alpha(t_next) * denoised
    return x


def _steps(times: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    steps = list(itertools.pairwise(times))
    # the bar appears after a second, and only at a terminal
    bar: Iterable[tuple[Tensor, Tensor]] = tqdm(
        steps, desc="sampling", leave=False, delay=1.0, disable=None if len(steps) > 1 else True
    )
    return bar


def velocity(denoised: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The time derivative of x_t on the path that the differential equation takes."""
    return schedule.velocity(denoised, (x - schedule.alpha(t) * denoised) / schedule.sigma(t), t)


def transition_variance(t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The variance of x_t given x at `t_next`, an earlier time."""
    ratio = schedule.alpha(t) / schedule.alpha(t_next)
    return schedule.sigma(t).square() - (ratio * schedule.sigma(t_next)).square()


def posterior_variance(t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The variance of x at `t_next` given x_t and the images."""
    shrink = schedule.sigma(t_next) / schedule.sigma(t)
    return shrink.square() * transition_variance(t, t_next, schedule)


def posterior_mean(t: Tensor, t_next: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """The weights of x_t and of the images in the mean of x at `t_next`, given both."""
    shrink = (schedule.sigma(t_next) / schedule.sigma(t)).square()
    on_x = shrink * schedule.alpha(t) / schedule.alpha(t_next)
    on_images = schedule.alpha(t_next) * transition_variance(t, t_next, schedule) / schedule.sigma(t).square()
    return on_x, on_images
