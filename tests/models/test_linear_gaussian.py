"""The bound of a VAE whose marginal likelihood is known: linear maps, normal pixels (probabilistic PCA)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from imagegen.models import VAE
from imagegen.networks.autoencoder import MLPAutoencoder

SHAPE = (1, 2, 3)
PIXELS = 6
LATENTS = 2
OFFSET = 1  # of a log scale, by `autoencoder.bounded`


@dataclass(frozen=True)
class NormalPixels:
    num_levels: int = 256

    def log_prob(self, images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        return torch.distributions.Normal(location, log_scale.exp()).log_prob(images).flatten(1).sum(1)

    def mean(self, location: Tensor, log_scale: Tensor) -> Tensor:
        return location


class Case(NamedTuple):
    vae: VAE
    images: Tensor  # (N, *SHAPE)
    marginal: Tensor  # (N,), log p(x) in nats
    divergence: float  # of the encoder from the posterior, in nats
    chi_square: float  # of the posterior from the encoder: the variance of the normalised importance weights


def linear_gaussian(shift: float = 0.0, widening: float = 1.0, num_images: int = 5) -> Case:
    """A VAE without hidden layers, its encoder wrong by `shift` and `widening` in deviations of the posterior.

    The columns of the decoder are orthogonal, so that the posterior has independent latents, as the encoder's has.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(PIXELS, LATENTS, generator=generator, dtype=torch.float64)).Q
    weight = basis * torch.tensor([0.8, 0.3])
    bias = 0.1 * torch.randn(PIXELS, generator=generator, dtype=torch.float64)
    deviation = 0.4
    precision = 1 + weight.square().sum(0) / deviation**2  # of the posterior, (LATENTS,)
    encoder = weight.T / deviation**2 / precision[:, None]

    network = MLPAutoencoder(SHAPE, LATENTS, hidden=[])
    with torch.no_grad():
        (decode,), (encode,) = network.decoder, network.encoder
        decode.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        decode.bias.copy_(torch.cat([bias, torch.full_like(bias, math.log(deviation) + OFFSET)]))
        encode.weight.copy_(torch.cat([encoder, torch.zeros_like(encoder)]))
        mean_bias = shift * precision.rsqrt() - encoder @ bias
        encode.bias.copy_(torch.cat([mean_bias, 2 * math.log(widening) - precision.log()]))

    covariance = weight @ weight.T + deviation**2 * torch.eye(PIXELS)
    density = torch.distributions.MultivariateNormal(bias, covariance)
    rows = bias + torch.randn(num_images, PIXELS, generator=generator) @ torch.linalg.cholesky(covariance).float().T
    divergence = 0.5 * (shift**2 + widening**2 - 1 - 2 * math.log(widening))
    spread = 2 * widening**2 - 1
    chi_square = (widening**2 / math.sqrt(spread) * math.exp(shift**2 / spread)) ** LATENTS - 1
    return Case(
        vae=VAE(
            network,
            SHAPE,
            num_classes=None,
            latent_dim=LATENTS,
            likelihood=NormalPixels(),
            beta=1.0,
            free_bits=0.0,
            input_noise=0.0,
            num_train_samples=1,
            lr=1e-3,
            optimizer=torch.optim.SGD,
            lr_schedule=lambda progress: 1.0,
            ema_half_life=1.0,
        ),
        images=rows.float().view(-1, *SHAPE),
        marginal=density.log_prob(rows.double()),
        divergence=LATENTS * divergence,
        chi_square=chi_square,
    )


def evaluated(case: Case, num_samples: int, images: Tensor) -> Tensor:
    case.vae.num_importance_samples = num_samples
    return case.vae.log_likelihood(images)


@torch.no_grad()
def trained(case: Case, num_samples: int, images: Tensor) -> Tensor:
    """The mean bound in nats that `losses` makes of images."""
    case.vae.num_train_samples = num_samples
    loss = case.vae.losses(images, torch.zeros(len(images), dtype=torch.long))["loss"]
    return -loss * PIXELS * math.log(2)


def give_cubature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the noise of 2 * LATENTS copies of an image be points whose mean is exact for all quadratic functions."""
    points = math.sqrt(LATENTS) * torch.cat([torch.eye(LATENTS), -torch.eye(LATENTS)])
    monkeypatch.setattr(torch, "randn", lambda rows, columns, device: points.repeat(rows // len(points), 1))


@pytest.mark.parametrize("num_samples", [2, 3, 10, 100])
def test_with_the_exact_posterior_each_draw_of_the_bound_is_the_marginal(num_samples: int) -> None:
    case = linear_gaussian()
    found = evaluated(case, num_samples, case.images)
    torch.testing.assert_close(found.double(), case.marginal, atol=1e-4, rtol=0)
    for image, marginal in zip(case.images, case.marginal, strict=True):
        torch.testing.assert_close(trained(case, num_samples, image[None]).double(), marginal, atol=1e-4, rtol=0)
    found = trained(case, num_samples, case.images)  # no sample may count for another image
    torch.testing.assert_close(found.double(), case.marginal.mean(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("shift", "widening"), [(0.0, 1.0), (1.0, 1.5), (-0.5, 0.8)])
def test_the_bound_of_one_sample_falls_short_by_the_divergence_of_the_encoder(
    shift: float, widening: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its KL term is in closed form but its reconstruction is not, so this holds in the mean over noise."""
    case = linear_gaussian(shift, widening)
    give_cubature(monkeypatch)
    copies = case.images.repeat_interleave(2 * LATENTS, 0)
    expected = case.marginal - case.divergence
    found = evaluated(case, 1, copies).view(len(case.images), -1).mean(1)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(trained(case, 1, copies).double(), expected.mean(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bound", [evaluated, trained])
def test_with_a_wrong_encoder_more_samples_close_the_gap_to_the_marginal(bound: Callable[..., Tensor]) -> None:
    """The encoder is wider than the posterior, so the weights have a variance; the gap tends to chi^2 / (2 k).

    With 100 samples the mean over images and repeats has a standard error of 0.002 nats, with 300 of 0.001.
    """
    case = linear_gaussian(shift=1.0, widening=1.5, num_images=4)
    num_repeats = 1000
    images = case.images.repeat(num_repeats, 1, 1, 1)
    gaps = {k: float(case.marginal.mean() - bound(case, k, images).mean()) for k in (1, 10, 100, 300)}
    assert gaps[1] > gaps[10] > gaps[100] > 0
    assert gaps[1] == pytest.approx(case.divergence, abs=0.15)
    assert gaps[100] == pytest.approx(case.chi_square / 200, abs=0.008)
    assert abs(gaps[300]) < 0.01
