"""Every autoregressive network sees only the past, and draws pixel by pixel what whole passes would draw.

A new network earns its line in NETWORKS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from imagegen.networks.gated_pixelcnn import GatedPixelCNN
from imagegen.networks.image_transformer import ImageTransformer
from imagegen.networks.pixelcnn import PixelCNN
from imagegen.networks.pixelcnn_pp import PixelCNNPP
from imagegen.networks.pixelrnn import PixelRNN
from imagegen.networks.pixelsnail import PixelSNAIL

Network = Callable[..., nn.Module]
NETWORKS: dict[str, Network] = {
    "pixelcnn": partial(PixelCNN, width=12, num_blocks=2),
    "gated_pixelcnn": partial(GatedPixelCNN, width=6, num_layers=5),
    "gated_pixelcnn_undilated": partial(GatedPixelCNN, width=6, num_layers=5, num_dilations=1),
    "gated_pixelcnn_5": partial(GatedPixelCNN, width=6, num_layers=2, kernel_size=5),
    "pixelsnail": partial(PixelSNAIL, width=6, num_blocks=2, num_layers=1, head_dim=3),
    "pixelcnn_pp": partial(PixelCNNPP, width=4),
    "image_transformer": partial(ImageTransformer, width=8, num_blocks=2, head_dim=3),
    "pixelrnn": partial(PixelRNN, width=5, num_layers=2),
}
SEES_ALL = [name for name in NETWORKS if name != "pixelcnn"]
# image shape and number of groups: grey, not square, colours one after the other, colours together
SHAPES = [((1, 8, 8), 1), ((1, 4, 6), 1), ((3, 4, 4), 3), ((3, 4, 4), 1)]


def build(
    name: str, image_shape: tuple[int, int, int], num_groups: int, dtype: torch.dtype = torch.float64, **sizes: object
) -> nn.Module:
    """A small network in which every weight matters."""
    torch.manual_seed(0)
    network = NETWORKS[name](image_shape, num_groups=num_groups, num_parameters=5, **sizes).to(dtype)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def random_images(num_images: int, image_shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(num_images, *image_shape, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 - 1


def order(image_shape: tuple[int, int, int], num_groups: int) -> Iterator[tuple[int, int, int]]:
    """The order in which groups are drawn: (row, column, group)."""
    return itertools.product(range(image_shape[1]), range(image_shape[2]), range(num_groups))


@pytest.mark.parametrize(("image_shape", "num_groups"), SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_come_from_the_past_alone(name: str, image_shape: tuple[int, int, int], num_groups: int) -> None:
    network = build(name, image_shape, num_groups)
    images = random_images(1, image_shape).requires_grad_()
    parameters = network(images)
    assert parameters.shape == (1, 5, num_groups, *image_shape[1:])
    size = image_shape[0] // num_groups
    for place, (row, col, group) in enumerate(order(image_shape, num_groups)):
        output = (parameters[0, :, group, row, col] * torch.arange(1, 6)).sum()
        (gradient,) = torch.autograd.grad(output, images, retain_graph=True)
        in_order = gradient[0].permute(1, 2, 0).flatten()
        assert (in_order[place * size :] == 0).all()
        if name in SEES_ALL:  # no blind spot, and layers enough to reach the first pixel
            before = in_order[: place * size].view(-1, size)
            assert (before != 0).all(), f"{name} does not see all of the past of {row}, {col}"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_later_value_changes_no_bit(name: str) -> None:
    image_shape = (3, 6, 4)
    network = build(name, image_shape, 3, torch.float32)
    images = random_images(2, image_shape, torch.float32)
    parameters = network(images).permute(0, 3, 4, 2, 1).flatten(1, 3)  # in the order of drawing
    for place, (row, col, channel) in list(enumerate(order(image_shape, 3)))[::5]:
        changed = images.clone()
        changed[:, channel, row, col] += 0.5
        changed_parameters = network(changed).permute(0, 3, 4, 2, 1).flatten(1, 3)
        assert torch.equal(changed_parameters[:, : place + 1], parameters[:, : place + 1])
        assert place + 1 == parameters.shape[1] or not torch.equal(changed_parameters, parameters)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("image_shape", "num_groups"), SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cache_computes_what_a_whole_pass_does(
    name: str, image_shape: tuple[int, int, int], num_groups: int, dtype: torch.dtype, tolerance: float
) -> None:
    network = build(name, image_shape, num_groups, dtype, num_classes=3)
    images, labels = random_images(2, image_shape, dtype), torch.tensor([0, 2])
    expected = network(images, labels)
    cache = network.start(2, labels)  # type: ignore[operator]
    size = image_shape[0] // num_groups
    expected, pixels = expected.permute(0, 3, 4, 2, 1), images.permute(0, 2, 3, 1)
    for row, col in cache.places:
        for group in range(num_groups):
            torch.testing.assert_close(
                cache.parameters(row, col, group), expected[:, row, col, group], rtol=tolerance, atol=tolerance
            )
            cache.write(row, col, group, pixels[:, row, col, group * size : (group + 1) * size])


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_change_the_parameters_and_are_needed(name: str) -> None:
    network = build(name, (1, 4, 4), 1, num_classes=2)
    images = random_images(1, (1, 4, 4))
    assert not torch.equal(network(images, torch.tensor([0])), network(images, torch.tensor([1])))
    with pytest.raises(ValueError, match="needs labels"):
        network(images)
    with pytest.raises(ValueError, match="needs labels"):
        network.start(1)  # type: ignore[operator]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 7, 7), (1, 2, 2)])
def test_sizes_of_data_sets_and_of_codes_fit(name: str, image_shape: tuple[int, int, int]) -> None:
    network = NETWORKS[name](image_shape, num_parameters=4)
    with torch.no_grad():
        assert network(random_images(1, image_shape, torch.float32)).shape == (1, 4, *image_shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_no_mean_that_could_drift(name: str) -> None:
    logits = build(name, (3, 4, 4), 3, torch.float32)(random_images(2, (3, 4, 4), torch.float32))
    assert logits.std() > 0
    assert logits.mean(1).abs().max() < 1e-4 * logits.std()
