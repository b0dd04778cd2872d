"""Diffusion and flow matching: a network learns the velocity of images on their way to noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.noise_schedules import NoiseSchedule


class Diffusion(GenerativeModel):
    """Flow matching (Lipman et al. 2022, arXiv:2210.02747) on any noise schedule, with optional class labels.

    Labels are dropped with probability `label_dropout`, so that one network knows the conditional and the
    unconditional velocity; `guidance_scale` above 1 extrapolates from the latter (Ho & Salimans 2022).
    Sampling costs `num_function_evaluations` passes, twice as many with guidance.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        noise_schedule: NoiseSchedule,
        time_distribution: Callable[[int, torch.device], Tensor],
        sampler: Callable[..., Tensor],
        num_steps: PositiveInt,
        guidance_scale: NonNegativeFloat,
        label_dropout: NonNegativeFloat,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.num_classes = num_classes
        self.latent_shape = self.image_shape
        self.noise_schedule = noise_schedule
        self.time_distribution = time_distribution
        self.sampler = sampler
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.label_dropout = label_dropout

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity, E |v(x_t, t) - dx_t/dt|^2 per pixel."""
        noise = torch.randn_like(images)
        t = self.time_distribution(len(images), images.device)
        t_images = t[:, None, None, None]
        x_t = self.noise_schedule.x_t(images, noise, t_images)
        target = self.noise_schedule.velocity(images, noise, t_images)
        if self.num_classes is not None:
            dropped = torch.rand(len(labels), device=labels.device) < self.label_dropout
            labels = labels.masked_fill(dropped, self.num_classes)
        velocity = self.network(x_t, t, labels)
        return {"loss": (velocity.float() - target).square().mean()}

    def decode(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Solve the velocity field from noise (N, C, H, W) to images in `num_steps` steps."""
        num_steps = self.num_steps if num_steps is None else num_steps
        guidance = self.guidance_scale if guidance_scale is None else guidance_scale
        no_label = None if labels is None else torch.full_like(labels, self.num_classes or 0)
        network = self.ema.module

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            times = t.expand(len(x))
            conditional: Tensor = network(x, times, labels)
            if labels is None or guidance == 1.0:
                return conditional
            unconditional: Tensor = network(x, times, no_label)
            return unconditional + guidance * (conditional - unconditional)

        times = torch.linspace(1, 0, num_steps + 1, device=self.device)
        return self.sampler(velocity, latents, times)

    def sampling_protocol(self) -> dict[str, Any]:
        """The solver, its function evaluations and the guidance."""
        sampler: Any = getattr(self.sampler, "func", self.sampler)  # a partial function, or the function itself
        evaluations = sampler.evaluations(self.num_steps) * (1 if self.guidance_scale == 1.0 else 2)
        return {
            "sampler": f"{sampler.__name__}, {self.num_steps} steps",
            "num_function_evaluations": evaluations,
            "guidance_scale": self.guidance_scale,
        }
