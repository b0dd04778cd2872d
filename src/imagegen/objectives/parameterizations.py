"""Parameterisations: what the output of a network means, in terms of the images in x_t.

Whatever a network is asked for, its output says what the images are, by a formula linear in x_t and in the output:

    denoised = skip_t * x_t + scale_t * output

    what the output is     skip_t                  scale_t
    noise                  1 / alpha_t             -sigma_t / alpha_t
    data                   0                       1
    velocity               sigma'_t / w_t          -sigma_t / w_t,    w_t = alpha_t sigma'_t - sigma_t alpha'_t
    preconditioned (EDM)   alpha_t s^2 / v_t       s sigma_t / sqrt(v_t),    v_t = alpha_t^2 s^2 + sigma_t^2

An error of the output is an error of the denoised images times 1 / scale_t: weightings build on that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import NoiseSchedule


class Parameterization:
    """A subclass says `coefficients` and `target`. Times must broadcast against images (N, C, H, W)."""

    def network_input(self, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        """The pictures and the times that the network is given: by default x_t and t."""
        return x_t, t

    def coefficients(self, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        """skip_t and scale_t."""
        raise NotImplementedError

    def target(self, images: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The output that a network should give."""
        raise NotImplementedError

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The images that an output speaks of."""
        skip, scale = self.coefficients(t, schedule)
        return skip * x_t + scale * output


@dataclass(frozen=True)
class Noise(Parameterization):
    """Ho et al. 2020: the noise. At t = 1 it says nothing of the images where alpha_1 is 0; that is bounded here."""

    min_alpha: float = 1e-4

    def coefficients(self, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        alpha = schedule.alpha(t).clamp(min=self.min_alpha)
        return 1 / alpha, -schedule.sigma(t) / alpha

    def target(self, images: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return noise


@dataclass(frozen=True)
class Data(Parameterization):
    """The images themselves."""

    def coefficients(self, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def target(self, images: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return images


@dataclass(frozen=True)
class Velocity(Parameterization):
    """Lipman et al. 2022: the velocity of x_t; up to a factor the v of Salimans & Ho 2022 on the cosine schedule."""

    def coefficients(self, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        sigma, sigma_derivative = schedule.sigma(t), schedule.sigma_derivative(t)
        determinant = schedule.alpha(t) * sigma_derivative - sigma * schedule.alpha_derivative(t)
        return sigma_derivative / determinant, -sigma / determinant

    def target(self, images: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return schedule.velocity(images, noise, t)


@dataclass(frozen=True)
class Preconditioned(Parameterization):
    """Karras et al. 2022, eq. 7: input and target of variance one, for images of deviation `sigma_data`.

    Their eq. 7 is the case alpha_t = 1; this is the same for any schedule. In place of the time the network is told
    log(sigma_t / alpha_t) / 4, within bounds that only the ends of a schedule pass.
    """

    sigma_data: float = 0.5

    def network_input(self, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        return x_t / self._variance(t, schedule).sqrt(), -0.125 * schedule.log_snr(t).clamp(-20, 20)

    def coefficients(self, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
        variance = self._variance(t, schedule)
        skip = schedule.alpha(t) * self.sigma_data**2 / variance
        return skip, self.sigma_data * schedule.sigma(t) / variance.sqrt()

    def target(self, images: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        # (images - skip x_t) / scale without the difference of nearly equal numbers
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        root = self._variance(t, schedule).sqrt()
        return (sigma * images / self.sigma_data - alpha * self.sigma_data * noise) / root

    def _variance(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return (schedule.alpha(t) * self.sigma_data).square() + schedule.sigma(t).square()
