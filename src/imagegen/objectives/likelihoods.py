"""Likelihoods of 8-bit pixels and the terms of the evidence lower bound, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_LEVELS = 256


class PixelLikelihood(Protocol):
    """A distribution of each pixel around a location, with one log scale."""

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Log probability of images (N, C, H, W) in [-1, 1], summed over pixels: (N,), in nats."""
        ...


@dataclass(frozen=True)
class DiscretizedLogistic:
    """A logistic distribution integrated over each of the 256 grey levels (Salimans et al. 2017, eq. 2).

    The lowest and highest level take the tails, so that the 256 probabilities sum to one.
    """

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        half_step = 1.0 / (NUM_LEVELS - 1)
        inverse_scale = torch.exp(-log_scale)
        upper = (images - location + half_step) * inverse_scale
        lower = (images - location - half_step) * inverse_scale
        width = 2 * half_step * inverse_scale
        # log(sigmoid(upper) - sigmoid(lower)), written so that neither tail loses precision
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        log_prob = torch.where(
            images < -1 + half_step,
            F.logsigmoid(upper),
            torch.where(images > 1 - half_step, F.logsigmoid(-lower), inside),
        )
        return log_prob.flatten(1).sum(1)


@dataclass(frozen=True)
class Bernoulli:
    """Black or white pixels, the location being their mean: for binarised images. The scale is not used."""

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        white = (0.5 * (location + 1)).clamp(1e-6, 1 - 1e-6)
        log_prob = torch.where(images > 0, white.log(), torch.log1p(-white))
        return log_prob.flatten(1).sum(1)


def categorical_log_prob(images: Tensor, logits: Tensor) -> Tensor:
    """Log probability of images (N, C, H, W) in [-1, 1] under logits (N, 256, C, H, W): (N,), in nats."""
    return -F.cross_entropy(logits, levels(images), reduction="none").flatten(1).sum(1)


def levels(images: Tensor) -> Tensor:
    """The grey levels 0..255 (int64) of images in [-1, 1]."""
    return ((images + 1) * 127.5).round().long()


def kl_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each row of (N, D), in nats: (N,) (Kingma & Welling 2013, app. B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)


def bits_per_dim(nll: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Nats per image as bits per pixel and channel."""
    return nll / (math.prod(image_shape) * math.log(2.0))
