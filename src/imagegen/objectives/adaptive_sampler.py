"""A sampler that chooses its own steps, for each image on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from imagegen.objectives.denoisers import SamplingError
from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.samplers import Denoiser, StepNoise

MAX_ROUNDS = 1000


def adaptive(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    noise: StepNoise,
    tolerance: float = 1e-2,
    last_time: float = 1e-3,
) -> Tensor:
    """Bogacki & Shampine 1989: third order with an error estimate of second order, three evaluations for each step.

    Of `times` only the ends matter. A step is taken if the estimated error, root mean square over an image, is below
    `tolerance`, absolute and relative; it is tried again with a shorter one otherwise. Where the last of the times is
    0 the equation is solved up to `last_time`, and one evaluation ends it. Each image has steps of its own, so that
    it does not depend on its batch. Raises SamplingError if an image is not done after `MAX_ROUNDS` tries.
    """
    is_to_data = bool(schedule.sigma(times[-1]) == 0)
    end = times.new_tensor(last_time) if is_to_data else times[-1]
    t = times[0].expand(len(x)).clone()
    step = 0.1 * (t - end)
    slope = _slope(denoiser, x, t, schedule)
    for _ in range(MAX_ROUNDS):
        if not (t > end).any():
            break
        h = -torch.minimum(step, t - end)  # 0 for images that are done: a denoiser knows the whole batch or nothing
        new, new_slope, error = _try(denoiser, x, t, h, slope, schedule)
        scale = tolerance * (1 + torch.maximum(x.abs(), new.abs()))
        ratio = (error / scale).square().flatten(1).mean(1).sqrt()
        good = ratio <= 1
        t = torch.where(good, torch.where(-h >= t - end, end, t + h), t)
        is_taken = good[:, None, None, None]
        x, slope = torch.where(is_taken, new, x), torch.where(is_taken, new_slope, slope)
        step = -h * (0.9 * ratio.clamp(min=1e-6) ** (-1 / 3)).clamp(0.2, 5.0)
    else:
        raise SamplingError(f"adaptive: not done after {MAX_ROUNDS} steps; raise the tolerance {tolerance:g}")
    return denoiser(x, end) if is_to_data else x


adaptive.is_adaptive = True  # type: ignore[attr-defined]  # its evaluations depend on the images


def _try(
    denoiser: Denoiser, x: Tensor, t: Tensor, h: Tensor, slope: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor, Tensor]:
    """A step of length h (N,), the slope at its end, and the difference between the orders."""
    by = h[:, None, None, None]
    second = _slope(denoiser, x + by / 2 * slope, t + h / 2, schedule)
    third = _slope(denoiser, x + by * 3 / 4 * second, t + h * 3 / 4, schedule)
    new = x + by * (2 * slope + 3 * second + 4 * third) / 9
    last = _slope(denoiser, new, t + h, schedule)
    return new, last, by * (-5 / 72 * slope + second / 12 + third / 9 - last / 8)


def _slope(denoiser: Denoiser, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    denoised, times = denoiser(x, t), t[:, None, None, None]
    noise = (x - schedule.alpha(times) * denoised) / schedule.sigma(times)
    return schedule.velocity(denoised, noise, times)
