"""Generative adversarial networks: a generator and a discriminator trained against each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import Batch, GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.penalties import Penalty


class AdversarialObjective(Protocol):
    """What the two networks minimise, given logits (N,), larger for "real"; `pairs` if the generator's needs both."""

    pairs: bool

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor: ...

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...


class GAN(GenerativeModel):
    """Goodfellow et al. 2014 (arXiv:1406.2661). Two losses, two optimizers: the one family with manual optimisation.

    `network` is the generator, from latents (N, latent_dim) and labels to images; `discriminator` maps images and
    labels to logits (N,). Both get labels only if `num_classes` is set. The discriminator takes a step on each batch,
    the generator on every `num_discriminator_steps`-th; `weight_clip` bounds each weight of the discriminator after its
    step (Arjovsky et al. 2017, alg. 1).
    """

    STATISTICS_BATCHES = 16  # of 64 latents, for batch normalisation in the averaged generator

    def __init__(
        self,
        network: nn.Module,
        discriminator: nn.Module,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        latent_dim: PositiveInt,
        objective: AdversarialObjective,
        penalty: Penalty | None,
        weight_clip: PositiveFloat | None,
        num_discriminator_steps: PositiveInt,
        lr: PositiveFloat,
        discriminator_lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.discriminator = discriminator
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.objective = objective
        self.penalty = penalty
        self.weight_clip = weight_clip
        self.num_discriminator_steps = num_discriminator_steps
        self.discriminator_lr = discriminator_lr
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [
            self.build_optimizer(self.network, self.lr),
            self.build_optimizer(self.discriminator, self.discriminator_lr),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the discriminator, then perhaps one of the generator, each touching only its own weights."""
        images, labels = batch[0], self.used_labels(batch[1])
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        step = self.images_seen // (len(images) * self.trainer.world_size)
        is_generator_step = (step + 1) % self.num_discriminator_steps == 0

        with torch.set_grad_enabled(is_generator_step):
            fakes = self.generate(len(images), labels)
        losses = {"discriminator_loss": self.discriminator_loss(images, fakes.detach(), labels)}
        if self.penalty is not None and step % self.penalty.interval == 0:
            penalty = self.penalty(partial(self._judge, labels), images, fakes.detach())
            losses["penalty"] = self.penalty.interval * penalty
        discriminator_optimizer.zero_grad()
        self.manual_backward(torch.stack(list(losses.values())).sum())
        discriminator_optimizer.step()
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in self.discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)

        if is_generator_step:
            self.discriminator.requires_grad_(False)
            losses["generator_loss"] = self.generator_loss(images, fakes, labels)
            generator_optimizer.zero_grad()
            self.manual_backward(losses["generator_loss"])
            generator_optimizer.step()
            self.discriminator.requires_grad_(True)

        self.record(losses)
        self.images_seen += len(images) * self.trainer.world_size
        self.update_average()

    def used_labels(self, labels: Tensor) -> Tensor | None:
        """The labels (N,) if this model looks at them."""
        return None if self.num_classes is None else labels

    def generate(self, num_samples: int, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of the trained generator for random latents."""
        fakes: Tensor = self.network(torch.randn(num_samples, self.latent_dim, device=self.device), labels)
        return fakes

    def discriminator_loss(self, images: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's loss for real images and fakes (N, C, H, W), without its penalty."""
        # Two passes: batch normalisation over both kinds at once would tell the kinds apart.
        real_logits, fake_logits = (self.discriminator(batch, labels).float() for batch in (images, fakes))
        return self.objective.discriminator_loss(real_logits, fake_logits)

    def _judge(self, labels: Tensor | None, images: Tensor) -> Tensor:
        repeated = None if labels is None else labels.repeat(len(images) // len(labels))
        logits: Tensor = self.discriminator(images, repeated)
        return logits

    def generator_loss(self, images: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The generator's loss for its fakes (N, C, H, W), beside the real images of the same batch."""
        real_logits = None
        if self.objective.pairs:
            with torch.no_grad():
                real_logits = self.discriminator(images, labels).float()
        return self.objective.generator_loss(self.discriminator(fakes, labels).float(), real_logits)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both losses of the game; `loss` is their sum, which nobody minimises: each network has its own step."""
        used = self.used_labels(labels)
        fakes = self.generate(len(images), used)
        generator_loss = self.generator_loss(images, fakes, used)
        discriminator_loss = self.discriminator_loss(images, fakes, used)
        return {
            "loss": generator_loss + discriminator_loss,
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
        }

    def draw(self, seeds: range, labels: Tensor | None) -> Tensor:
        """Map standard normal latents through the averaged generator."""
        labels = self.sample_labels(seeds, labels)
        images: Tensor = self.ema.module(self.noise(seeds, (self.latent_dim,)), labels)
        return images

    @torch.no_grad()
    def sample(self, *args: Any, **options: Any) -> Tensor:
        """Draw images (N, C, H, W) as every model does, with batch statistics that fit the averaged weights."""
        layers = [layer for layer in self.ema.modules() if isinstance(layer, nn.BatchNorm2d)]
        kept = [(copy.deepcopy(layer.state_dict()), layer.momentum) for layer in layers]
        self._measure_statistics(layers)
        try:
            return super().sample(*args, **options)
        finally:  # what is saved depends on training alone, not on when images were drawn
            for layer, (state, momentum) in zip(layers, kept, strict=True):
                layer.load_state_dict(state)
                layer.momentum = momentum

    def _measure_statistics(self, layers: Sequence[nn.BatchNorm2d]) -> None:
        """The plain mean over some batches: the running statistics of the trained generator are not the average's."""
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for i in range(self.STATISTICS_BATCHES if layers else 0):
            seeds = range(64 * i, 64 * (i + 1))
            self.ema.module(self.noise(seeds, (self.latent_dim,)), self.sample_labels(seeds, None))
        self.ema.eval()
