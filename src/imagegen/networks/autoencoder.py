"""Encoders and decoders of variational autoencoders.

Each is called as `infer(images, labels, noise)`, which draws latents from the approximate posterior and decodes them,
and `decode(latents, labels)`. Latents are standard normal under the prior, whatever the network makes of them. What a
decoder returns are the parameters of a distribution over pixels (`objectives.likelihoods`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.class_prior import ClassPrior
from imagegen.networks.convolutional import sizes
from imagegen.networks.coupling_flow import CouplingFlow
from imagegen.networks.mlp import mlp, with_labels
from imagegen.networks.unet import ChannelNorm

Parameters = tuple[Tensor, ...]


class Posterior(NamedTuple):
    """Latents drawn for N images: (N, latent_dim), standard normal under the prior.

    `kl` (N, G) holds the divergence from the prior of each latent or group of latents, `log_ratio` (N,) log q - log p
    of the latents that were drawn; both in nats.
    """

    latents: Tensor
    kl: Tensor
    log_ratio: Tensor


def gaussian_posterior(mean: Tensor, log_var: Tensor, noise: Tensor) -> Posterior:
    """The diagonal normal distribution of (N, D) beside a standard normal prior (Kingma & Welling 2013, app. B)."""
    latents = mean + torch.exp(0.5 * log_var) * noise
    kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var)
    log_ratio = 0.5 * (latents.square() - noise.square() - log_var).sum(1)
    return Posterior(latents, kl, log_ratio)


def flow_posterior(mean: Tensor, log_var: Tensor, noise: Tensor, flow: CouplingFlow) -> tuple[Tensor, Posterior]:
    """Vectors (N, D) drawn as by `gaussian_posterior`, and their latents, those of which `flow` makes them.

    The KL term (N, 1) is that of the latents drawn.
    """
    drawn = mean + torch.exp(0.5 * log_var) * noise
    latents, log_det = flow.inverse(drawn)
    log_ratio = 0.5 * (latents.square() - noise.square() - log_var).sum(1) + log_det
    return drawn, Posterior(latents, log_ratio[:, None], log_ratio)


def moments(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, each (N, D), of what a layer puts out (N, 2 * D)."""
    mean, log_var = out.float().chunk(2, dim=1)
    return mean, log_var.clamp(-20, 10)


class Autoencoder(nn.Module):
    """A network with one layer of latents: a subclass sets these, and writes `moments` and `decode`."""

    latent_dim: int
    num_classes: int | None
    prior: ClassPrior

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean and log variance of the posterior, side by side: (N, 2 * latent_dim)."""
        raise NotImplementedError

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, each (N, latent_dim)."""
        return self.prior.standard(*moments(self.moments(images, labels)), labels)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        """Parameters of the distribution of pixels given latents (N, latent_dim)."""
        raise NotImplementedError

    def infer(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Parameters, Posterior]:
        """Draw latents for images (N, C, H, W) from normal noise (N, latent_dim), and decode them."""
        posterior = gaussian_posterior(*self.encode(images, labels), noise)
        return self.decode(posterior.latents, labels), posterior


class MLPAutoencoder(Autoencoder):
    """Multilayer perceptrons."""

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        hidden: Sequence[PositiveInt],
        num_classes: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        pixels, labels = math.prod(image_shape), num_classes or 0
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.prior = ClassPrior(num_classes, latent_dim)
        self.encoder = mlp([pixels + labels, *hidden, 2 * latent_dim], nn.SiLU)
        self.decoder = mlp([latent_dim + labels, *reversed(hidden), 2 * pixels], nn.SiLU)

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.encoder(with_labels(images.flatten(1), labels, self.num_classes))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        outputs = self.decoder(with_labels(self.prior(latents, labels), labels, self.num_classes)).float()
        location, log_scale = outputs.view(-1, 2, *self.image_shape).unbind(1)
        return location, bounded(log_scale)


