"""Denoisers made of a network: what samplers ask, with guidance, counted and watched.

Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) with scale g, on the denoised images, which is the same
as on noise or velocity, all being linear in them:

    denoised = unconditional + g * (conditional - unconditional)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.parameterizations import Parameterization
from imagegen.objectives.samplers import StepNoise

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Watcher = Callable[[Tensor, Tensor, Tensor], None]


class Sampler(Protocol):
    """A sampler of `objectives.samplers` with its options given."""

    def __call__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        times: Tensor,
        schedule: NoiseSchedule,
        noise: StepNoise,
    ) -> Tensor:
        """Images (N, C, H, W) from x at the first time."""
        ...


class SamplingError(RuntimeError):
    """What a sampler was given or has made is no finite number."""


class NetworkDenoiser:
    """The expected images given x_t (N, C, H, W) and t, a scalar or (N,), according to a network.

    `guidance_scale` applies at times within `guidance_interval` (Kynkäänniemi et al. 2024, arXiv:2404.07724); 1 is no
    guidance, bit for bit and at no cost. `bound` clamps the denoised images to [-1, 1]. `num_evaluations` counts
    passes of one image through the network. `watch`, if given, is handed each x_t, t and the images denoised.

    Raises:
        SamplingError: a denoised image is not finite; says at which evaluation and time.

    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        labels: Tensor | None = None,
        no_label: Tensor | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        bound: bool = False,
        watch: Watcher | None = None,
    ) -> None:
        self.network, self.schedule, self.parameterization = network, schedule, parameterization
        self.labels, self.no_label = labels, no_label
        self.guidance_scale, self.guidance_interval = guidance_scale, guidance_interval
        self.bound = bound
        self.watch = watch
        self.num_evaluations = 0
        self.num_calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.with_variance_share(x, t)[0]

    def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The denoised images and, if the network has a second output, where the variance lies, in [0, 1]."""
        denoised, share = self._ask(x, t, self.labels)
        is_guided = (t >= self.guidance_interval[0]) & (t <= self.guidance_interval[1])
        if self.guidance_scale != 1.0 and self.no_label is not None and bool(is_guided.any()):
            unconditional, _ = self._ask(x, t, self.no_label)
            guided = unconditional + self.guidance_scale * (denoised - unconditional)
            denoised = torch.where(is_guided.view(-1, 1, 1, 1), guided, denoised)
        self.num_calls += 1
        if not denoised.isfinite().all():
            raise SamplingError(
                f"sampling: images are not finite at evaluation {self.num_calls}, t={float(t.max()):.4g}; use another "
                "checkpoint, or a smaller guidance_scale or more num_steps if these were changed"
            )
        denoised = denoised.clamp(-1, 1) if self.bound else denoised
        if self.watch is not None:
            self.watch(x, t, denoised)
        return denoised, share

    def _ask(self, x: Tensor, t: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.num_evaluations += len(x)
        each = t.view(-1, 1, 1, 1)
        pictures, times = self.parameterization.network_input(x, each, self.schedule)
        output = self.network(pictures, times.reshape(-1).expand(len(x)), labels)
        output, share = output.chunk(2, dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
        denoised = self.parameterization.denoised(output, x, each, self.schedule)
        return denoised, None if share is None else (0.5 * (share + 1)).clamp(0, 1)


def num_evaluations(
    sampler: Sampler, times: Tensor, schedule: NoiseSchedule, cost: Callable[[float], int] = lambda t: 1
) -> int:
    """How many passes through the network an image takes, each denoising at t costing `cost(t)`: by a dry run.

    Exact for samplers whose steps do not depend on the images.
    """
    count = 0

    class Counter:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            count += cost(float(t))
            return torch.zeros_like(x)

        def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self(x, t), torch.zeros_like(x)

    x = torch.zeros(1, 1, 1, 1, dtype=times.dtype)
    sampler(Counter(), x, times, schedule, lambda step: torch.zeros_like(x))
    return count
