"""Likelihoods of pixels with 256 grey levels, or two: black and white. In nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_LEVELS = 256


class PixelLikelihood(Protocol):
    """A distribution of each pixel, given what a decoder says of it: a location and a log scale, perhaps more."""

    @property
    def num_levels(self) -> int:
        """How many values a pixel can have, evenly spaced in [-1, 1]."""
        ...

    def log_prob(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Log probability of images (N, C, H, W) in [-1, 1], summed over pixels: (N,), in nats."""
        ...

    def mean(self, *parameters: Tensor) -> Tensor:
        """The expected images (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class DiscretizedLogistic:
    """A logistic distribution integrated over each of the grey levels (Salimans et al. 2017, eq. 2).

    The lowest and highest level take the tails, so that the probabilities sum to one. With two levels it is the
    Bernoulli distribution whose logit is location / scale. Takes locations (N, C, H, W) and log scales that broadcast
    to them.
    """

    num_levels: int = NUM_LEVELS

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        return logistic_log_prob(images, location, log_scale, self.num_levels).flatten(1).sum(1)

    def mean(self, location: Tensor, log_scale: Tensor) -> Tensor:
        return logistic_mean(location, log_scale, self.num_levels)


@dataclass(frozen=True)
class LogisticMixture:
    """A mixture of K discretised logistic distributions for each pixel, its channels drawn from one component.

    As PixelCNN++ (Salimans et al. 2017, eq. 1) without its regression of green on red and blue on both. Takes
    locations and log scales (N, K, C, H, W) and logits (N, K, H, W).
    """

    num_levels: int = NUM_LEVELS

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor, logits: Tensor) -> Tensor:
        components = logistic_log_prob(images[:, None], location, log_scale, self.num_levels).sum(2)  # (N, K, H, W)
        return torch.logsumexp(components + logits.log_softmax(1), 1).flatten(1).sum(1)

    def mean(self, location: Tensor, log_scale: Tensor, logits: Tensor) -> Tensor:
        means = logistic_mean(location, log_scale, self.num_levels)
        return (means * logits.softmax(1)[:, :, None]).sum(1)


def logistic_log_prob(images: Tensor, location: Tensor, log_scale: Tensor, num_levels: int = NUM_LEVELS) -> Tensor:
    """Log probability of each value of images in [-1, 1] under a logistic distribution over the grey levels."""
    half_step = 1.0 / (num_levels - 1)
    inverse_scale = torch.exp(-log_scale)
    upper = (images - location + half_step) * inverse_scale
    lower = (images - location - half_step) * inverse_scale
    width = 2 * half_step * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)), written so that neither tail loses precision
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
    return torch.where(
        images < -1 + half_step,
        F.logsigmoid(upper),
        torch.where(images > 1 - half_step, F.logsigmoid(-lower), inside),
    )


def logistic_mean(location: Tensor, log_scale: Tensor, num_levels: int) -> Tensor:
    """The expected pixels: the location, but for black and white pixels, of which it only says how likely white is."""
    return torch.tanh(0.5 * location * torch.exp(-log_scale)) if num_levels == 2 else location


def levels(images: Tensor, num_levels: int = NUM_LEVELS) -> Tensor:
    """The nearest levels 0..num_levels - 1 (int64) of images in [-1, 1]."""
    return ((images + 1) * ((num_levels - 1) / 2)).round().long()


def from_levels(indices: Tensor, num_levels: int = NUM_LEVELS) -> Tensor:
    """The values in [-1, 1] (float32) of levels 0..num_levels - 1. Inverse of `levels`."""
    return indices / ((num_levels - 1) / 2) - 1


def bits_per_dim(nll: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Nats per image as bits per pixel and channel."""
    return nll / (math.prod(image_shape) * math.log(2.0))