class ResidualAutoencoder(Autoencoder):
    """Residual convolutions on pictures folded 4x4 into channels, down to the smallest size and back.

    With `num_couplings` a flow of so many layers stands between standard normal latents and those that encoder and
    decoder know (Chen et al. 2017, arXiv:1611.02731): a prior that takes the shape of what the encoder makes of the
    data, where a normal distribution leaves holes between digits. The KL term is then that of the latents drawn.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 2,
        num_mixtures: PositiveInt | None = None,
        num_couplings: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.smallest = steps[0]
        features, labels = width * math.prod(self.smallest), num_classes or 0
        num_levels = len(steps) - 2
        self.encoder = Trunk(16 * image_shape[0], width, num_blocks, num_levels, is_down=True)
        self.posterior = nn.Linear(features + labels, 2 * latent_dim)
        self.prior = ClassPrior(num_classes, latent_dim)
        self.flow = CouplingFlow(latent_dim, num_couplings) if num_couplings else None
        self.project = nn.Linear(latent_dim + labels, features)
        self.decoder = Trunk(width, width, num_blocks, num_levels, is_down=False)
        self.head = PixelHead(width, image_shape[0], num_mixtures, patch_size=4)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        features = self.encoder(F.pixel_unshuffle(images, 4)).flatten(1)
        return self.posterior(with_labels(features, labels, self.num_classes))  # type: ignore[no-any-return]

    def infer(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Parameters, Posterior]:
        if self.flow is None:
            return super().infer(images, labels, noise)
        drawn, posterior = flow_posterior(*self.encode(images, labels), noise, self.flow)
        return self._decode(drawn, labels), posterior

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        return self._decode(latents if self.flow is None else self.flow(latents), labels)

    def _decode(self, drawn: Tensor, labels: Tensor | None) -> Parameters:
        placed = with_labels(self.prior(drawn, labels), labels, self.num_classes)
        x = self.project(placed).view(len(drawn), -1, *self.smallest)
        parameters: Parameters = self.head(self.decoder(x))
        return parameters


class SpatialAutoencoder(Autoencoder):
    """Residual convolutions whose latents are a small picture of `latent_shape` (num_channels, h, w), flattened."""

    def __init__(
        self,
        image_shape: Sequence[int],
        num_channels: PositiveInt = 4,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 2,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.latent_shape = (num_channels, *steps[0])
        self.latent_dim = math.prod(self.latent_shape)
        self.num_classes = None
        self.prior = ClassPrior(None, self.latent_dim)
        num_levels = len(steps) - 2
        self.encoder = Trunk(16 * image_shape[0], width, num_blocks, num_levels, is_down=True)
        self.posterior = nn.Sequential(ChannelNorm(width), nn.SiLU(), nn.Conv2d(width, 2 * num_channels, 1))
        self.decoder = Trunk(num_channels, width, num_blocks, num_levels, is_down=False)
        self.head = PixelHead(width, image_shape[0], num_mixtures, patch_size=4)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.posterior(self.encoder(F.pixel_unshuffle(images, 4))).flatten(1)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        parameters: Parameters = self.head(self.decoder(latents.view(-1, *self.latent_shape)))
        return parameters


class Trunk(nn.Module):
    """Residual blocks at each size, with halving or doubling between sizes: (N, C, H, W) to (N, width, h, w)."""

    def __init__(self, channels: int, width: int, num_blocks: int, num_levels: int, is_down: bool) -> None:
        super().__init__()
        self.is_down = is_down
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(num_blocks))) for _ in range(num_levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).contiguous(memory_format=torch.channels_last)
        for i, blocks in enumerate(self.levels):
            if i:
                x = F.avg_pool2d(x, 2) if self.is_down else F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = blocks(x)
        return x


class Block(nn.Module):
    """Two 3x3 convolutions beside a skip connection; it begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            ChannelNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class PixelHead(nn.Module):
    """Features (N, width, h, w) to the parameters of pictures `patch_size` times as large.

    Locations and log scales (N, C, H, W); with `num_mixtures` K, (N, K, C, H, W) and logits (N, K, H, W). Locations are
    not bounded: a `tanh` sticks at the black of a background within the first steps, and with it the whole decoder.
    """

    def __init__(self, width: int, channels: int, num_mixtures: int | None, patch_size: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.num_mixtures = num_mixtures
        self.patch_size = patch_size
        outputs = 2 * channels if num_mixtures is None else num_mixtures * (2 * channels + 1)
        self.norm = ChannelNorm(width)
        self.conv = nn.Conv2d(width, patch_size**2 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Parameters:
        out = F.pixel_shuffle(self.conv(F.silu(self.norm(x))), self.patch_size).float()
        if self.num_mixtures is None:
            location, log_scale = out.chunk(2, 1)
            return location, bounded(log_scale)
        channels = [self.num_mixtures * n for n in (self.channels, self.channels, 1)]
        location, log_scale, logits = torch.split(out, channels, 1)
        shape = len(x), self.num_mixtures, self.channels, *out.shape[2:]
        return location.reshape(shape), bounded(log_scale).reshape(shape), logits


def bounded(log_scale: Tensor) -> Tensor:
    """Log scales as a network puts them out: they begin at -1 and stay above -7, a hundredth of a grey level."""
    return (log_scale - 1).clamp(min=-7.0)
