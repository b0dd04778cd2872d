from __future__ import annotations

import pytest
import torch
from torch import nn

from imagegen.networks.mlp import MLPDiscriminator, MLPGenerator, mlp

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 7)]
every_shape = pytest.mark.parametrize("image_shape", SHAPES)
Shape = tuple[int, int, int]


def assert_every_parameter_has_a_gradient(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_mlp_by_hand() -> None:
    network = mlp([2, 3, 1], nn.ReLU)
    x = torch.randn(5, 2)
    hidden = (x @ network[0].weight.T + network[0].bias).clamp_min(0)
    torch.testing.assert_close(network(x), hidden @ network[2].weight.T + network[2].bias)
    assert [type(layer) for layer in mlp([2, 3, 4, 1], nn.SiLU, dropout=0.5)] == [
        *(nn.Linear, nn.SiLU, nn.Dropout),
        *(nn.Linear, nn.SiLU, nn.Dropout),
        nn.Linear,
    ]


@every_shape
def test_generator_maps_latents_to_images(image_shape: Shape) -> None:
    network = MLPGenerator(image_shape, latent_dim=6, hidden=[16, 12])
    images = network(10 * torch.randn(4, 6))
    assert images.shape == (4, *image_shape)
    assert images.abs().max() <= 1
    images.square().sum().backward()
    assert_every_parameter_has_a_gradient(network)


@every_shape
def test_discriminator_maps_images_to_one_logit_each(image_shape: Shape) -> None:
    network = MLPDiscriminator(image_shape, hidden=[16, 12])
    logits = network(torch.randn(4, *image_shape))
    assert logits.shape == (4,)
    assert network(torch.randn(1, *image_shape)).shape == (1,)
    logits.square().sum().backward()
    assert_every_parameter_has_a_gradient(network)


def test_rows_of_a_batch_do_not_influence_each_other() -> None:
    images = torch.randn(3, 1, 8, 8)
    discriminator = MLPDiscriminator((1, 8, 8), hidden=[16])
    generator = MLPGenerator((1, 8, 8), latent_dim=64, hidden=[16])
    for function in (
        discriminator,
        lambda x: generator(x.flatten(1)),
    ):
        together = function(images)
        for i in range(3):
            torch.testing.assert_close(function(images[i : i + 1]), together[i : i + 1], atol=1e-6, rtol=1e-5)


def test_leaky_slope_is_a_fifth() -> None:
    network = MLPDiscriminator((1, 1, 1), hidden=[1])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.0 if parameter.ndim == 1 else 1.0)
    torch.testing.assert_close(network(torch.tensor([-2.0, 3.0]).reshape(2, 1, 1, 1)), torch.tensor([-0.4, 3.0]))


def test_dropout_acts_in_training_only() -> None:
    network = MLPDiscriminator((1, 8, 8), hidden=[64], dropout=0.5)
    images = torch.randn(4, 1, 8, 8)
    assert not network.train()(images).equal(network(images))
    assert network.eval()(images).equal(network(images))
