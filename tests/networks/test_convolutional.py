from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.convolutional import ConvolutionalDiscriminator, ConvolutionalGenerator, sizes
from imagegen.networks.residual import ResidualDiscriminator, ResidualGenerator, SelfAttention

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
every_shape = pytest.mark.parametrize("image_shape", SHAPES, ids=str)
every_count = pytest.mark.parametrize("num_classes", [None, 5])
GENERATORS: list[Any] = [ConvolutionalGenerator, ResidualGenerator]
DISCRIMINATORS: list[Any] = [ConvolutionalDiscriminator, ResidualDiscriminator]
Shape = tuple[int, int, int]


def labels(num_classes: int | None, num: int = 4) -> torch.Tensor | None:
    return None if num_classes is None else torch.arange(num) % num_classes


@pytest.mark.parametrize(
    ("side", "expected"),
    [(8, [2, 4, 8]), (16, [4, 8, 16]), (28, [7, 14, 28]), (32, [4, 8, 16, 32]), (64, [4, 8, 16, 32, 64])],
)
def test_sizes(side: int, expected: list[int]) -> None:
    assert [height for height, _ in sizes((1, side, side))] == expected


def test_pictures_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="9x9"):
        ResidualGenerator((1, 9, 9), 4)


@every_shape
@every_count
@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_map_latents_to_images(kind: Any, num_classes: int | None, image_shape: Shape) -> None:
    network = kind(image_shape, 6, num_classes, width=8)
    images = network(3 * torch.randn(4, 6), labels(num_classes))
    assert images.shape == (4, *image_shape)
    assert images.abs().max() <= 1
    images.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


@every_shape
@every_count
@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_discriminators_map_images_to_a_logit_each(kind: Any, num_classes: int | None, image_shape: Shape) -> None:
    network = kind(image_shape, num_classes, width=8)
    logits = network(torch.randn(4, *image_shape), labels(num_classes))
    assert logits.shape == (4,)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
def test_labels_change_the_logits(conditioning: Any) -> None:
    network = ConvolutionalDiscriminator((1, 8, 8), 5, 8, "none", conditioning=conditioning)
    images = torch.randn(4, 1, 8, 8)
    first, second = (network(images, torch.full((4,), label)) for label in (0, 1))
    assert not first.allclose(second)


def test_labels_change_the_images() -> None:
    plain = ConvolutionalGenerator((1, 8, 8), 6, 5, 8).eval()
    modulated = ResidualGenerator((1, 8, 8), 6, 5, 8)
    for block in modulated.blocks:  # they begin without a say
        nn.init.normal_(block.modulate.weight)
    latents = torch.randn(4, 6)
    for network in (plain, modulated):
        first, second = (network(latents, torch.full((4,), label)) for label in (0, 1))
        assert not first.allclose(second)


@pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
def test_a_conditional_network_without_labels_says_so(kind: Any) -> None:
    network = kind((1, 8, 8), 6, 5) if kind in GENERATORS else kind((1, 8, 8), 5)
    with pytest.raises(ValueError, match="needs labels"):
        network(torch.randn(2, 6) if kind in GENERATORS else torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_spectral_normalisation_leaves_a_largest_singular_value_of_one(kind: Any) -> None:
    network = kind((1, 8, 8), 5, width=8, spectral=True)
    for _ in range(200):  # a power iteration each
        network(torch.randn(4, 1, 8, 8), labels(5))
    network.eval()
    layers = [module for module in network.modules() if hasattr(module, "parametrizations")]
    assert len(layers) >= 3
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1.0, abs=0.02)


def test_images_of_the_residual_generator_do_not_depend_on_their_batch() -> None:
    network, latents = ResidualGenerator((1, 8, 8), 6, width=8), torch.randn(5, 6)
    torch.testing.assert_close(network(latents)[2:3], network(latents[2:3]), rtol=1e-4, atol=1e-5)


def test_without_normalisation_the_blocks_begin_as_identities() -> None:
    network = ResidualGenerator((1, 8, 8), 6, width=8, normalization="none")
    x = torch.randn(2, 8, 2, 2)
    assert network.blocks[0](x, None).equal(x)


@every_shape
@every_count
def test_the_networks_of_biggan(num_classes: int | None, image_shape: Shape) -> None:
    generator = ResidualGenerator(
        image_shape, 10, num_classes, 8, "batch", spectral=True, attention=True, skip_latent=True
    )
    discriminator = ResidualDiscriminator(image_shape, num_classes, 8, attention=True)
    generator.attention.gain.data.fill_(0.5)
    discriminator.attention.gain.data.fill_(0.5)
    images = generator(torch.randn(4, 10), labels(num_classes))
    assert images.shape == (4, *image_shape)
    discriminator(images, labels(num_classes)).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name


def test_each_block_sees_its_own_part_of_the_latent() -> None:
    network = ResidualGenerator((1, 28, 28), 10, None, 8, "layer", skip_latent=True)
    assert network.parts == [4, 3, 3]
    for block in network.blocks:
        nn.init.normal_(block.modulate.weight)
    latents = torch.randn(1, 10, requires_grad=True)
    network(latents).sum().backward()
    assert latents.grad.abs().min() > 0
    seen: list[Tensor] = []
    network.blocks[1].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    network(latents)
    assert seen[0].equal(latents[:, 7:])


def test_attention_is_a_weighted_mean_of_all_pixels() -> None:
    layer = SelfAttention(16, spectral=False)
    x = torch.randn(2, 16, 3, 5)
    assert layer(x).equal(x)  # its share begins at zero
    layer.gain.data.fill_(1.0)
    query, key, value = (f(x).flatten(2).transpose(1, 2) for f in (layer.query, layer.key, layer.value))
    mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    expected = x + layer.output(mixed.transpose(1, 2).unflatten(2, (3, 5)))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
