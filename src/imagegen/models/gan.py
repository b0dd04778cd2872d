"""Generative adversarial networks: a generator and a discriminator trained against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import Batch, GenerativeModel, LRSchedule, OptimizerFactory


class AdversarialObjective(Protocol):
    """What the two networks minimise, given logits (N,), positive for "real"."""

    def generator_loss(self, fake_logits: Tensor) -> Tensor: ...

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...


class GAN(GenerativeModel):
    """Goodfellow et al. 2014 (arXiv:1406.2661). Two losses, two optimizers: the one family with manual optimisation.

    `network` is the generator, from latents (N, latent_dim) to images; `discriminator` maps images to logits (N,).
    """

    def __init__(
        self,
        network: nn.Module,
        discriminator: nn.Module,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        objective: AdversarialObjective,
        lr: PositiveFloat,
        discriminator_lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.objective = objective
        self.discriminator_lr = discriminator_lr
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [
            self.build_optimizer(self.network, self.lr),
            self.build_optimizer(self.discriminator, self.discriminator_lr),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator, then one of the generator, each touching only its own weights."""
        images, _ = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]

        fakes = self.generate(len(images))
        discriminator_loss = self.discriminator_loss(images, fakes.detach())
        discriminator_optimizer.zero_grad()
        self.manual_backward(discriminator_loss)
        discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)
        generator_loss = self.objective.generator_loss(self.discriminator(fakes).float())
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.discriminator.requires_grad_(True)

        self.record({"generator_loss": generator_loss, "discriminator_loss": discriminator_loss})
        self.images_seen += len(images) * self.trainer.world_size
        self.update_average()

    def generate(self, num_samples: int) -> Tensor:
        """Images (N, C, H, W) of the trained generator for random latents."""
        fakes: Tensor = self.network(torch.randn(num_samples, self.latent_dim, device=self.device))
        return fakes

    def discriminator_loss(self, images: Tensor, fakes: Tensor) -> Tensor:
        """The discriminator's loss for real images and fakes (N, C, H, W)."""
        real_logits, fake_logits = self.discriminator(torch.cat([images, fakes])).float().chunk(2)
        return self.objective.discriminator_loss(real_logits, fake_logits)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both losses of the game; `loss` is their sum, which nobody minimises: each network has its own step."""
        fakes = self.generate(len(images))
        generator_loss = self.objective.generator_loss(self.discriminator(fakes).float())
        discriminator_loss = self.discriminator_loss(images, fakes)
        return {
            "loss": generator_loss + discriminator_loss,
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
        }

    def draw(self, seeds: range, labels: Tensor | None) -> Tensor:
        """Map standard normal latents through the averaged generator."""
        self.sample_labels(seeds, labels)
        images: Tensor = self.ema.module(self.noise(seeds, (self.latent_dim,)))
        return images
