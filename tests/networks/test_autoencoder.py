from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from imagegen.networks.autoencoder import MLPAutoencoder, ResidualAutoencoder, gaussian_posterior
from imagegen.networks.hierarchical_autoencoder import HierarchicalAutoencoder

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
Shape = tuple[int, int, int]
every_shape = pytest.mark.parametrize("image_shape", SHAPES, ids=str)
every_kind = pytest.mark.parametrize("kind", ["mlp", "residual", "mixture", "flow", "hierarchical"])


def network(kind: str, image_shape: Shape, num_classes: int | None = None) -> Any:
    if kind == "mlp":
        return MLPAutoencoder(image_shape, 3, [16, 12], num_classes)
    if kind == "hierarchical":
        return HierarchicalAutoencoder(image_shape, 8, 3, 2, 2, 2, num_classes, num_mixtures=2)
    num_mixtures, num_couplings = 2 if kind == "mixture" else None, 3 if kind == "flow" else 0
    return ResidualAutoencoder(image_shape, 3, num_classes, 8, 1, num_mixtures, num_couplings)


def shaken(net: nn.Module) -> nn.Module:
    """With no layer left at zero."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


@every_kind
@every_shape
@pytest.mark.parametrize("num_classes", [None, 5])
def test_shapes_ranges_and_gradients(kind: str, image_shape: Shape, num_classes: int | None) -> None:
    net = shaken(network(kind, image_shape, num_classes))
    labels = None if num_classes is None else torch.arange(4)
    parameters, posterior = net.infer(torch.randn(4, *image_shape), labels, torch.randn(4, net.latent_dim))
    location = parameters[0]
    assert location.shape[-3:] == image_shape
    assert posterior.latents.shape == (4, net.latent_dim)
    assert posterior.kl.shape[0] == posterior.log_ratio.shape[0] == 4
    total = sum(x.square().mean() for x in parameters) + posterior.kl.sum() + posterior.log_ratio.sum()
    total.backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None]
    assert unused == []


@every_kind
@every_shape
def test_decoding_the_latents_gives_what_inference_decoded(kind: str, image_shape: Shape) -> None:
    net = shaken(network(kind, image_shape, 5)).double()
    labels = torch.arange(4)
    noise = torch.randn(4, net.latent_dim).double()
    parameters, posterior = net.infer(torch.randn(4, *image_shape).double(), labels, noise)
    for found, expected in zip(net.decode(posterior.latents, labels), parameters, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@every_kind
def test_kl_is_the_mean_of_the_log_ratio(kind: str) -> None:
    torch.manual_seed(0)
    net = shaken(network(kind, (1, 8, 8)))
    images = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        _, posterior = net.infer(images.expand(20_000, -1, -1, -1), None, torch.randn(20_000, net.latent_dim))
    # Of a ladder the KL of each group depends on the groups before; its mean does not.
    error = float((posterior.log_ratio - posterior.kl.sum(1)).std()) / math.sqrt(20_000)
    assert float(posterior.log_ratio.mean()) == pytest.approx(float(posterior.kl.sum(1).mean()), abs=4 * error + 1e-6)


def test_kl_equals_that_of_torch_distributions() -> None:
    mean, log_var = torch.randn(5, 7, dtype=torch.float64) * 3, torch.randn(5, 7, dtype=torch.float64) * 2
    posterior = Normal(mean, (0.5 * log_var).exp())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    found = gaussian_posterior(mean, log_var, torch.randn_like(mean))
    torch.testing.assert_close(found.kl, kl_divergence(posterior, prior))
    expected = (posterior.log_prob(found.latents) - prior.log_prob(found.latents)).sum(1)
    torch.testing.assert_close(found.log_ratio, expected)


def test_latents_are_normal_under_the_prior_of_a_ladder() -> None:
    # What `decode` is given are standard normal numbers; the values it makes of them follow each group's prior.
    net = shaken(network("hierarchical", (1, 8, 8)))
    seen: list[Tensor] = []
    net.groups[1].merge.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    noise = torch.randn(3, net.latent_dim)
    x: list[Tensor] = []
    net.groups[1].prior.register_forward_hook(lambda _, args, out: x.append(out))
    net.decode(noise)
    mean, log_std = net.groups[1]._moments(x[0])
    part = torch.split(noise, net.parts, 1)[2].view_as(mean)
    torch.testing.assert_close(seen[0], mean + log_std.exp() * part)


def test_the_groups_of_a_new_ladder_say_nothing() -> None:
    net = network("hierarchical", (1, 8, 8))
    _, posterior = net.infer(torch.randn(4, 1, 8, 8), None, torch.randn(4, net.latent_dim))
    torch.testing.assert_close(posterior.kl[:, 1:], torch.zeros_like(posterior.kl[:, 1:]))


def test_posterior_log_variance_is_kept_within_bounds() -> None:
    net = MLPAutoencoder((1, 8, 8), latent_dim=3, hidden=[16])
    for factor in (1e6, -1e6):
        _, log_var = net.encode(torch.full((2, 1, 8, 8), factor))
        assert log_var.min() >= -20
        assert log_var.max() <= 10
        assert log_var.exp().isfinite().all()


@pytest.mark.parametrize("kind", ["mlp", "residual", "hierarchical"])
def test_a_conditional_network_needs_labels_and_looks_at_them(kind: str) -> None:
    net = shaken(network(kind, (1, 8, 8), 5))
    latents = torch.randn(2, net.latent_dim)
    first, second = (net.decode(latents, torch.full((2,), label))[0] for label in (0, 1))
    assert not first.allclose(second)
    with pytest.raises(ValueError, match="needs labels"):
        net.decode(latents)


@every_kind
def test_the_prior_begins_as_the_standard_one(kind: str) -> None:
    net = network(kind, (1, 8, 8), 5)
    latents = torch.randn(5, 3)
    assert net.prior(latents, torch.arange(5)).equal(latents)
    assert network(kind, (1, 8, 8)).prior(latents, None).equal(latents)
