"""Noise schedules: x_t = alpha_t * images + sigma_t * noise, from t=0 (data) to t=1 (noise).

The velocity of x_t along a fixed pair (images, noise) is alpha'_t * images + sigma'_t * noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class NoiseSchedule:
    """alpha_t, sigma_t and their derivatives in t, for t of any shape; all else follows from them."""

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha_derivative(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma_derivative(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def x_t(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy images at time t, which must broadcast against images (N, C, H, W)."""
        return self.alpha(t) * images + self.sigma(t) * noise

    def velocity(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Time derivative of x_t."""
        return self.alpha_derivative(t) * images + self.sigma_derivative(t) * noise

    def denoised(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """The images that x_t and its velocity belong to (two linear equations solved for the images)."""
        determinant = self.sigma_derivative(t) * self.alpha(t) - self.sigma(t) * self.alpha_derivative(t)
        return (self.sigma_derivative(t) * x_t - self.sigma(t) * velocity) / determinant

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


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2) (Nichol & Dhariwal 2021, without their offset)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * math.pi / 2)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * math.pi / 2)
