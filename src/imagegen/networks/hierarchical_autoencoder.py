"""A variational autoencoder's networks with latents at several sizes; called as those of `networks.autoencoder`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.autoencoder import Block, Parameters, PixelHead, Posterior
from imagegen.networks.convolutional import sizes
from imagegen.networks.mlp import given
from imagegen.networks.unet import ChannelNorm


class HierarchicalAutoencoder(nn.Module):
    """A ladder of latents, coarse to fine: in the spirit of VDVAE (Child 2020, arXiv:2011.10650), without its tricks.

    From the smallest size to half the picture's, each of `num_groups` groups a size has `latent_channels` latents at
    each pixel. Their prior depends on all groups before, their posterior also on the picture (Sonderby et al. 2016).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: PositiveInt = 64,
        num_groups: PositiveInt = 2,
        latent_channels: PositiveInt = 4,
        num_classes: PositiveInt | None = None,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes(image_shape)[:-1]
        self.num_classes = num_classes
        self.latent_channels = latent_channels
        self.shapes = [(latent_channels, *size) for size in self.sizes for _ in range(num_groups)]
        self.latent_dim = sum(math.prod(shape) for shape in self.shapes)
        self.stem = nn.Conv2d(4 * image_shape[0], width, 3, padding=1)
        self.up = nn.ModuleList(Block(width) for _ in self.sizes)
        self.start = nn.Parameter(torch.zeros(1, width, *self.sizes[0]))
        self.label = nn.Embedding(num_classes, width) if num_classes is not None else None
        self.groups = nn.ModuleList(Group(width, latent_channels) for _ in self.shapes)
        self.head = PixelHead(width, image_shape[0], num_mixtures)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def infer(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Parameters, Posterior]:
        """Draw latents for images (N, C, H, W) from normal noise (N, latent_dim), and decode them."""
        x = self.stem(F.pixel_unshuffle(images, 2)).contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = []  # of the picture, from the smallest size up
        for i, block in enumerate(self.up):
            x = block(F.avg_pool2d(x, 2) if i else x)
            features.insert(0, x)
        return self._descend(labels, noise, features)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        """Parameters of the distribution of pixels given standard normal latents (N, latent_dim)."""
        return self._descend(labels, latents, None)[0]

    def _descend(
        self, labels: Tensor | None, noise: Tensor, features: list[Tensor] | None
    ) -> tuple[Parameters, Posterior]:
        x = self.start.expand(len(noise), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        if self.label is not None:
            x = x + self.label(given(labels))[:, :, None, None]
        parts = torch.split(noise, [math.prod(shape) for shape in self.shapes], dim=1)
        latents, kls = [], []
        ratio = torch.zeros(len(noise), device=noise.device)
        for group, shape, part in zip(self.groups, self.shapes, parts, strict=True):
            if x.shape[2:] != shape[1:]:
                x = F.interpolate(x, shape[1:], mode="nearest")
            feature = None if features is None else features[self.sizes.index(shape[1:])]
            x, latent, kl, log_ratio = group(x, part.view(-1, *shape), feature)
            latents.append(latent.flatten(1))
            kls.append(kl)
            ratio = ratio + log_ratio
        parameters: Parameters = self.head(x)
        return parameters, Posterior(torch.cat(latents, 1), torch.stack(kls, 1), ratio)


class Group(nn.Module):
    """One group of latents of a ladder: its prior, its posterior, and how it changes what comes after."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.prior = nn.Sequential(Block(width), ChannelNorm(width), nn.Conv2d(width, 2 * channels, 3, padding=1))
        self.posterior = nn.Sequential(
            nn.Conv2d(2 * width, width, 1),
            Block(width),
            ChannelNorm(width),
            nn.Conv2d(width, 2 * channels, 3, padding=1),
        )
        self.merge = nn.Conv2d(channels, width, 1)
        self.block = Block(width)
        for layers in (self.prior, self.posterior):  # both begin as the standard normal distribution
            nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, noise: Tensor, feature: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features from above (N, width, h, w) and noise to features below, latents, KL (N,) and log q - log p (N,).

        Without the picture's features the noise itself is the latent, standard normal under the prior.
        """
        prior_mean, prior_log_std = self._moments(self.prior(x))
        if feature is None:
            mean, log_std = prior_mean, prior_log_std
        else:
            mean, log_std = self._moments(self.posterior(torch.cat([x, feature], 1)))
        value = mean + log_std.exp() * noise
        latent = (value - prior_mean) * torch.exp(-prior_log_std)
        kl = prior_log_std - log_std - 0.5
        kl = kl + 0.5 * (
            (2 * (log_std - prior_log_std)).exp() + ((mean - prior_mean) * (-prior_log_std).exp()).square()
        )
        log_ratio = 0.5 * (latent.square() - noise.square()) + prior_log_std - log_std
        x = self.block(x + self.merge(value.to(x.dtype)))
        return x, latent, kl.flatten(1).sum(1), log_ratio.flatten(1).sum(1)

    @staticmethod
    def _moments(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = out.float().chunk(2, 1)
        return mean, 5 * torch.tanh(log_std / 5)  # between -5 and 5, or a step may overflow
