"""How probable images are under the differential equation that a denoiser defines (`objectives.samplers`).

Along a path the density changes with the volume that the flow spreads it over (Chen et al. 2018; Song et al. 2021):

    log p(images) = log p_1(x_1) + integral from 0 to 1 of the divergence of the velocity at x_t

The divergence is estimated by e^T (dv/dx) e with random signs e (Hutchinson), the integral by Heun's method.
"""

import itertools
import math

import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.samplers import Denoiser, velocity


def log_density(denoiser: Denoiser, images: Tensor, times: Tensor, schedule: NoiseSchedule, signs: Tensor) -> Tensor:
    """Log density of images (N, C, H, W), in nats (N,), with signs of the same shape.

    `times` rise from about 0, at which x_t is taken to be alpha_t times the images, to 1, at which x_t is taken to be
    normally distributed.
    """
    size = images[0].numel()
    x = schedule.alpha(times[0]) * images
    total = size * schedule.alpha(times[0]).log().expand(len(images))
    for t, t_next in itertools.pairwise(times):
        slope, divergence = _slopes(denoiser, x, t, schedule, signs)
        ahead = x + (t_next - t) * slope
        slope_next, divergence_next = _slopes(denoiser, ahead, t_next, schedule, signs)
        x = x + (t_next - t) * 0.5 * (slope + slope_next)
        total = total + (t_next - t) * 0.5 * (divergence + divergence_next)
    sigma = schedule.sigma(times[-1])
    squares = (x / sigma).flatten(1).square().sum(1)
    return total - 0.5 * squares - size * (0.5 * math.log(2 * math.pi) + sigma.log())


def _slopes(denoiser: Denoiser, x: Tensor, t: Tensor, schedule: NoiseSchedule, signs: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity at x_t and an estimate (N,) of its divergence."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        slope = velocity(denoiser(x, t), x, t, schedule)
        [product] = torch.autograd.grad(slope, x, signs)
    return slope.detach(), (product * signs).flatten(1).sum(1)
