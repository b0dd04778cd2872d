from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import mixture
from sklearn.datasets import load_digits

from imagegen.networks.gaussian_mixture import GaussianMixture


def random_mixture(pixels: int = 6, num_features: int = 3, num_components: int = 2) -> GaussianMixture:
    torch.manual_seed(0)
    network = GaussianMixture((1, 1, pixels), num_components, num_features).double()
    network.begin(torch.randn(500, 1, 1, pixels).double() * torch.arange(1, pixels + 1), torch.Generator())
    factors = torch.randn(num_components, num_features, num_features).double()
    network.covariances.copy_(factors @ factors.transpose(1, 2) + torch.eye(num_features))
    network.log_weights.copy_(torch.tensor([0.3, 0.7]).log())
    return network


def full_covariance(network: GaussianMixture, component: int) -> np.ndarray:
    """Of pixels: the component's in the space of the features, the residual variance in all other directions."""
    basis = network.basis
    inside = basis @ network.covariances[component] @ basis.T
    outside = network.residual_variance * (torch.eye(len(basis)).double() - basis @ basis.T)
    return (inside + outside).numpy()


def test_the_density_is_that_of_a_mixture_over_pixels() -> None:
    network = random_mixture()
    images = 3 * torch.randn(20, 1, 1, 6).double()
    covariances = network.covariances.clone()
    network.covariances.copy_(covariances.float().double())  # as its factors are computed
    density = sum(
        weight
        * stats.multivariate_normal((network.centre + network.basis @ mean).numpy(), full_covariance(network, k)).pdf(
            images.flatten(1).numpy()
        )
        for k, (weight, mean) in enumerate(zip((0.3, 0.7), network.means, strict=True))
    )
    with torch.no_grad():
        found = GaussianMixture.log_prob(network.float(), images.float())
    np.testing.assert_allclose(found.exp().numpy(), density, rtol=2e-3)


def test_full_steps_are_the_em_of_scikit_learn() -> None:
    images = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    network = GaussianMixture((1, 8, 8), 5, 10, shrinkage=0.0)
    network.begin(images, torch.Generator().manual_seed(0))
    start = network.means.clone()
    for _ in range(10):
        network.expect(images, 1.0)
        for parameter, value in zip(
            (network.log_weights, network.means, network.covariances), network.maximize(math.inf), strict=True
        ):
            parameter.copy_(value)
    features = network.features(images).numpy().astype(np.float64)
    reference = mixture.GaussianMixture(
        5,
        weights_init=np.full(5, 0.2),
        means_init=start.numpy().astype(np.float64),
        precisions_init=np.repeat(np.diag(1 / network.variances.numpy().astype(np.float64))[None], 5, 0),
        max_iter=10,
        tol=0.0,
        reg_covar=1e-4,
    )
    with pytest.warns(match="converge"):
        reference.fit(features)
    with torch.no_grad():
        found = torch.logsumexp(network.component_log_probs(torch.from_numpy(features).float()), 1).mean()
    assert float(found) == pytest.approx(reference.score(features), abs=0.02)
    np.testing.assert_allclose(network.log_weights.exp().numpy(), reference.weights_, atol=0.02)


def test_samples_have_the_moments_of_the_mixture() -> None:
    network = random_mixture().float()
    latents = torch.randn(50_000, 4)
    features = network.features(network.decode(latents))
    weights = network.log_weights.exp()
    mean = (weights[:, None] * network.means).sum(0)
    second = sum(w * (c + m[:, None] * m) for w, m, c in zip(weights, network.means, network.covariances, strict=True))
    torch.testing.assert_close(features.mean(0), mean, atol=0.1, rtol=0)
    covariance = second - mean[:, None] * mean
    torch.testing.assert_close(features.T.cov(), covariance, atol=0.05 * float(covariance.abs().max()), rtol=0)


def test_few_images_leave_the_covariance_of_all() -> None:
    network = random_mixture().float()
    network.shrinkage = 1e9
    _, _, covariances = network.maximize(window=10.0)
    for covariance in covariances:
        diagonal = covariance.diagonal()
        torch.testing.assert_close(covariance, torch.diag(diagonal), atol=1e-4, rtol=0)
