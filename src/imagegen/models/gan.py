"""Generative adversarial networks: a generator and a discriminator trained against each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.models.base import Batch, GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.growth import Growth, shrink
from imagegen.objectives.latents import truncate
from imagegen.objectives.penalties import Penalty


class AdversarialObjective(Protocol):
    """What the two networks minimise, given logits (N,), larger for "real".

    `pairs` if the generator's loss needs those of real images, `needs_lipschitz` if the discriminator must be kept from
    growing steep.
    """

    pairs: bool
    needs_lipschitz: bool

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor: ...

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...


class GAN(GenerativeModel):
    """Goodfellow et al. 2014 (arXiv:1406.2661). Two losses, two optimizers: the one family with manual optimisation.

    `network` is the generator, from latents (N, latent_dim) and labels to images; `discriminator` maps images and
    labels to logits (N,). Both get labels only if `num_classes` is set. The discriminator takes a step on each batch,
    the generator on every `num_discriminator_steps`-th.

    `weight_clip` bounds each weight of the discriminator after its step (Arjovsky et al. 2017, alg. 1), `penalty` its
    gradients. `regularization` is a loss of the generator's weights. `augmentation` changes all images that the
    discriminator sees. `growth` sets the `level` of both networks (`networks.progressive`).
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
        regularization: Callable[[nn.Module], Tensor] | None,
        augmentation: nn.Module | None,
        growth: Growth | None,
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
        self.latent_shape = (latent_dim,)
        self.objective = objective
        self.penalty = penalty
        self.weight_clip = weight_clip
        self.regularization = regularization
        self.augmentation = augmentation
        self.growth = growth
        self.num_discriminator_steps = num_discriminator_steps
        self.discriminator_lr = discriminator_lr
        self.automatic_optimization = False
        self._check_parts()

    def _check_parts(self) -> None:
        layers = list(self.discriminator.modules())
        if self.objective.needs_lipschitz:
            is_spectral = any(hasattr(layer, "parametrizations") for layer in layers)
            if self.penalty is None and self.weight_clip is None and not is_spectral:
                raise ValueError("the Wasserstein objective needs a penalty, weight_clip or discriminator.spectral")
        elif self.weight_clip is not None:
            raise ValueError("weight_clip is for the Wasserstein objective; set it to null")
        if self.penalty is not None and any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
            raise ValueError(
                "penalty: batch normalisation mixes the images whose gradients it bounds; discriminator.normalization="
                "layer or none"
            )
        if self.growth is not None and not all(hasattr(n, "level") for n in (self.network, self.discriminator)):
            raise ValueError("growth needs networks that can grow: progressive_generator and progressive_discriminator")

    def configure_optimizers(self) -> Any:
        return [
            self.build_optimizer(self.network, self.lr),
            self.build_optimizer(self.discriminator, self.discriminator_lr),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the discriminator, then perhaps one of the generator, each touching only its own weights."""
        if self.growth is not None:
            self._set_level(self.growth.level(self.progress, self.network.num_levels))  # type: ignore[arg-type]
        images, labels = self.at_level(batch[0]), self.used_labels(batch[1])
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        step = self.images_seen // (len(images) * self.trainer.world_size)
        is_generator_step = (step + 1) % self.num_discriminator_steps == 0

        with torch.set_grad_enabled(is_generator_step):
            fakes = self.generate(len(images), labels)
        terms = self.discriminator_step(images, fakes.detach(), labels, discriminator_optimizer, step)
        if is_generator_step:
            terms |= self.generator_step(images, fakes, labels, generator_optimizer)

        self.record(terms)
        self.images_seen += len(images) * self.trainer.world_size
        self.update_average()

    def discriminator_step(
        self, images: Tensor, fakes: Tensor, labels: Tensor | None, optimizer: Any, step: int
    ) -> dict[str, Tensor]:
        """Move the discriminator and return the terms of its loss for real images and fakes (N, C, H, W)."""
        images, fakes = self.augment(images), self.augment(fakes)
        terms = self.discriminator_terms(images, fakes, labels)
        loss = terms["discriminator_loss"]
        if self.penalty is not None and step % self.penalty.interval == 0:
            penalty = self.penalty(partial(self._judge, labels), images, fakes)
            terms["penalty"] = self.penalty.interval * penalty
            loss = loss + terms["penalty"]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in self.discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)
        if self.augmentation is not None:
            self.augmentation.adapt(terms["discriminator_accuracy"], len(images))  # type: ignore[operator]
        return terms

    def generator_step(self, images: Tensor, fakes: Tensor, labels: Tensor | None, optimizer: Any) -> dict[str, Tensor]:
        """Move the generator and return the terms of its loss for its fakes (N, C, H, W)."""
        self.discriminator.requires_grad_(False)
        terms = {"generator_loss": self.generator_loss(images, fakes, labels)}
        loss = terms["generator_loss"]
        if self.regularization is not None:
            terms["regularization"] = self.regularization(self.network)
            loss = loss + terms["regularization"]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.discriminator.requires_grad_(True)
        return terms

    def used_labels(self, labels: Tensor) -> Tensor | None:
        """The labels (N,) if this model looks at them."""
        return None if self.num_classes is None else labels

    def generate(self, num_samples: int, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of the trained generator for random latents."""
        fakes: Tensor = self.network(torch.randn(num_samples, self.latent_dim, device=self.device), labels)
        return fakes

    def augment(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) as the discriminator sees them in training."""
        return images if self.augmentation is None else self.augmentation(images)

    def at_level(self, images: Tensor) -> Tensor:
        """Real images (N, C, H, W) at the size and sharpness that growing networks have reached."""
        if self.growth is None:
            return images
        return shrink(images, self.network.level, self.network.num_levels)  # type: ignore[arg-type]

    def _set_level(self, level: float) -> None:
        for network in (self.network, self.discriminator, self.ema.module):
            network.level = level  # type: ignore[assignment]

    def discriminator_terms(self, images: Tensor, fakes: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """The discriminator's loss for images and fakes (N, C, H, W), and the share of pairs that it tells apart."""
        # Two passes: batch normalisation over both kinds at once would tell the kinds apart.
        real_logits, fake_logits = (self._logits(batch, labels) for batch in (images, fakes))
        return {
            "discriminator_loss": self.objective.discriminator_loss(real_logits, fake_logits),
            "discriminator_accuracy": (real_logits.detach() > fake_logits.detach()).float().mean(),
        }

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (N,) of images in float32, which autocast may leave in bf16, or in float64."""
        logits: Tensor = self.discriminator(images, labels)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _judge(self, labels: Tensor | None, images: Tensor) -> Tensor:
        repeated = None if labels is None else labels.repeat(len(images) // len(labels))
        logits: Tensor = self.discriminator(images, repeated)
        return logits

    def generator_loss(self, images: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The generator's loss for its fakes (N, C, H, W), beside the real images of the same batch."""
        real_logits = None
        if self.objective.pairs:
            with torch.no_grad():
                real_logits = self._logits(self.augment(images), labels)
        return self.objective.generator_loss(self._logits(self.augment(fakes), labels), real_logits)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Both losses of the game; `loss` is their sum, which nobody minimises: each network has its own step."""
        images, used = self.at_level(images), self.used_labels(labels)
        fakes = self.generate(len(images), used)
        terms = self.discriminator_terms(images, fakes, used)
        terms["generator_loss"] = self.generator_loss(images, fakes, used)
        return {"loss": terms["generator_loss"] + terms["discriminator_loss"], **terms}

    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation: float | None = None) -> Tensor:
        """Images of latents (N, latent_dim), normal or truncated to [-truncation, truncation] (`latents.truncate`)."""
        if truncation is not None:
            latents = truncate(latents, truncation)
        images: Tensor = self.ema.module(latents, labels)
        if images.shape[1:] != self.image_shape:  # while a generator grows
            images = F.interpolate(images, self.image_shape[1:], mode="nearest")
        return images

    @torch.no_grad()
    def sample(self, *args: Any, **options: Any) -> Tensor:
        """Draw images (N, C, H, W) as every model does, with batch statistics that fit the averaged weights."""
        with self._fitting_statistics(options.get("truncation")):
            return super().sample(*args, **options)

    @torch.no_grad()
    def interpolate(self, *args: Any, **options: Any) -> Tensor:
        """Paths of images as of every model with latents, with batch statistics that fit the averaged weights."""
        with self._fitting_statistics(options.get("truncation")):
            return super().interpolate(*args, **options)

    @contextmanager
    def _fitting_statistics(self, truncation: float | None) -> Iterator[None]:
        """The plain mean over some batches: the running statistics of the trained generator are not the average's.

        Truncated latents have statistics of their own ("standing statistics", Brock et al. 2018, app. B).
        """
        layers = [layer for layer in self.ema.modules() if isinstance(layer, nn.BatchNorm2d)]
        kept = [(copy.deepcopy(layer.state_dict()), layer.momentum) for layer in layers]
        self.ema.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for i in range(self.STATISTICS_BATCHES if layers else 0):
            seeds = range(64 * i, 64 * (i + 1))
            self.decode(self.noise(seeds, (self.latent_dim,)), self.sample_labels(seeds, None), truncation)
        self.ema.eval()
        try:
            yield
        finally:  # what is saved depends on training alone, not on when images were drawn
            for layer, (state, momentum) in zip(layers, kept, strict=True):
                layer.load_state_dict(state)
                layer.momentum = momentum
