"""Images of which only a linear observation is known, and denoisers that take it into account.

Of images there is observed

    y = A images + noise of a small deviation s

Were they, given x_t, normally distributed around D with the variance r_t^2, y would raise their expectation to

    D + r_t^2 c,     c = A^T (r_t^2 A A^T + s^2)^(-1) (y - A D)

The variance is that of images of deviation one, r_t^2 = sigma_t^2 / (alpha_t^2 + sigma_t^2). As the true spread follows
the images, r_t^2 c is exchanged for (sigma_t^2 / alpha_t) (dD/dx_t)^T c, equal for normal images: this fills a gap in
line with what is around it (Song et al. 2023, "Pseudoinverse-guided diffusion models", eq. 7). Each observation knows
its `correction`, the c of a difference y - A D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.samplers import Denoiser

Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # denoised images and, maybe, a share of the variance
MIN_ALPHA = 0.1  # below it the gradient of a network is mostly error


class Observation(Protocol):
    """A linear map A of images (N, C, H, W)."""

    def __call__(self, images: Tensor) -> Tensor:
        """What is observed of images."""
        ...

    def correction(self, difference: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
        """A^T (variance A A^T + noise_variance)^(-1) difference, of the shape of images."""
        ...


@dataclass(frozen=True)
class Known:
    """The pixels where `known` (N, 1, H, W) is set; the others are observed as 0."""

    known: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return torch.where(self.known, images, torch.zeros_like(images))

    def correction(self, difference: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
        return self(difference) / (variance + noise_variance)


@dataclass(frozen=True)
class Shrunk:
    """Means of squares of `factor` x `factor` pixels."""

    factor: int

    def __call__(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.factor)

    def correction(self, difference: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
        area = self.factor**2  # A A^T is 1 / area, and A^T hands each pixel its share
        weighted = difference / (variance / area + noise_variance) / area
        return F.interpolate(weighted, scale_factor=float(self.factor), mode="nearest")


@dataclass(frozen=True)
class Blurred:
    """Convolved with a Gaussian of deviation `std` pixels, the picture's ends being joined."""

    std: float

    def __call__(self, images: Tensor) -> Tensor:
        return self._filtered(images, self._response(images))

    def correction(self, difference: Tensor, variance: Tensor, noise_variance: float) -> Tensor:
        response = self._response(difference)
        return self._filtered(difference, response / (variance * response.square() + noise_variance))

    def _response(self, images: Tensor) -> Tensor:
        """Factors (H, W // 2 + 1) of the frequencies: the Fourier transform of the Gaussian."""
        height, width = images.shape[2:]
        rows = torch.fft.fftfreq(height, device=images.device, dtype=images.dtype)
        columns = torch.fft.rfftfreq(width, device=images.device, dtype=images.dtype)
        squares = rows[:, None].square() + columns.square()
        return torch.exp(-2 * (torch.pi * self.std) ** 2 * squares)

    def _filtered(self, images: Tensor, response: Tensor) -> Tensor:
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * response, s=images.shape[2:])
        return filtered


class Conditioned:
    """A denoiser of images of which `observed` is known, but for noise of the deviation `noise` above 0."""

    def __init__(
        self, denoiser: Denoiser, observation: Observation, observed: Tensor, noise: float, schedule: NoiseSchedule
    ) -> None:
        self.denoiser, self.schedule = denoiser, schedule
        self.observation, self.observed, self.noise = observation, observed, noise

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._corrected(lambda x, t: (self.denoiser(x, t), None), x, t)[0]

    def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The denoised images and where the variance lies, of a denoiser that says it."""
        return self._corrected(self.denoiser.with_variance_share, x, t)  # type: ignore[attr-defined]

    def _corrected(self, ask: Ask, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        times = t.view(-1, 1, 1, 1)
        alpha, sigma = self.schedule.alpha(times), self.schedule.sigma(times)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised, share = ask(x, t)
            variance = sigma.square() / (alpha.square() + sigma.square())
            difference = (self.observed - self.observation(denoised)).detach()
            correction = self.observation.correction(difference, variance, self.noise**2)
            [moved] = torch.autograd.grad(denoised, x, correction)
        corrected = denoised.detach() + sigma.square() / alpha.clamp(min=MIN_ALPHA) * moved
        return corrected, None if share is None else share.detach()
