"""Noise schedules: how much of the images and how much noise is in x_t.

    x_t = alpha_t * images + sigma_t * noise,     t = 0: data,   t = 1: noise

Along a fixed pair (images, noise) the velocity of x_t is alpha'_t * images + sigma'_t * noise; its expectation given
x_t moves the distribution of images into that of noise and back. Only the noise level sigma_t / alpha_t matters to what
can be known of the images, so two schedules differ by a change of time and of scale.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class NoiseSchedule:
    """alpha_t, sigma_t, their derivatives and the time of a noise level, for t of any shape; all else follows."""

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha_derivative(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma_derivative(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def time(self, noise_level: Tensor) -> Tensor:
        """The t at which sigma_t / alpha_t is `noise_level`."""
        raise NotImplementedError

    def x_t(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy images at time t, which must broadcast against images (N, C, H, W)."""
        return self.alpha(t) * images + self.sigma(t) * noise

    def velocity(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Time derivative of x_t."""
        return self.alpha_derivative(t) * images + self.sigma_derivative(t) * noise

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2)."""
        return 2.0 * (self.alpha(t).log() - self.sigma(t).log())


@dataclass(frozen=True)
class StraightPath(NoiseSchedule):
    """alpha_t = 1 - t, sigma_t = t: flow matching and rectified flow (Lipman et al. 2022, Liu et al. 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, noise_level: Tensor) -> Tensor:
        return noise_level / (1.0 + noise_level)


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2) (Nichol & Dhariwal 2021, without their offset)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1.0 - t) * math.pi / 2)  # exactly 0 at t=1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time(self, noise_level: Tensor) -> Tensor:
        return torch.atan(noise_level) * 2 / math.pi


@dataclass(frozen=True)
class LinearBeta(NoiseSchedule):
    """alpha_t^2 = exp(-beta_min t - (beta_max - beta_min) t^2 / 2), sigma_t^2 = 1 - alpha_t^2.

    The limit of many steps of DDPM (Ho et al. 2020), whose noise grows linearly: its 1e-4 and 0.02 in each of 1000
    steps are a `beta_min` of 0.1 and a `beta_max` of 20 (Song et al. 2021, arXiv:2011.13456, eq. 33).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min)) * self.alpha(t)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_derivative(t) / self.sigma(t)

    def time(self, noise_level: Tensor) -> Tensor:
        area, slope = torch.log1p(noise_level.square()), self.beta_max - self.beta_min
        return 2 * area / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * area))


@dataclass(frozen=True)
class EDM(NoiseSchedule):
    """alpha_t = 1, sigma_t = sigma_max * t: noise is added, nothing is taken away (Karras et al. 2022, table 1).

    So much of it in the end that x_1 is all but noise, of the deviation `sigma_max`.
    """

    sigma_max: float = 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def time(self, noise_level: Tensor) -> Tensor:
        return noise_level / self.sigma_max
