"""Expectation and maximisation never lower the likelihood of the data that both steps see (Dempster et al. 1977)."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from imagegen.networks.gaussian_mixture import GaussianMixture


def trajectory(network: GaussianMixture, images: Tensor, num_steps: int) -> Tensor:
    """Mean log densities of images, in nats, before each of the steps and after the last: (1 + num_steps,)."""
    found = [network.log_prob(images).double().mean()]
    for _ in range(num_steps):
        network.expect(images, step=1.0)
        parameters = (network.log_weights, network.means, network.covariances)
        for parameter, value in zip(parameters, network.maximize(window=math.inf), strict=True):
            parameter.copy_(value)
        found.append(network.log_prob(images).double().mean())
    return torch.stack(found)


def digits() -> Tensor:
    return torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]


@pytest.mark.parametrize(("num_components", "num_features"), [(3, 5), (5, 10), (10, 20)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_step_of_em_lowers_the_likelihood_of_digits(num_components: int, num_features: int, seed: int) -> None:
    images = digits()
    network = GaussianMixture((1, 8, 8), num_components, num_features, shrinkage=0.0)
    network.begin(images, torch.Generator().manual_seed(seed))
    found = trajectory(network, images, 15)
    assert found.diff().min() >= -1e-4
    assert found[-1] > found[0] + 1


def test_em_with_one_component_arrives_in_one_step() -> None:
    images = digits()
    network = GaussianMixture((1, 8, 8), 1, 5, shrinkage=0.0)
    network.begin(images, torch.Generator().manual_seed(0))
    found = trajectory(network, images, 15)
    assert found[1] > found[0] + 1
    torch.testing.assert_close(found[1:], found[1].expand(15), atol=1e-4, rtol=0)


def test_em_fits_blobs_as_well_as_the_mixture_they_are_drawn_from() -> None:
    """The features are all pixels but one, which is noise of little variance."""
    generator = torch.Generator().manual_seed(0)
    num, deviation, small = 3000, 0.3, 0.01
    centres = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [-1.0, -2.0, 1.0]])
    chosen = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), num, replacement=True, generator=generator)
    rows = centres[chosen] + deviation * torch.randn(num, 3, generator=generator)
    rows = torch.cat([rows, small * torch.randn(num, 1, generator=generator)], 1)
    images = rows.view(num, 1, 2, 2)

    network = GaussianMixture((1, 2, 2), 3, 3, shrinkage=0.0)
    network.begin(images, torch.Generator().manual_seed(0))
    found = trajectory(network, images, 15)

    components = torch.distributions.Independent(torch.distributions.Normal(centres, deviation), 1)
    weights = torch.distributions.Categorical(torch.tensor([0.5, 0.3, 0.2]))
    truth = torch.distributions.MixtureSameFamily(weights, components).log_prob(rows[:, :3])
    truth = (truth + torch.distributions.Normal(0.0, small).log_prob(rows[:, 3])).mean()
    assert found.diff().min() >= -1e-4
    assert found[0] < truth - 1
    # The maximum lies above the truth by about half a nat per parameter (2 + 9 + 18 + 2 of the noise) and N images.
    assert 0 < found[-1] - truth < 31 / num
    torch.testing.assert_close(
        network.log_weights.exp().sort().values, torch.tensor([0.2, 0.3, 0.5]), atol=0.03, rtol=0
    )
