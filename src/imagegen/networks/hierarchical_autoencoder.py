"""A variational autoencoder's networks with latents at several sizes; called as those of `networks.autoencoder`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.autoencoder import Block, Parameters, PixelHead, Posterior, flow_posterior, moments
from imagegen.networks.class_prior import ClassPrior
from imagegen.networks.convolutional import sizes
from imagegen.networks.coupling_flow import CouplingFlow
from imagegen.networks.mlp import with_labels
from imagegen.networks.unet import ChannelNorm


class HierarchicalAutoencoder(nn.Module):
    """A ladder of latents, coarse to fine: in the spirit of VDVAE (Child 2020, arXiv:2011.10650), without its tricks.

    At the top stands a vector of `top_dim` latents that says what the picture shows; its prior is a flow of
    `num_couplings` layers (`networks.autoencoder.ResidualAutoencoder`). Below, from the smallest size to half the
    picture's, each of `num_groups` groups a size has `latent_channels` latents at each pixel. Their prior depends on
    all latents before, their posterior also on the picture (Sonderby et al. 2016).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: PositiveInt = 32,
        top_dim: PositiveInt = 32,
        num_couplings: PositiveInt = 6,
        num_groups: PositiveInt = 1,
        latent_channels: PositiveInt = 4,
        num_classes: PositiveInt | None = None,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes(image_shape)[:-1]
        self.num_classes = num_classes
        self.shapes = [(latent_channels, *size) for size in self.sizes for _ in range(num_groups)]
        self.parts = [top_dim, *(math.prod(shape) for shape in self.shapes)]
        self.latent_dim = sum(self.parts)
        self.stem = nn.Conv2d(4 * image_shape[0], width, 3, padding=1)
        self.up = nn.ModuleList(Block(width) for _ in self.sizes)
        features, labels = width * math.prod(self.sizes[0]), num_classes or 0
        self.posterior = nn.Linear(features + labels, 2 * top_dim)
        self.prior = ClassPrior(num_classes, top_dim)
        self.flow = CouplingFlow(top_dim, num_couplings)
        self.project = nn.Linear(top_dim + labels, features)
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
        out = self.posterior(with_labels(x.flatten(1), labels, self.num_classes))
        mean, log_var = self.prior.standard(*moments(out), labels)
        drawn, top = flow_posterior(mean, log_var, noise[:, : self.parts[0]], self.flow)
        parameters, rest = self._descend(drawn, labels, noise, features)
        latents, kl = torch.cat([top.latents, rest.latents], 1), torch.cat([top.kl, rest.kl], 1)
        return parameters, Posterior(latents, kl, top.log_ratio + rest.log_ratio)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Parameters:
        """Parameters of the distribution of pixels given standard normal latents (N, latent_dim)."""
        return self._descend(self.flow(latents[:, : self.parts[0]]), labels, latents, None)[0]

    def _descend(
        self, top: Tensor, labels: Tensor | None, noise: Tensor, features: list[Tensor] | None
    ) -> tuple[Parameters, Posterior]:
        placed = with_labels(self.prior(top, labels), labels, self.num_classes)
        x = self.project(placed).view(len(top), -1, *self.sizes[0])
        x = x.contiguous(memory_format=torch.channels_last)
        latents, kls = [], []
        ratio = torch.zeros(len(noise), device=noise.device)
        for group, shape, part in zip(self.groups, self.shapes, torch.split(noise, self.parts, dim=1)[1:], strict=True):
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
