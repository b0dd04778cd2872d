"""Variational autoencoders: an encoder and a decoder trained on a lower bound of the likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.likelihoods import PixelLikelihood, bits_per_dim

ACTIVE = 0.01  # least variance of a latent's posterior mean over images (Burda et al. 2016, sec. 5.1)


class VAE(GenerativeModel):
    """Kingma & Welling 2013 (arXiv:1312.6114) with a likelihood of 8-bit pixels.

    `network` has `infer(images, labels, noise)` and `decode(latents, labels)` (`networks.autoencoder`); with
    `num_classes` both get labels (Sohn et al. 2015). A sample is the expected image of a latent drawn from the prior.

    - `beta` weighs the KL term (Higgins et al. 2017); 1 is the bound.
    - `free_bits` nats of each group of latents cost nothing (Kingma et al. 2016, app. C.8).
    - `input_noise` is the deviation of Gaussian noise that the encoder sees on its images in training, while clean ones
      are to be restored (Im et al. 2017).
    - `num_train_samples` above 1 trains on the tighter bound of so many importance samples (Burda et al. 2016).
    """

    @property
    def likelihood_kind(self) -> str:  # type: ignore[override]
        """With the number of importance samples, as it belongs to the figure."""
        return f"bound, importance samples: {self.num_importance_samples}"

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        latent_dim: PositiveInt | None,
        likelihood: PixelLikelihood,
        beta: NonNegativeFloat,
        free_bits: NonNegativeFloat,
        input_noise: NonNegativeFloat,
        num_train_samples: PositiveInt,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        if latent_dim not in (None, network.latent_dim):
            raise ValueError(f"latent_dim is {latent_dim}, but the network has {network.latent_dim} latents")
        self.num_classes = num_classes
        self.latent_dim = int(network.latent_dim)  # type: ignore[arg-type]
        self.latent_shape = (self.latent_dim,)
        self.likelihood = likelihood
        self.num_levels = likelihood.num_levels
        self.beta = beta
        self.free_bits = free_bits
        self.input_noise = input_noise
        self.num_train_samples = num_train_samples

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Reconstruction and KL in nats per image; the loss is their weighted sum in bits per dimension."""
        seen = images + self.input_noise * torch.randn_like(images) if self.input_noise else images
        if self.num_train_samples > 1:
            return self._importance_weighted(seen, images, labels)
        log_prob, posterior = self._infer(self.network, seen, images, labels)
        kl = posterior.kl.mean(0)  # (G,), of each group
        cost = kl.clamp(min=self.free_bits).sum()
        loss = bits_per_dim(-log_prob.mean() + self.beta * cost, self.image_shape)
        return {"loss": loss, "reconstruction": -log_prob.mean(), "kl": kl.sum()}

    def _importance_weighted(self, seen: Tensor, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        count = self.num_train_samples
        seen, images, labels = (rows.repeat_interleave(count, 0) for rows in (seen, images, labels))
        log_prob, posterior = self._infer(self.network, seen, images, labels)
        log_weights = (log_prob - self.beta * posterior.log_ratio).view(-1, count)
        bound = torch.logsumexp(log_weights, 1) - math.log(count)
        loss = bits_per_dim(-bound.mean(), self.image_shape)
        return {"loss": loss, "reconstruction": -log_prob.mean(), "kl": posterior.kl.sum(1).mean()}

    def _infer(self, network: nn.Module, seen: Tensor, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Any]:
        noise = torch.randn(len(seen), self.latent_dim, device=seen.device)
        used = None if self.num_classes is None else labels
        parameters, posterior = network.infer(seen, used, noise)  # type: ignore[operator]
        return self.likelihood.log_prob(images, *parameters), posterior

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """A lower bound in nats (N,), under the averaged weights.

        With one importance sample the evidence lower bound, with its KL term in closed form; with more, the tighter
        bound of Burda et al. 2016 (arXiv:1509.00519), eq. 8.
        """
        network = self.ema.module
        if self.num_importance_samples == 1:
            log_prob, posterior = self._infer(network, images, images, labels)
            return log_prob - posterior.kl.sum(1)  # type: ignore[no-any-return]
        log_weights = []
        for _ in range(self.num_importance_samples):
            log_prob, posterior = self._infer(network, images, images, labels)
            log_weights.append(log_prob - posterior.log_ratio)
        return torch.logsumexp(torch.stack(log_weights), 0) - math.log(self.num_importance_samples)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Expected images (N, C, H, W) of latents (N, latent_dim)."""
        return self.likelihood.mean(*self.ema.module.decode(latents, labels))  # type: ignore[operator]

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (N, latent_dim) of images (N, C, H, W): the means of their posterior."""
        return self._posterior(images, labels)[0]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) decoded from the latents of images."""
        self.ema.eval()
        return self.decode(self.encode(images, labels), self._used(images, labels)).clamp(-1, 1)

    @torch.no_grad()
    def denoise(self, images: Tensor, labels: Tensor | None = None, noise: float = 0.0, seed: int = 0) -> Tensor:
        """Noisy images (N, C, H, W) brought back to what the decoder knows, whatever the noise; nothing is drawn."""
        return self.reconstruct(images, labels)

    def _used(self, images: Tensor, labels: Tensor | None) -> Tensor | None:
        if self.num_classes is None:
            return None
        if labels is None:
            raise ValueError("this model is conditional: it needs the labels of the images")
        return labels.to(images.device)

    def _posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        self.ema.eval()
        noise = torch.zeros(len(images), self.latent_dim, device=images.device)
        used = self._used(images, labels)
        with torch.autocast(images.device.type, enabled=False):
            _, posterior = self.ema.module.infer(images, used, noise)  # type: ignore[operator]
        return posterior.latents, posterior.kl

    @torch.no_grad()
    def unit_report(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """What each latent says of images (N, C, H, W): its mean KL in nats and the variance of its posterior mean.

        `kl` (G,) is that of each group, in a network with one layer of latents of each unit; `variance` (latent_dim,).
        A unit is active if its variance is above `ACTIVE`.
        """
        latents, kl = self._posterior(images, labels)
        return {"kl": kl.mean(0), "variance": latents.var(0)}

    @torch.no_grad()
    def traverse(
        self,
        num_units: int,
        num_steps: int = 10,
        seed: int = 0,
        images: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Images (num_units, num_steps, C, H, W): each row moves one latent from -2.5 to 2.5, the others stay.

        They stay at those of `seed`. The units are those that say most about `images` with `labels` (N,), if these are
        given, else the first ones.
        """
        order = torch.arange(self.latent_dim, device=self.device)
        if images is not None:
            order = self.unit_report(images, labels)["variance"].argsort(descending=True)
        units = order[:num_units]
        latents = self.noise(range(seed, seed + 1), (self.latent_dim,)).repeat(len(units) * num_steps, 1)
        steps = torch.linspace(-2.5, 2.5, num_steps, device=self.device).repeat(len(units))
        latents[torch.arange(len(latents)), units.repeat_interleave(num_steps)] = steps
        classes = self.sample_labels(range(seed, seed + 1), None)
        classes = None if classes is None else classes.repeat(len(latents))
        drawn = self._in_batches(
            len(latents), 500, lambda a, b: self.decode(latents[a:b], None if classes is None else classes[a:b])
        )
        return drawn.view(len(units), num_steps, *self.image_shape)

    def pictures(self, num_samples: int = 64, seed: int = 0) -> dict[str, Tensor]:
        """Samples and, if the latent space is a plane, that plane: a 16 x 16 grid of equally probable steps."""
        pictures = super().pictures(num_samples, seed)
        if self.latent_dim == 2 and self.num_classes is None:
            pictures["latent_plane"] = self.latent_plane(16)
        return pictures

    def pictures_of(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images beside their reconstructions, and a row for each of the eight latents that say most of them."""
        restored = self.reconstruct(images[:32], labels[:32])
        traversals = self.traverse(8, num_steps=8, images=images, labels=labels)
        pairs = torch.stack([images[:32], restored], 1)
        return {"reconstructions": pairs.flatten(0, 1), "traversals": traversals.flatten(0, 1)}

    @torch.no_grad()
    def latent_plane(self, side: int) -> Tensor:
        """Images (side * side, C, H, W) of a grid over a two-dimensional latent space, by quantiles of the prior."""
        quantiles = torch.special.ndtri((torch.arange(side, device=self.device) + 0.5) / side)
        return self.decode(torch.cartesian_prod(quantiles, quantiles))
