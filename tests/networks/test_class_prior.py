from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from imagegen.networks.autoencoder import gaussian_posterior
from imagegen.networks.class_prior import ClassPrior


def test_the_prior_of_a_class_is_a_normal_distribution_in_its_place() -> None:
    prior, labels = ClassPrior(5, 3).double(), torch.tensor([4, 0, 4, 2])
    assert prior.moments is not None
    nn.init.normal_(prior.moments.weight, std=0.3)
    mean, log_var = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    centre = prior(torch.zeros(4, 3).double(), labels)
    deviation = prior(torch.ones(4, 3).double(), labels) - centre
    assert not centre[0].equal(centre[1])
    found = gaussian_posterior(*prior.standard(mean, log_var, labels), torch.zeros(4, 3).double()).kl
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(centre, deviation))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(prior(prior.standard(mean, log_var, labels)[0], labels), mean)
