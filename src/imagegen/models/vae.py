"""Variational autoencoders: an encoder and a decoder trained on the evidence lower bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.likelihoods import PixelLikelihood, bits_per_dim, kl_standard_normal


class VAE(GenerativeModel):
    """Kingma & Welling 2013 (arXiv:1312.6114) with a likelihood of 8-bit pixels.

    The scale of the likelihood is learned, one number for all pixels (Rybkin et al. 2021), so that the balance of
    reconstruction and prior needs no hand-set weight; `beta` weighs the KL term (Higgins et al. 2017), 1 is the bound.
    A sample is the decoder's location for a latent drawn from the prior.
    """

    @property
    def likelihood_kind(self) -> str:  # type: ignore[override]
        """With the number of importance samples, as it belongs to the figure."""
        return f"bound, importance samples: {self.num_importance_samples}"

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        likelihood: PixelLikelihood,
        beta: NonNegativeFloat,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.latent_dim = latent_dim
        self.latent_shape = (latent_dim,)
        self.likelihood = likelihood
        self.beta = beta

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Reconstruction and KL in nats per image; the loss is their weighted sum in bits per dimension."""
        reconstruction, kl = self._bound_terms(self.network, images)
        loss = bits_per_dim((reconstruction + self.beta * kl).mean(), self.image_shape)
        return {"loss": loss, "reconstruction": reconstruction.mean(), "kl": kl.mean()}

    def _bound_terms(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior_mean, posterior_log_var = network.encode(images)  # type: ignore[operator]
        latents = posterior_mean + torch.exp(0.5 * posterior_log_var) * torch.randn_like(posterior_mean)
        location, log_scale = network.decode(latents)  # type: ignore[operator]
        reconstruction = -self.likelihood.log_prob(images, location, log_scale)
        return reconstruction, kl_standard_normal(posterior_mean, posterior_log_var)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """A lower bound in nats (N,), under the averaged weights.

        With one importance sample the evidence lower bound, with its KL term in closed form; with more, the tighter
        bound of Burda et al. 2016 (arXiv:1509.00519), eq. 8.
        """
        network = self.ema.module
        if self.num_importance_samples == 1:
            reconstruction, kl = self._bound_terms(network, images)
            return -(reconstruction + kl)
        mean, log_var = network.encode(images)  # type: ignore[operator]
        log_weights = []
        for _ in range(self.num_importance_samples):
            noise = torch.randn_like(mean)
            latents = mean + torch.exp(0.5 * log_var) * noise
            log_prob = self.likelihood.log_prob(images, *network.decode(latents))  # type: ignore[operator]
            # log p(z) - log q(z | x); the constants of both normal distributions cancel
            log_weights.append(log_prob + 0.5 * (noise.square() + log_var - latents.square()).sum(1))
        return torch.logsumexp(torch.stack(log_weights), 0) - math.log(self.num_importance_samples)

    def encode(self, images: Tensor) -> Tensor:
        """Posterior means (N, latent_dim) of images (N, C, H, W)."""
        mean: Tensor = self.ema.module.encode(images)[0]  # type: ignore[operator]
        return mean

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of latents (N, latent_dim)."""
        location: Tensor = self.ema.module.decode(latents)[0]  # type: ignore[operator]
        return location

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) decoded from the posterior means of images."""
        return self.decode(self.encode(images))

    def pictures(self, num_samples: int = 64, seed: int = 0) -> dict[str, Tensor]:
        """Samples and, if the latent space is a plane, that plane: a 16 x 16 grid of equally probable steps."""
        pictures = super().pictures(num_samples, seed)
        if self.latent_dim == 2:
            pictures["latent_plane"] = self.latent_plane(16)
        return pictures

    @torch.no_grad()
    def latent_plane(self, side: int) -> Tensor:
        """Images (side * side, C, H, W) of a grid over a two-dimensional latent space, by quantiles of the prior."""
        quantiles = torch.special.ndtri((torch.arange(side, device=self.device) + 0.5) / side)
        return self.decode(torch.cartesian_prod(quantiles, quantiles))
