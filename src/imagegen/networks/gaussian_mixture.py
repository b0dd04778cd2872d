"""A mixture of normal distributions over pictures: what people modelled pictures with before networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy.linalg
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn


class GaussianMixture(nn.Module):
    """A density of images (N, C, H, W).

    It is a mixture with full covariances in the space of `num_features` principal components and, in all other
    directions, one normal distribution of equal variances.

    The parameters follow averages of sufficient statistics, so that no gradient is needed: `expect` moves the averages
    by what a batch says (the E step), `maximize` returns the parameters that fit them best (the M step).
    `shrinkage` mixes each covariance with that of all data, as if it had seen so many more images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_components: PositiveInt,
        num_features: PositiveInt,
        shrinkage: NonNegativeFloat = 5.0,
    ) -> None:
        super().__init__()
        pixels = math.prod(image_shape)
        self.image_shape = tuple(image_shape)
        self.num_components = num_components
        self.num_features = num_features = min(num_features, pixels - 1)
        self.shrinkage = shrinkage
        self.log_weights = nn.Parameter(torch.full((num_components,), -math.log(num_components)), requires_grad=False)
        self.means = nn.Parameter(torch.randn(num_components, num_features), requires_grad=False)
        identity = torch.eye(num_features).repeat(num_components, 1, 1)
        self.covariances = nn.Parameter(identity, requires_grad=False)
        self.centre: Tensor
        self.basis: Tensor
        self.variances: Tensor
        self.residual_variance: Tensor
        self.counts: Tensor
        self.firsts: Tensor
        self.seconds: Tensor
        self.register_buffer("centre", torch.zeros(pixels))
        self.register_buffer("basis", torch.eye(pixels)[:, :num_features].clone())
        self.register_buffer("variances", torch.ones(num_features))
        self.register_buffer("residual_variance", torch.ones(()))
        self.register_buffer("counts", torch.full((num_components,), 1 / num_components))
        self.register_buffer("firsts", self.means / num_components)
        self.register_buffer("seconds", (identity + _outer(self.means)) / num_components)

    @torch.no_grad()
    def begin(self, images: Tensor, generator: torch.Generator) -> None:
        """Find the principal components of images (N, C, H, W), and put the means on some of them."""
        rows = images.flatten(1).double()
        self.centre.copy_(rows.mean(0))
        covariance = (rows - self.centre).T @ (rows - self.centre) / len(rows)
        size = len(covariance)  # of which only the first components are looked for, in half the time
        some = scipy.linalg.eigh(covariance.cpu().numpy(), subset_by_index=(size - self.num_features, size - 1))
        values, vectors = (torch.from_numpy(array).flip(-1) for array in some)  # the largest first
        self.basis.copy_(vectors)
        self.variances.copy_(values.clamp(min=1e-6))
        rest = (float(covariance.trace()) - float(values.sum())) / (size - self.num_features)
        self.residual_variance.fill_(max(rest, 1e-6))
        chosen = torch.randperm(len(rows), generator=generator)[torch.arange(self.num_components) % len(rows)]
        self.means.copy_(self.features(images[chosen.to(images.device)]))
        self.covariances.copy_(torch.diag(self.variances).expand_as(self.covariances))
        self.log_weights.fill_(-math.log(self.num_components))
        self.counts.fill_(1 / self.num_components)
        self.firsts.copy_(self.means / self.num_components)
        self.seconds.copy_((self.covariances + _outer(self.means)) / self.num_components)

    def features(self, images: Tensor) -> Tensor:
        """Principal components (N, num_features) of images (N, C, H, W)."""
        return (images.flatten(1) - self.centre) @ self.basis

    def component_log_probs(self, features: Tensor) -> Tensor:
        """Log of weight times density (N, K) of features (N, num_features), in nats."""
        factors = self._factors()  # (K, D, D)
        centred = (features[None] - self.means[:, None]).transpose(1, 2)  # (K, D, N)
        scaled = torch.linalg.solve_triangular(factors, centred, upper=False)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        log_density = -0.5 * scaled.square().sum(1) - log_det[:, None]
        constant = 0.5 * self.num_features * math.log(2 * math.pi)
        log_probs: Tensor = (log_density - constant + self.log_weights.log_softmax(0)[:, None]).T
        return log_probs

    def log_prob(self, images: Tensor) -> Tensor:
        """Log density (N,) of images (N, C, H, W), in nats."""
        rows = images.flatten(1) - self.centre
        features = rows @ self.basis
        rest = (rows.square().sum(1) - features.square().sum(1)).clamp(min=0)
        others = rows.shape[1] - self.num_features
        log_rest = -0.5 * (rest / self.residual_variance + others * torch.log(2 * math.pi * self.residual_variance))
        return torch.logsumexp(self.component_log_probs(features), 1) + log_rest

    def _factors(self) -> Tensor:
        jitter = 1e-6 * torch.eye(self.num_features, device=self.covariances.device)
        factors: Tensor = torch.linalg.cholesky(self.covariances.float() + jitter)
        return factors

    @torch.no_grad()
    def expect(self, images: Tensor, step: float) -> None:
        """Move the averages a share `step` of the way to the sufficient statistics of images (N, C, H, W)."""
        features = self.features(images)
        shares = self.component_log_probs(features).softmax(1)  # (N, K), of each component in each image
        num = len(images)
        weighted = shares.T[:, :, None] * features[None]  # (K, N, D)
        self.counts.lerp_(shares.mean(0), step)
        self.firsts.lerp_(weighted.sum(1) / num, step)
        self.seconds.lerp_(weighted.transpose(1, 2) @ features / num, step)

    @torch.no_grad()
    def maximize(self, window: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (K,), means (K, D) and covariances (K, D, D) that fit the averages of about `window` images."""
        counts = self.counts.clamp(min=1e-8)
        means = self.firsts / counts[:, None]
        spread = self.seconds / counts[:, None, None] - _outer(means)
        trust = (1 / (1 + self.shrinkage / (counts * window)))[:, None, None]
        prior = torch.diag(self.variances * self.num_components ** (-2 / self.num_features))
        covariances = trust * 0.5 * (spread + spread.transpose(1, 2)) + (1 - trust) * prior
        floor = 1e-3 * self.variances.min()
        return counts.log(), means, covariances + floor * torch.eye(self.num_features, device=means.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) of standard normal latents (N, 1 + num_features): a component, then a place in it."""
        probability = torch.special.ndtr(latents[:, 0])
        cumulative = self.log_weights.softmax(0).cumsum(0)
        chosen = torch.searchsorted(cumulative, probability.clamp(max=float(cumulative[-1]) - 1e-7))
        factors = self._factors()[chosen]
        features = self.means[chosen] + (factors @ latents[:, 1:, None]).squeeze(2)
        return (self.centre + features @ self.basis.T).view(-1, *self.image_shape)


def _outer(vectors: Tensor) -> Tensor:
    return vectors[:, :, None] * vectors[:, None, :]
