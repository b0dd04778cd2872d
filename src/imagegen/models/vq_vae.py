"""VQ-VAE: an autoencoder with discrete codes, and a prior over them, trained one after the other in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.autoregressive import Autoregressive
from imagegen.models.base import LRSchedule, OptimizerFactory
from imagegen.models.two_stage import Share, TwoStageModel
from imagegen.objectives.likelihoods import PixelLikelihood, bits_per_dim, from_levels, levels
from imagegen.objectives.pixel_distributions import Categorical


class VQVAE(TwoStageModel):
    """van den Oord et al. 2017 (arXiv:1711.00937).

    For the first `autoencoder_share` of the budget the autoencoder learns to reconstruct images through codes
    (N, h, w); then it stands still and `prior`, an autoregressive model with the network that `prior_network` makes,
    learns the codes as if they were the grey levels of small pictures. Each stage runs through the learning-rate
    schedule. A sample is the expected image of codes drawn from the prior.
    """

    likelihood_kind = "bound, one code per image"

    def __init__(
        self,
        network: nn.Module,
        prior_network: Callable[..., nn.Module],
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        likelihood: PixelLikelihood,
        commitment: NonNegativeFloat,
        autoencoder_share: Share,
        lr: PositiveFloat,
        prior_lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        with torch.no_grad():
            grid = network.encode(torch.zeros(1, *self.image_shape)).shape[1:]  # type: ignore[operator]
        shape = (1, *grid)
        codes = Categorical(len(network.quantizer.codebook))  # type: ignore[union-attr, arg-type]
        codes_network = partial(prior_network, image_shape=shape)
        training = (prior_lr, optimizer, lr_schedule, ema_half_life)
        self.prior = Autoregressive(codes_network, shape, num_classes, codes, *training)
        self.num_classes = num_classes
        self.likelihood = likelihood
        self.num_levels = likelihood.num_levels
        self.commitment = commitment
        self.autoencoder_share = autoencoder_share

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Bits per dimension of the pixels given the codes and the commitment; later those of the codes."""
        if self.is_prior_stage:
            with torch.no_grad():
                self.ema.eval()
                codes = self._as_images(self.ema.module.encode(images))  # type: ignore[operator]
            return self.prior.losses(codes, labels)
        parameters, quantized = self.network(images)
        reconstruction = -self.likelihood.log_prob(images, *parameters).mean()
        loss = bits_per_dim(reconstruction, self.image_shape) + self.commitment * quantized.commitment
        share = torch.bincount(quantized.codes.flatten(), minlength=self.num_codes) / quantized.codes.numel()
        perplexity = torch.exp(-torch.xlogy(share, share).sum())
        terms = {"reconstruction": reconstruction, "commitment": quantized.commitment, "perplexity": perplexity}
        return {"loss": loss, **terms}

    @property
    def num_codes(self) -> int:
        """The size of the codebook."""
        return len(self.network.quantizer.codebook)  # type: ignore[union-attr, arg-type]

    def _as_images(self, codes: Tensor) -> Tensor:
        return from_levels(codes[:, None], self.num_codes)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log p(x | codes of x) + log p(codes of x), a lower bound in nats (N,): averaged weights."""
        network = self.ema.module
        codes = network.encode(images)  # type: ignore[operator]
        log_prob = self.likelihood.log_prob(images, *network.decode(codes))  # type: ignore[operator]
        return log_prob + self.prior.log_likelihood(self._as_images(codes), labels)

    def draw(self, seeds: range, labels: Tensor | None, temperature: float = 1.0) -> Tensor:
        """Draw codes from the prior and decode them."""
        self.prior.ema.eval()
        codes = self.prior.draw(seeds, labels, temperature)
        return self.decode(levels(codes[:, 0], self.num_codes))

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Expected images (N, C, H, W) of codes (N, h, w)."""
        return self.likelihood.mean(*self.ema.module.decode(latents))  # type: ignore[operator]

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (N, h, w) of images (N, C, H, W)."""
        self.ema.eval()
        codes: Tensor = self.ema.module.encode(images)  # type: ignore[operator]
        return codes

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) decoded from the codes of images."""
        return self.decode(self.encode(images)).clamp(-1, 1)
