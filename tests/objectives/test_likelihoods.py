from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from imagegen.objectives.likelihoods import (
    DiscretizedLogistic,
    LogisticMixture,
    bits_per_dim,
    from_levels,
    levels,
)

ALL_LEVELS = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).reshape(256, 1, 1, 1)
LOCATIONS = [-30.0, -1.0, -0.37, 0.0, 1 / 255, 0.5, 1.0, 4.0]
LOG_SCALES = [-25.0, -12.0, -7.0, -4.0, -2.0, 0.0, 3.0, 12.0, 25.0]


def level_log_probs(location: float, log_scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The log probability (256,) of each grey level."""
    log_prob = DiscretizedLogistic().log_prob
    return log_prob(ALL_LEVELS.to(dtype), torch.tensor(location, dtype=dtype), torch.tensor(log_scale, dtype=dtype))


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_the_256_levels_have_probability_one(location: float, log_scale: float) -> None:
    exact = level_log_probs(location, log_scale, torch.float64)
    # Where a level ends is rounded to 1e-16 in float64 and 1e-7 in float32; a narrow distribution magnifies that.
    assert exact.exp().sum().item() == pytest.approx(1.0, abs=max(1e-9, 1e-15 * math.exp(-log_scale)))
    rough = level_log_probs(location, log_scale, torch.float32)
    assert not rough.isnan().any()
    if log_scale >= -7:
        assert rough.double().exp().sum().item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_log_probabilities_and_gradients_stay_finite(location: float, log_scale: float) -> None:
    locations = torch.full((256, 1, 1, 1), location, requires_grad=True)
    log_scales = torch.full((256, 1, 1, 1), log_scale, requires_grad=True)
    log_probs = DiscretizedLogistic().log_prob(ALL_LEVELS.float(), locations, log_scales)
    log_probs.sum().backward()
    assert log_probs.isfinite().all()
    assert locations.grad is not None
    assert locations.grad.isfinite().all()
    assert log_scales.grad is not None
    assert log_scales.grad.isfinite().all()


@pytest.mark.parametrize("location", [-0.8, 0.0, 0.31])
@pytest.mark.parametrize("log_scale", [-4.0, -2.0, 0.0, 2.0])
def test_levels_are_differences_of_the_logistic_cdf(location: float, log_scale: float) -> None:
    edges = np.concatenate([[-np.inf], np.linspace(-1, 1, 256)[:-1] + 1 / 255, [np.inf]])
    logistic = scipy.stats.logistic(loc=location, scale=math.exp(log_scale))
    probabilities = np.diff(logistic.cdf(edges))
    np.testing.assert_allclose(
        level_log_probs(location, log_scale, torch.float64).exp().numpy(), probabilities, rtol=1e-6, atol=1e-14
    )


@pytest.mark.parametrize("log_scale", [-5.0, -3.0])
def test_tails_keep_their_precision_where_cdf_differences_vanish(log_scale: float) -> None:
    scale = math.exp(log_scale)
    logistic = scipy.stats.logistic(loc=-1.0, scale=scale)
    log_probs = level_log_probs(-1.0, log_scale, torch.float64)
    assert log_probs[255].item() == pytest.approx(logistic.logsf(1 - 1 / 255), rel=1e-9)
    # Far above the location the density is exp(-x / scale) / scale: each level has a fixed ratio to the next.
    ratios = log_probs[201:254] - log_probs[200:253]
    torch.testing.assert_close(ratios, torch.full_like(ratios, -2 / 255 / scale), rtol=1e-6, atol=0)


def test_the_distribution_is_symmetric() -> None:
    log_probs = level_log_probs(0.2, -3.0, torch.float64)
    torch.testing.assert_close(log_probs.flip(0), level_log_probs(-0.2, -3.0, torch.float64))


def test_log_prob_adds_up_over_pixels_and_not_over_images() -> None:
    images = torch.randint(0, 256, (3, 2, 4, 5)).double() / 127.5 - 1
    locations = torch.rand(3, 2, 4, 5, dtype=torch.float64) * 2 - 1
    log_scale = torch.tensor(-1.5, dtype=torch.float64)
    log_probs = DiscretizedLogistic().log_prob(images, locations, log_scale)
    assert log_probs.shape == (3,)
    for i in range(3):
        pixels = zip(images[i].flatten(), locations[i].flatten(), strict=True)
        total = sum(
            float(level_log_probs(float(location), -1.5, torch.float64)[round((float(pixel) + 1) * 127.5)])
            for pixel, location in pixels
        )
        assert log_probs[i].item() == pytest.approx(total, rel=1e-9)


def test_bits_per_dim_by_hand() -> None:
    nll = torch.tensor([0.0, 12 * math.log(2.0)])
    torch.testing.assert_close(bits_per_dim(nll, (3, 2, 2)), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_round_trip(dtype: torch.dtype) -> None:
    wanted = torch.arange(256)
    images = wanted.to(dtype) / 127.5 - 1
    assert levels(images).dtype == torch.int64
    assert levels(images).equal(wanted)
    assert levels(images + 0.9 / 255).equal(wanted)
    assert from_levels(wanted).to(dtype).sub(images).abs().max() < 1e-7
    for num_levels in (2, 3, 100):
        few = torch.arange(num_levels)
        assert levels(from_levels(few, num_levels).to(dtype), num_levels).equal(few)
        assert from_levels(few, num_levels)[[0, -1]].tolist() == [-1, 1]


def test_two_levels_make_a_bernoulli_distribution() -> None:
    location, log_scale = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    images = (torch.rand(5, 1, 3, 3) < 0.5).double() * 2 - 1
    likelihood, white = DiscretizedLogistic(2), scipy.special.expit(location.numpy() / math.exp(0.3))
    expected = scipy.stats.bernoulli(white).logpmf((images.numpy() + 1) / 2).reshape(5, -1).sum(1)
    assert likelihood.log_prob(images, location, log_scale).numpy() == pytest.approx(expected)
    assert likelihood.mean(location, log_scale).numpy() == pytest.approx(2 * white - 1)
    mixed = [x[:, None].expand(-1, 2, -1, -1, -1) for x in (location, log_scale.expand_as(location))]
    logits = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    assert LogisticMixture(2).log_prob(images, *mixed, logits).numpy() == pytest.approx(expected)
    assert LogisticMixture(2).mean(*mixed, logits).numpy() == pytest.approx(2 * white - 1)


def test_black_and_white_stay_finite_where_the_network_is_sure_and_wrong() -> None:
    white, sure = torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)
    found = DiscretizedLogistic(2).log_prob(white, sure, torch.tensor(-5.0))
    assert found.isfinite().all()
    assert float(found) < -40


def mixture(num: int, count: int, image_shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    location = torch.rand(num, count, *image_shape, dtype=torch.float64) * 2 - 1
    log_scale = torch.randn(num, count, *image_shape, dtype=torch.float64) - 2
    return location, log_scale, torch.randn(num, count, *image_shape[1:], dtype=torch.float64)


def test_a_mixture_of_one_is_the_logistic() -> None:
    location, log_scale, logits = mixture(3, 1, (3, 4, 4))
    images = torch.randint(0, 256, (3, 3, 4, 4)) / 127.5 - 1
    expected = DiscretizedLogistic().log_prob(images, location[:, 0], log_scale[:, 0])
    torch.testing.assert_close(LogisticMixture().log_prob(images, location, log_scale, logits), expected)


def test_the_levels_of_a_mixture_have_probability_one() -> None:
    location, log_scale, logits = (x.expand(256, *x.shape[1:]) for x in mixture(1, 4, (1, 1, 1)))
    images = (torch.arange(256.0, dtype=torch.float64) / 127.5 - 1)[:, None, None, None]
    log_prob = LogisticMixture().log_prob(images, location, log_scale, logits)
    assert log_prob.exp().sum().item() == pytest.approx(1.0)


def test_a_mixture_weighs_its_components() -> None:
    location, log_scale, logits = mixture(2, 3, (3, 2, 2))
    images = torch.randint(0, 256, (2, 3, 2, 2)) / 127.5 - 1
    weights = logits.softmax(1)
    log_prob = torch.zeros(2, dtype=torch.float64)
    for row in range(2):
        for col in range(2):
            pixel = torch.zeros(2, dtype=torch.float64)
            for k in range(3):
                part = DiscretizedLogistic().log_prob(
                    images[:, :, row, col, None, None],
                    location[:, k, :, row, col, None, None],
                    log_scale[:, k, :, row, col, None, None],
                )
                pixel += weights[:, k, row, col] * part.exp()
            log_prob += pixel.log()
    torch.testing.assert_close(LogisticMixture().log_prob(images, location, log_scale, logits), log_prob)
    mean = sum(weights[:, k, None] * location[:, k] for k in range(3))
    torch.testing.assert_close(LogisticMixture().mean(location, log_scale, logits), mean)
