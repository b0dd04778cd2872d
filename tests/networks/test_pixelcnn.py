"""The PixelCNN sees only what comes before, and its cache computes the same logits as a full pass."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from imagegen.networks.pixelcnn import MaskedConv2d, PixelCNN

SHAPES = [(1, 8, 8), (1, 3, 9), (2, 4, 5), (3, 6, 5)]


def build(
    image_shape: tuple[int, int, int], num_classes: int | None = None, dtype: torch.dtype = torch.float64, **sizes: int
) -> PixelCNN:
    """A small network in which every weight matters."""
    torch.manual_seed(0)
    network = PixelCNN(image_shape, num_classes, **({"width": 12, "num_blocks": 3} | sizes)).to(dtype)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def random_images(num_images: int, image_shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (num_images, *image_shape), generator=generator).to(dtype) / 127.5 - 1


def order(image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The order in which values are drawn: (row, column, channel)."""
    channels, height, width = image_shape
    return list(itertools.product(range(height), range(width), range(channels)))


@pytest.mark.parametrize("image_shape", SHAPES)
def test_logits_have_no_gradient_from_themselves_or_later(image_shape: tuple[int, int, int]) -> None:
    network = build(image_shape, width=48)
    images = random_images(1, image_shape).requires_grad_()
    logits = network(images)
    weights = torch.randn(256, dtype=images.dtype)
    for place, (row, col, channel) in enumerate(order(image_shape)):
        output = (logits[0, :, channel, row, col] * weights).sum()
        (gradient,) = torch.autograd.grad(output, images, retain_graph=True)
        in_order = gradient[0].permute(1, 2, 0).flatten()
        assert (in_order[place:] == 0).all()
        if place:  # its predecessor: the channel before, or the pixel on the left or above
            channels = image_shape[0]
            seen = place - 1 if channel or col else place - image_shape[2] * channels
            assert in_order[seen] != 0


@pytest.mark.parametrize("image_shape", SHAPES)
def test_a_later_value_changes_no_bit(image_shape: tuple[int, int, int]) -> None:
    network = build(image_shape, dtype=torch.float32)
    images = random_images(2, image_shape, torch.float32)
    logits = network(images).permute(0, 3, 4, 2, 1).flatten(1, 3)  # in the order of drawing
    steps = order(image_shape)
    for place in range(0, len(steps), 5):
        row, col, channel = steps[place]
        changed = images.clone()
        changed[:, channel, row, col] += 0.5
        changed_logits = network(changed).permute(0, 3, 4, 2, 1).flatten(1, 3)
        assert torch.equal(changed_logits[:, : place + 1], logits[:, : place + 1])
        if place + 1 < len(steps):
            assert not torch.equal(changed_logits, logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    "sizes", [{}, {"kernel_size": 1}, {"kernel_size": 5, "num_blocks": 2}, {"kernel_size": 9}, {"num_dilations": 1}]
)
@pytest.mark.parametrize(("image_shape", "num_classes"), [((1, 8, 8), None), ((1, 9, 4), 3), ((3, 5, 7), 3)])
def test_cached_logits_are_those_of_a_full_pass(
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    sizes: dict[str, int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    network = build(image_shape, num_classes, dtype, **sizes)
    images = random_images(2, image_shape, dtype)
    labels = torch.tensor([0, 2]) if num_classes else None
    expected = network(images, labels)
    cache = network.start(2, labels)
    for rows, cols in cache.places:
        for channel in range(image_shape[0]):
            torch.testing.assert_close(
                cache.parameters(rows, cols, channel),
                expected[:, :, channel, rows, cols].transpose(1, 2),
                rtol=tolerance,
                atol=tolerance,
            )
            cache.write(rows, cols, channel, images[:, channel, rows, cols, None])


@pytest.mark.parametrize(("image_shape", "num_steps"), [((1, 28, 28), 136), ((3, 3, 2), 6), ((1, 1, 5), 5)])
def test_each_pixel_is_drawn_once_and_rows_together(image_shape: tuple[int, int, int], num_steps: int) -> None:
    places = PixelCNN(image_shape, width=8, num_blocks=1).start(1).places
    pixels = [(int(row), int(col)) for rows, cols in places for row, col in zip(rows, cols, strict=True)]
    assert sorted(pixels) == list(itertools.product(range(image_shape[1]), range(image_shape[2])))
    assert len(places) == num_steps


def test_the_memory_does_not_grow_with_the_height() -> None:
    def memory(height: int) -> int:
        return sum(conv.inputs.numel() for conv in build((1, height, 8)).start(1).convs.values())

    assert memory(100) == memory(50)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32)])
def test_default_sizes_fit_data_sets(image_shape: tuple[int, int, int]) -> None:
    network = PixelCNN(image_shape, num_classes=10)
    with torch.no_grad():
        logits = network(random_images(1, image_shape, torch.float32), torch.tensor([3]))
    assert logits.shape == (1, 256, *image_shape)


def test_six_blocks_see_seventeen_pixels_far() -> None:
    network = build((1, 28, 28), num_blocks=6)
    images = random_images(1, (1, 28, 28)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(images)[0, :, 0, 27, 20].square().sum(), images)
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    far = 3 + 2 * (1 + 2 + 4)  # the first layer and two rounds of dilations
    assert rows.min() == 27 - far
    assert columns.min() == 20 - far


def test_labels_change_the_logits_and_are_needed() -> None:
    network = build((1, 4, 4), num_classes=2)
    images = random_images(1, (1, 4, 4))
    assert not torch.equal(network(images, torch.tensor([0])), network(images, torch.tensor([1])))
    with pytest.raises(ValueError, match="needs labels"):
        network(images)
    with pytest.raises(ValueError, match="needs labels"):
        network.start(1)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        MaskedConv2d(4, 4, 2, num_groups=1)


def test_an_untrained_network_is_nearly_uniform() -> None:
    torch.manual_seed(0)
    network = PixelCNN((1, 8, 8))
    probs = network(random_images(2, (1, 8, 8), torch.float32)).softmax(dim=1)
    assert ((-probs * probs.log()).sum(dim=1) > 0.95 * math.log(256)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_no_mean_that_could_drift(channels: int) -> None:
    network = PixelCNN((channels, 6, 6), 3, width=12, num_blocks=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    logits = network(torch.rand(2, channels, 6, 6) * 2 - 1, torch.tensor([0, 2]))
    assert logits.mean(1).abs().max() < 1e-4 * logits.std()
