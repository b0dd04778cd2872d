from __future__ import annotations

import pytest
import torch

from imagegen.networks.unet import UNet

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (4, 7, 7), (4, 2, 2)]


def awake(network: UNet) -> UNet:
    """The network a step away from its zero-initialised layers, through which nothing would pass."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def inputs(num: int, image_shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(num, *image_shape), torch.linspace(0, 1, num)


@pytest.mark.parametrize("num_classes", [None, 10])
@pytest.mark.parametrize("image_shape", SHAPES)
def test_output_has_the_shape_of_the_images(image_shape: tuple[int, int, int], num_classes: int | None) -> None:
    network = awake(UNet(image_shape, num_classes, width=16, num_blocks=1))
    x, t = inputs(3, image_shape)
    labels = None if num_classes is None else torch.tensor([0, 9, 10])
    output = network(x, t, labels)
    assert output.shape == x.shape
    assert output.isfinite().all()
    assert output.std() > 0.01


def test_a_new_network_answers_zero() -> None:
    x, t = inputs(2, (1, 8, 8))
    assert not UNet((1, 8, 8), width=16)(x, t).any()


@pytest.mark.parametrize("num_classes", [None, 4])
def test_every_parameter_gets_a_gradient(num_classes: int | None) -> None:
    network = awake(UNet((1, 8, 8), num_classes, width=16, num_blocks=2))
    x, t = inputs(10, (1, 8, 8))
    labels = None if num_classes is None else torch.arange(10) % (num_classes + 1)
    network(x, t, labels).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    if num_classes is not None:
        assert network.embedding.labels is not None
        assert network.embedding.labels.weight.grad.any(dim=1).all(), "each class and 'no label' have a row"  # type: ignore[union-attr]


def test_it_can_learn_from_its_zero_initialisation() -> None:
    network = UNet((1, 8, 8), width=16, num_blocks=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    x, t = inputs(4, (1, 8, 8))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    losses = []
    for _ in range(8):
        loss = (network(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert [name for name, parameter in network.named_parameters() if parameter.equal(before[name])] == []


@pytest.mark.parametrize("training", [True, False])
def test_rows_of_a_batch_do_not_influence_each_other(training: bool) -> None:
    network = awake(UNet((1, 8, 8), 3, width=16, num_blocks=1)).train(training)
    x, t = inputs(3, (1, 8, 8))
    labels = torch.tensor([0, 1, 3])
    x.requires_grad_()
    output = network(x, t, labels)
    [gradient] = torch.autograd.grad(output[1].sum(), x)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()
    torch.testing.assert_close(network(x[1:2], t[1:2], labels[1:2]), output[1:2], atol=1e-5, rtol=1e-4)


def test_time_and_label_change_the_output() -> None:
    network = awake(UNet((1, 8, 8), 3, width=16, num_blocks=1))
    x = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1)
    by_time = network(x, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 1, 1]))
    by_label = network(x, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0, 1, 3]))
    for output in (by_time, by_label):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert (output[i] - output[j]).abs().max() > 1e-3


def test_every_pixel_can_see_every_other() -> None:
    network = awake(UNet((1, 28, 28), width=16, num_blocks=2))
    x, t = inputs(1, (1, 28, 28))
    x.requires_grad_()
    [gradient] = torch.autograd.grad(network(x, t)[0, 0, 0, 0], x)
    assert gradient.any(dim=0).all()


@pytest.mark.parametrize("image_shape", [(1, 17, 17), (3, 32, 31)])
def test_sizes_that_cannot_be_folded_are_refused(image_shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must divide by 2"):
        UNet(image_shape)


@pytest.mark.parametrize("image_shape", [(1, 8, 12), (3, 16, 24)])
def test_images_need_not_be_square(image_shape: tuple[int, int, int]) -> None:
    x, t = inputs(2, image_shape)
    assert awake(UNet(image_shape, width=16))(x, t).shape == x.shape


def test_dropout_acts_in_training_only() -> None:
    network = awake(UNet((1, 8, 8), width=16, dropout=0.5))
    x, t = inputs(2, (1, 8, 8))
    assert not network.train()(x, t).equal(network(x, t))
    assert network.eval()(x, t).equal(network(x, t))
