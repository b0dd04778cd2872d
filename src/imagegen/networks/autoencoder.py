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
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.convolutional import sizes
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


class Autoencoder(nn.Module):
    """A network with one layer of latents: a subclass writes `moments` and `decode`."""

    latent_dim: int
    num_classes: int | None

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean and log variance of the posterior, side by side: (N, 2 * latent_dim)."""
        raise NotImplementedError

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, each (N, latent_dim)."""
        mean, log_var = self.moments(images, labels).float().chunk(2, dim=1)
        return mean, log_var.clamp(-20, 10)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        """Parameters of the distribution of pixels given latents (N, latent_dim)."""
        raise NotImplementedError

    def infer(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Parameters, Posterior]:
        """Draw latents for images (N, C, H, W) from normal noise (N, latent_dim), and decode them."""
        posterior = gaussian_posterior(*self.encode(images, labels), noise)
        return self.decode(posterior.latents, labels), posterior


class MLPAutoencoder(Autoencoder):
    """Multilayer perceptrons; one scale for all pixels."""

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
        self.encoder = mlp([pixels + labels, *hidden, 2 * latent_dim], nn.SiLU)
        self.decoder = mlp([latent_dim + labels, *reversed(hidden), pixels], nn.SiLU)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.encoder(with_labels(images.flatten(1), labels, self.num_classes))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        location = torch.tanh(self.decoder(with_labels(latents, labels, self.num_classes)).float())
        return location.view(-1, *self.image_shape), self.log_scale


class ResidualAutoencoder(Autoencoder):
    """Residual convolutions from half the picture's size to the smallest one and back."""

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 1,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.smallest = steps[0]
        features, labels = width * math.prod(self.smallest), num_classes or 0
        num_levels = len(steps) - 1
        self.encoder = Trunk(4 * image_shape[0], width, num_blocks, num_levels, is_down=True)
        self.posterior = nn.Linear(features + labels, 2 * latent_dim)
        self.project = nn.Linear(latent_dim + labels, features)
        self.decoder = Trunk(width, width, num_blocks, num_levels, is_down=False)
        self.head = PixelHead(width, image_shape[0], num_mixtures)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        features = self.encoder(F.pixel_unshuffle(images, 2)).flatten(1)
        return self.posterior(with_labels(features, labels, self.num_classes))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        x = self.project(with_labels(latents, labels, self.num_classes)).view(len(latents), -1, *self.smallest)
        parameters: Parameters = self.head(self.decoder(x))
        return parameters


class SpatialAutoencoder(Autoencoder):
    """Residual convolutions whose latents are a small picture of `latent_shape` (num_channels, h, w), flattened."""

    def __init__(
        self,
        image_shape: Sequence[int],
        num_channels: PositiveInt = 4,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 1,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.latent_shape = (num_channels, *steps[0])
        self.latent_dim = math.prod(self.latent_shape)
        self.num_classes = None
        num_levels = len(steps) - 1
        self.encoder = Trunk(4 * image_shape[0], width, num_blocks, num_levels, is_down=True)
        self.posterior = nn.Sequential(ChannelNorm(width), nn.SiLU(), nn.Conv2d(width, 2 * num_channels, 1))
        self.decoder = Trunk(num_channels, width, num_blocks, num_levels, is_down=False)
        self.head = PixelHead(width, image_shape[0], num_mixtures)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def moments(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.posterior(self.encoder(F.pixel_unshuffle(images, 2))).flatten(1)  # type: ignore[no-any-return]

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
    """Features (N, width, h, w) at half the picture's size to the parameters of its pixels.

    Locations (N, C, H, W) and one log scale for all pixels; with `num_mixtures` K, locations and log scales
    (N, K, C, H, W) and logits (N, K, H, W).
    """

    def __init__(self, width: int, channels: int, num_mixtures: int | None) -> None:
        super().__init__()
        self.channels = channels
        self.num_mixtures = num_mixtures
        outputs = channels if num_mixtures is None else num_mixtures * (2 * channels + 1)
        self.norm = ChannelNorm(width)
        self.conv = nn.Conv2d(width, 4 * outputs, 3, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Parameters:
        out = F.pixel_shuffle(self.conv(F.silu(self.norm(x))), 2).float()
        if self.num_mixtures is None:
            return torch.tanh(out), self.log_scale
        channels = [self.num_mixtures * n for n in (self.channels, self.channels, 1)]
        location, log_scale, logits = torch.split(out, channels, 1)
        shape = len(x), self.num_mixtures, self.channels, *out.shape[2:]
        log_scale = (self.log_scale + log_scale).clamp(min=-7.0)
        return torch.tanh(location.reshape(shape)), log_scale.reshape(shape), logits
