from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from imagegen.networks.progressive import (
    EqualizedConv2d,
    EqualizedLinear,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    minibatch_std,
    pixel_norm,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
Shape = tuple[int, int, int]


@pytest.mark.parametrize("num_classes", [None, 5])
@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
def test_both_networks_work_at_every_level(image_shape: Shape, num_classes: int | None) -> None:
    generator = ProgressiveGenerator(image_shape, 6, num_classes, width=4)
    discriminator = ProgressiveDiscriminator(image_shape, num_classes, width=4)
    labels = None if num_classes is None else torch.arange(4) % num_classes
    for level in (0.0, 0.5, 1.0, 1.7, generator.num_levels - 1):
        generator.level = discriminator.level = level
        images = generator(torch.randn(4, 6), labels)
        assert images.shape[2:] == generator.sizes[-int(-level // 1)]
        assert discriminator(images, labels).shape == (4,)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_fade_in_of_the_generator_is_continuous(level: int) -> None:
    network, latents = ProgressiveGenerator((3, 32, 32), 6, width=4).double(), torch.randn(3, 6).double()

    def at(value: float) -> torch.Tensor:
        network.level = value
        images: torch.Tensor = network(latents)
        return images

    enlarged = F.interpolate(at(level), scale_factor=2.0)
    torch.testing.assert_close(at(level + 1e-9), enlarged, atol=1e-6, rtol=0, check_dtype=False)
    torch.testing.assert_close(at(level + 1 - 1e-9), at(level + 1), atol=1e-6, rtol=0, check_dtype=False)
    assert not at(level + 0.5).allclose(enlarged.float(), atol=1e-3)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_fade_in_of_the_discriminator_is_continuous(level: int) -> None:
    network = ProgressiveDiscriminator((3, 32, 32), width=4).double()
    images = torch.randn(3, 3, *network.sizes[level + 1]).double()

    def at(value: float, x: torch.Tensor) -> torch.Tensor:
        network.level = value
        logits: torch.Tensor = network(x)
        return logits

    torch.testing.assert_close(at(level + 1e-9, images), at(level, F.avg_pool2d(images, 2)), atol=1e-6, rtol=0)
    torch.testing.assert_close(at(level + 1 - 1e-9, images), at(level + 1, images), atol=1e-6, rtol=0)


def test_every_weight_learns_once_the_pictures_have_their_full_size() -> None:
    generator = ProgressiveGenerator((1, 8, 8), 6, width=4)
    discriminator = ProgressiveDiscriminator((1, 8, 8), width=4)
    generator.level = discriminator.level = 1.5
    discriminator(generator(torch.randn(4, 6))).square().sum().backward()
    unused = [name for name, p in generator.named_parameters() if p.grad is None]
    assert unused == ["to_image.0.weight", "to_image.0.bias"]
    assert all(p.grad is not None for p in discriminator.blocks.parameters())


def test_the_level_is_saved_with_the_weights() -> None:
    network, other = ProgressiveGenerator((1, 8, 8), 6, width=4), ProgressiveGenerator((1, 8, 8), 6, width=4)
    network.level = 0.25
    other.load_state_dict(network.state_dict())
    assert other.level == 0.25


def test_equalized_layers_keep_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 50, 8, 8)
    for layer in (EqualizedConv2d(50, 60, 3, gain=1.0), EqualizedLinear(8, 70, gain=1.0)):
        assert float(layer.weight.std()) == pytest.approx(1.0, abs=0.05)
        assert float(layer(x)[..., 1:-1, :].std()) == pytest.approx(1.0, abs=0.15)


def test_pixel_norm_makes_unit_vectors_over_the_channels() -> None:
    x = pixel_norm(5 * torch.randn(2, 7, 3, 3))
    torch.testing.assert_close(x.square().mean(1), torch.ones(2, 3, 3), atol=1e-4, rtol=0)


def test_the_deviation_over_the_batch_is_seen() -> None:
    x = torch.randn(6, 3, 2, 2)
    found = minibatch_std(x)
    assert found.shape == (6, 4, 2, 2)
    torch.testing.assert_close(found[:, 3], x.var(0, correction=0).sqrt().mean().expand(6, 2, 2), atol=1e-4, rtol=0)
    assert minibatch_std(x[:1].expand(6, -1, -1, -1))[:, 3].abs().max() < 1e-3
