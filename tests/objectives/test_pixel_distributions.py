from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.objectives.likelihoods import bits_per_dim, levels
from imagegen.objectives.pixel_distributions import Categorical, LogisticMixture, PixelDistribution, inverse_cdf


def all_pixels(num_levels: int, channels: int) -> Tensor:
    """Every pixel (L^C, C, 1, 1) there is."""
    values = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    return torch.cartesian_prod(*[values] * channels).view(-1, channels, 1, 1)


def random_parameters(distribution: PixelDistribution, channels: int) -> Tensor:
    """Parameters (1, P, G, 1, 1) of one pixel."""
    generator = torch.Generator().manual_seed(2)
    shape = 1, distribution.num_parameters(channels), distribution.num_groups(channels), 1, 1
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("num_levels", [2, 3, 6])
@pytest.mark.parametrize("kind", [Categorical, LogisticMixture])
def test_draws_follow_probabilities_that_sum_to_one(
    kind: type[PixelDistribution], num_levels: int, channels: int
) -> None:
    distribution = kind(num_levels=num_levels)
    pixels, parameters = all_pixels(num_levels, channels), random_parameters(distribution, channels)
    probabilities = distribution.log_prob(pixels, parameters.expand(len(pixels), -1, -1, -1, -1)).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-9)

    num, groups = 40_000, distribution.num_groups(channels)
    uniforms = torch.rand(num, groups, distribution.num_uniforms(channels))
    by_group = parameters[0, :, :, 0, 0].T.expand(num, -1, -1)
    drawn = torch.cat([distribution.draw(by_group[:, g], uniforms[:, g], 1.0) for g in range(groups)], 1)
    index = (levels(drawn, num_levels) * num_levels ** torch.arange(channels - 1, -1, -1)).sum(1)
    shares = torch.bincount(index, minlength=len(pixels)) / num
    errors = (probabilities * (1 - probabilities) / num).sqrt() + 1e-5
    assert ((shares - probabilities) / errors).abs().max() < 4.5


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 32, 32)])
def test_uniform_pixels_cost_eight_bits(image_shape: tuple[int, int, int]) -> None:
    images = torch.randint(0, 256, (2, *image_shape)) / 127.5 - 1
    nll = -Categorical().log_prob(images, torch.zeros(2, 256, *image_shape))
    torch.testing.assert_close(bits_per_dim(nll, image_shape), torch.full((2,), 8.0))


def test_categorical_log_prob_by_hand() -> None:
    logits = torch.randn(2, 256, 3, 2, 2, dtype=torch.float64)
    wanted = torch.randint(0, 256, (2, 3, 2, 2))
    log_probs = F.log_softmax(logits, dim=1)
    expected = torch.zeros(2, dtype=torch.float64)
    for n, c, y, x in np.ndindex(2, 3, 2, 2):
        expected[n] += log_probs[n, wanted[n, c, y, x], c, y, x]
    torch.testing.assert_close(Categorical().log_prob(wanted / 127.5 - 1, logits), expected)


def test_two_levels_are_a_bernoulli() -> None:
    logits = torch.randn(5, 2, 1, 3, 3, dtype=torch.float64)
    images = (torch.rand(5, 1, 3, 3) < 0.5).double() * 2 - 1
    white = (logits[:, 1] - logits[:, 0]).sigmoid()
    expected = scipy.stats.bernoulli(white.numpy()).logpmf((images.numpy() + 1) / 2).reshape(5, -1).sum(1)
    assert Categorical(2).log_prob(images, logits).numpy() == pytest.approx(expected, rel=1e-9)


def test_a_mixture_of_logistics_is_scipys() -> None:
    """One colour pixel: the weights, means, scales and coefficients of Salimans et al. 2017, eqs. 1 to 3."""
    distribution = LogisticMixture(2)
    parameters = random_parameters(distribution, 3)
    by_component = distribution._by_component(parameters[:, :, 0, 0, 0])
    split = distribution._split(by_component, distribution._spread(by_component), 3)
    logits, means, log_scales, coefficients = (x[0].numpy() for x in split)
    pixel = np.array([100, 101, 250])
    r, g, _ = pixel / 127.5 - 1
    edges = np.concatenate([[-np.inf], np.linspace(-1, 1, 256)[:-1] + 1 / 255, [np.inf]])
    total = 0.0
    for k, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
        a, b, c = coefficients[:, k]
        for x, mean, log_scale in zip(pixel, means[:, k] + [0, a * r, b * r + c * g], log_scales[:, k], strict=True):
            cdf = scipy.stats.logistic(loc=mean, scale=math.exp(log_scale)).cdf
            weight = weight * (cdf(edges[x + 1]) - cdf(edges[x]))
        total += weight
    image = torch.from_numpy(pixel / 127.5 - 1).view(1, 3, 1, 1)
    assert distribution.log_prob(image, parameters).item() == pytest.approx(math.log(total), rel=1e-6)


def test_an_untrained_mixture_covers_all_levels() -> None:
    distribution = LogisticMixture()
    pixels = all_pixels(256, 1)
    zeros = torch.zeros(256, distribution.num_parameters(1), 1, 1, 1, dtype=torch.float64)
    probabilities = distribution.log_prob(pixels, zeros).exp()
    assert probabilities.min() * 256 > 0.3
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-9)


def test_gradients_of_a_mixture_stay_finite() -> None:
    parameters = (torch.randn(4, LogisticMixture().num_parameters(3), 1, 8, 8) * 20).requires_grad_()
    images = torch.randint(0, 256, (4, 3, 8, 8)) / 127.5 - 1
    LogisticMixture().log_prob(images, parameters).sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


@pytest.mark.parametrize("distribution", [Categorical(), LogisticMixture()], ids=lambda d: type(d).__name__)
def test_a_low_temperature_draws_the_mode(distribution: PixelDistribution) -> None:
    parameters = random_parameters(distribution, 1)
    probabilities = distribution.log_prob(all_pixels(256, 1), parameters.expand(256, -1, -1, -1, -1))
    uniforms = torch.rand(50, distribution.num_uniforms(1))
    drawn = distribution.draw(parameters[:, :, 0, 0, 0].expand(50, -1), uniforms, 1e-4)
    found = levels(drawn).unique()
    assert len(found) == 1
    if isinstance(distribution, Categorical):
        assert found.item() == probabilities.argmax()


def test_inverse_cdf_by_hand() -> None:
    logits = torch.tensor([0.2, 0.0, 0.3, 0.5]).log().expand(6, 4)
    uniforms = torch.tensor([0.1, 0.199, 0.201, 0.49, 0.51, 1 - 2**-24])
    assert inverse_cdf(logits, uniforms).tolist() == [0, 0, 2, 2, 3, 3]
    many = inverse_cdf(torch.zeros(10_000, 256), torch.rand(10_000, generator=torch.Generator().manual_seed(0)))
    assert many.min() >= 0
    assert many.max() <= 255
    assert many.float().mean().item() == pytest.approx(127.5, abs=3)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_whatever_a_network_says_the_gradient_of_a_mixture_is_finite(scale: float) -> None:
    distribution = LogisticMixture()
    images = torch.tensor([-1.0, 1.0, 1 / 255, 0.5]).mul(127.5).round().div(127.5).view(1, 1, 2, 2)
    parameters = (scale * torch.randn(1, distribution.num_parameters(1), 1, 2, 2)).requires_grad_()
    log_prob = distribution.log_prob(images, parameters)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()
