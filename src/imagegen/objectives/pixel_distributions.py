"""Distributions of a pixel given those before it: what an autoregressive network's outputs mean, and how to draw.

The channels of a pixel are drawn in groups, one after the other: a network sees the groups before when it computes the
parameters of the next. All values lie in [-1, 1], at one of `num_levels` evenly spaced levels.
"""

from __future__ import annotations

import math
from typing import Annotated, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from imagegen.objectives.likelihoods import NUM_LEVELS, from_levels, levels, logistic_log_prob

NumLevels = Annotated[int, Field(ge=2)]
MIN_LOG_SCALE = -7.0  # a logistic far narrower than a level
MAX_LOG_SCALE = 7.0  # far wider than all levels together; far above, the chance of a level is no longer a number


class PixelDistribution(Protocol):
    """What `models.Autoregressive` asks of a distribution."""

    num_levels: int
    is_softmax: bool  # whether the parameters are logits, which a number added to all of them does not change

    def num_groups(self, channels: int) -> int:
        """How many groups of channels are drawn one after the other."""
        ...

    def num_parameters(self, channels: int) -> int:
        """How many parameters P a group has."""
        ...

    def num_uniforms(self, channels: int) -> int:
        """How many uniform numbers U it takes to draw a group."""
        ...

    def log_prob(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Log probability in nats (N,) of images (N, C, H, W), given parameters (N, P, G, H, W)."""
        ...

    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
        """Values (..., C / G) of a group of pixels, given its parameters (..., P) and uniforms (..., U) in [0, 1)."""
        ...


class Categorical:
    """A probability for each level of each channel: van den Oord et al. 2016; with two levels a Bernoulli."""

    is_softmax = True

    def __init__(self, num_levels: NumLevels = NUM_LEVELS) -> None:
        self.num_levels = num_levels

    def num_groups(self, channels: int) -> int:
        return channels

    def num_parameters(self, channels: int) -> int:
        return self.num_levels

    def num_uniforms(self, channels: int) -> int:
        return 1

    def log_prob(self, images: Tensor, parameters: Tensor) -> Tensor:
        logits = parameters.permute(0, 3, 4, 2, 1)  # (N, H, W, C, L), as they lie in memory
        targets = levels(images, self.num_levels).permute(0, 2, 3, 1)
        # Under bf16 autocast the logits stay in bf16 here: in fp32 this line would be half the cost of a step.
        with torch.autocast(images.device.type, enabled=False):
            nll = F.cross_entropy(logits.flatten(0, 3), targets.flatten(), reduction="none")
        nll = nll if nll.dtype == torch.float64 else nll.float()
        return -nll.view(len(images), -1).sum(1)

    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
        drawn = inverse_cdf(parameters / temperature, uniforms[..., 0])
        return from_levels(drawn, self.num_levels)[..., None]


class LogisticMixture:
    """A mixture of discretised logistic distributions of all channels: Salimans et al. 2017 (PixelCNN++), eqs. 1 to 3.

    All channels come from one component; within it the mean of green is linear in red and that of blue in both. The
    lowest and highest level take the tails, so probabilities sum to one for any number of levels. Parameters are, for K
    components, K logits and K means, log scales and coefficients for each channel. They are read as differences from
    means spread evenly over [-1, 1] and scales of 1 / K, so that an untrained network covers all levels.
    """

    is_softmax = False

    def __init__(self, num_mixtures: PositiveInt = 10, num_levels: NumLevels = NUM_LEVELS) -> None:
        self.num_mixtures = num_mixtures
        self.num_levels = num_levels

    def num_groups(self, channels: int) -> int:
        return 1

    def num_parameters(self, channels: int) -> int:
        return self.num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)

    def num_uniforms(self, channels: int) -> int:
        return 1 + channels

    def log_prob(self, images: Tensor, parameters: Tensor) -> Tensor:
        values = images.permute(0, 2, 3, 1)[..., None]  # (N, H, W, C, 1)
        by_component = self._by_component(parameters[:, :, 0].permute(0, 2, 3, 1))
        spread = self._spread(by_component)
        logits, means, log_scales, coefficients = self._split(by_component, spread, images.shape[1])
        log_prob = logits.log_softmax(-1)
        for channel in range(images.shape[1]):
            mean = self._mean(channel, means, coefficients, values[..., :channel, :])
            scale = log_scales[..., channel, :]
            log_prob = log_prob + logistic_log_prob(values[..., channel, :], mean, scale, self.num_levels)
        return torch.logsumexp(log_prob, -1).flatten(1).sum(1)

    def draw(self, parameters: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
        by_component = self._by_component(parameters)
        component = inverse_cdf(by_component[..., 0, :] / temperature, uniforms[..., 0])
        chosen = by_component.gather(-1, component[..., None, None].expand(*by_component.shape[:-1], 1))
        spread = self._spread(by_component)[component][..., None, None]
        channels = uniforms.shape[-1] - 1
        _, means, log_scales, coefficients = self._split(chosen, spread, channels)
        noise = log_scales.exp() * temperature * torch.logit(uniforms[..., 1:, None].to(means.dtype), eps=1e-7)
        drawn = torch.empty_like(means)  # (..., C, 1)
        for channel in range(channels):
            value = (self._mean(channel, means, coefficients, drawn) + noise[..., channel, :]).clamp(-1, 1)
            drawn[..., channel, :] = from_levels(levels(value, self.num_levels), self.num_levels)
        return drawn[..., 0]

    def _by_component(self, parameters: Tensor) -> Tensor:
        """Parameters (..., P) as (..., P / K, K)."""
        parameters = parameters if parameters.dtype == torch.float64 else parameters.float()
        return parameters.unflatten(-1, (-1, self.num_mixtures))  # type: ignore[no-untyped-call,no-any-return]

    def _spread(self, like: Tensor) -> Tensor:
        """The means (K,) of a network that says nothing."""
        return torch.linspace(-1, 1, self.num_mixtures + 2, dtype=like.dtype, device=like.device)[1:-1]

    def _split(self, by_component: Tensor, spread: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of (..., P / K, K): logits (..., K), means and log scales (..., C, K), coefficients (..., C (C - 1) / 2, K).

        K may be one of the components, with its `spread` (..., 1, 1).
        """
        logits, means, log_scales, coefficients = torch.split(
            by_component, [1, channels, channels, channels * (channels - 1) // 2], dim=-2
        )
        log_scales = (log_scales - math.log(self.num_mixtures)).clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)
        return logits[..., 0, :], means + spread, log_scales, torch.tanh(coefficients)

    def _mean(self, channel: int, means: Tensor, coefficients: Tensor, before: Tensor) -> Tensor:
        """Means (..., K) of a channel, given the values (..., c, 1) of those before."""
        first = channel * (channel - 1) // 2
        mean: Tensor = means[..., channel, :]
        for i in range(channel):
            mean = mean + coefficients[..., first + i, :] * before[..., i, :]
        return mean


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Levels (...) at which the cumulative distributions of logits (..., L) reach uniforms (...) in [0, 1)."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    thresholds = uniforms[..., None] * cumulative[..., -1:]  # never above the last one, whatever its rounding
    return torch.searchsorted(cumulative.contiguous(), thresholds.contiguous())[..., 0]
