"""Latent diffusion: an autoencoder makes pictures small, a diffusion model draws the small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import LRSchedule, OptimizerFactory
from imagegen.models.denoising import trajectory
from imagegen.models.diffusion import Diffusion
from imagegen.models.two_stage import Share, TwoStageModel
from imagegen.objectives.likelihoods import PixelLikelihood, bits_per_dim


class LatentDiffusion(TwoStageModel):
    """Rombach et al. 2021 (arXiv:2112.10752), both stages in one run.

    `network` is an autoencoder of the VAE family whose latents are a picture of `network.latent_shape`, its KL term
    weighed by a small `beta`. `prior` makes the diffusion model of these latents, shifted and scaled to mean 0 and
    variance 1 in each channel, from a network that knows their shape. What it knows of labels is not the
    autoencoder's business.
    """

    MOMENTUM = 0.02  # of the running mean and variance of latents, per step

    def __init__(
        self,
        network: nn.Module,
        prior: Callable[..., Diffusion],
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        likelihood: PixelLikelihood,
        beta: NonNegativeFloat,
        autoencoder_share: Share,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        shape = getattr(network, "latent_shape", None)
        if shape is None:
            raise ValueError("latent diffusion needs an autoencoder whose latents are pictures: spatial_autoencoder")
        make_network: Any = prior.keywords["network"]  # type: ignore[attr-defined]  # a partial function, as is prior
        self.prior = prior(network=make_network(image_shape=shape), image_shape=shape)
        self.num_classes = num_classes
        self.latent_shape = self.prior.latent_shape
        self.likelihood = likelihood
        self.num_levels = likelihood.num_levels
        self.beta = beta
        self.autoencoder_share = autoencoder_share
        self.latent_mean: Tensor
        self.latent_variance: Tensor
        self.register_buffer("latent_mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("latent_variance", torch.ones(shape[0], 1, 1))

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The bound of the autoencoder in bits per dimension; later the error of the diffusion model."""
        if self.is_prior_stage:
            self.prior.progress = self.schedule_progress
            with torch.no_grad():
                latents = self._standard(self._sampled(images))
            return self.prior.losses(latents, labels)
        noise = torch.randn(len(images), self.network.latent_dim, device=images.device)  # type: ignore[call-overload]
        parameters, posterior = self.network.infer(images, None, noise)  # type: ignore[operator]
        reconstruction = -self.likelihood.log_prob(images, *parameters).mean()
        kl = posterior.kl.sum(1).mean()
        if self.training:
            self._note(posterior.latents.detach())
        loss = bits_per_dim(reconstruction + self.beta * kl, self.image_shape)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def _note(self, latents: Tensor) -> None:
        latents = latents.view(-1, *self.prior.image_shape)
        variance, mean = torch.var_mean(latents, (0, 2, 3))
        self.latent_mean.lerp_(mean[:, None, None], self.MOMENTUM)
        self.latent_variance.lerp_(variance[:, None, None], self.MOMENTUM)

    def _sampled(self, images: Tensor) -> Tensor:
        """Latents (N, C, h, w) drawn from the averaged encoder's posterior."""
        self.ema.eval()
        mean, log_var = self.ema.module.encode(images)  # type: ignore[operator]
        latents: Tensor = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return latents.view(-1, *self.prior.image_shape)

    def _standard(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_mean) / self.latent_variance.sqrt()

    def draw(self, seeds: range, labels: Tensor | None, *args: Any, **options: Any) -> Tensor:
        """Draw latents by the diffusion model, whose options these are, and decode them."""
        self.prior.ema.eval()
        return self._pixels(self.prior.draw(seeds, self.sample_labels(seeds, labels), *args, **options))

    def decode(self, latents: Tensor, labels: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
        """Images (N, C, H, W) of the noise (N, C, h, w) that the diffusion model begins with."""
        self.prior.ema.eval()
        return self._pixels(self.prior.decode(latents, labels, *args, **options))

    def trajectory(
        self, num_samples: int, num_frames: int = 8, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """How noise becomes images: (num_samples, num_frames, C, H, W), the last frame being the images.

        The others show what the diffusion model expects them to be, as noisy latents are nothing to look at.
        """

        def frame(x: Tensor, t: Tensor, expected: Tensor) -> Tensor:
            return self._pixels(expected).clamp(-1, 1)

        sample = partial(self.sample, num_samples, labels, seed, batch_size=num_samples)
        prior: Diffusion = self.prior  # type: ignore[assignment]
        return trajectory(sample, frame, prior.sampler, prior.num_steps, num_frames, **options)

    @torch.no_grad()
    def vary(
        self, images: Tensor, strength: float, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Other images (N, C, H, W) like the given ones: noise is added to their latents up to the time `strength`.

        Options are those of the diffusion model. Raises ValueError if the strength is not in (0, 1].
        """
        self.ema.eval()
        mean, _ = self.ema.module.encode(images)  # type: ignore[operator]
        latents = self._standard(mean.view(-1, *self.prior.image_shape))
        prior: Diffusion = self.prior  # type: ignore[assignment]
        return self._pixels(prior.drawn_near(latents, strength, labels, seed, **options)).clamp(-1, 1)

    def pictures(self, num_samples: int = 64, seed: int = 0) -> dict[str, Tensor]:
        """Samples, and eight of them on their way out of noise."""
        return super().pictures(num_samples, seed) | {"trajectory": self.trajectory(8, 8, seed=seed).flatten(0, 1)}

    def _pixels(self, standard: Tensor) -> Tensor:
        latents = standard * self.latent_variance.sqrt() + self.latent_mean
        return self.likelihood.mean(*self.ema.module.decode(latents.flatten(1)))  # type: ignore[operator]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) decoded from the mean latents of images."""
        self.ema.eval()
        mean, _ = self.ema.module.encode(images)  # type: ignore[operator]
        return self.likelihood.mean(*self.ema.module.decode(mean)).clamp(-1, 1)  # type: ignore[operator]
