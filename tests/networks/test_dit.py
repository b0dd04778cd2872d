from __future__ import annotations

import pytest
import torch

from imagegen.networks.dit import DiT, positions

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (4, 7, 7), (4, 2, 2)]


def small(image_shape: tuple[int, int, int], num_classes: int | None = 10, **options: int) -> DiT:
    network = DiT(image_shape, num_classes, width=16, num_blocks=2, num_heads=2, hidden=24, **options)
    for parameter in network.parameters():  # a step away from its zero-initialised layers
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize("num_classes", [None, 10])
@pytest.mark.parametrize("image_shape", SHAPES)
def test_output_has_the_shape_of_the_images(image_shape: tuple[int, int, int], num_classes: int | None) -> None:
    x, labels = torch.randn(3, *image_shape), None if num_classes is None else torch.tensor([0, 9, 10])
    output = small(image_shape, num_classes)(x, torch.rand(3), labels)
    assert output.shape == x.shape
    assert output.std() > 0.01
    doubled = small(image_shape, num_classes, num_outputs=2)(x, torch.rand(3), labels)
    assert doubled.shape == (3, 2 * image_shape[0], *image_shape[1:])


def test_a_new_network_answers_zero_and_its_blocks_change_nothing() -> None:
    network = DiT((1, 8, 8), 10, width=16, num_blocks=2, num_heads=2, hidden=24)
    x = torch.randn(2, 1, 8, 8)
    assert not network(x, torch.rand(2), torch.tensor([1, 2])).any()
    tokens = torch.randn(2, 16, 16)
    for block in network.blocks:
        assert block(tokens, torch.randn(2, 16)).equal(tokens)


@pytest.mark.parametrize("options", [{}, {"num_experts": 3, "top_k": 2}])
def test_every_parameter_gets_a_gradient(options: dict[str, int]) -> None:
    network = small((1, 8, 8), 4, **options)
    network(torch.randn(10, 1, 8, 8), torch.rand(10), torch.arange(10) % 5).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_time_label_and_place_matter() -> None:
    network, x = small((1, 8, 8)), torch.randn(1, 1, 8, 8)
    first = network(x, torch.tensor([0.2]), torch.tensor([3]))
    assert not network(x, torch.tensor([0.7]), torch.tensor([3])).allclose(first, atol=1e-3)
    assert not network(x, torch.tensor([0.2]), torch.tensor([4])).allclose(first, atol=1e-3)
    flipped = network(x.flip(3), torch.tensor([0.2]), torch.tensor([3])).flip(3)
    assert not flipped.allclose(first, atol=1e-3)
    assert len(torch.unique(positions(7, 7, 16).round(decimals=4), dim=0)) == 49


def test_routings_are_those_of_the_last_pass() -> None:
    network, x = small((1, 8, 8), None, num_experts=3), torch.randn(5, 1, 8, 8)
    assert network.routings() == []
    network(x, torch.rand(5))
    assert [routing.chosen.shape for routing in network.routings()] == [(5 * 16, 2)] * 2
    assert small((1, 8, 8)).routings() == []


@pytest.mark.parametrize(("shape", "width", "words"), [((1, 30, 30), 16, "divide by 4"), ((1, 8, 8), 12, "multiple")])
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, int, int], width: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiT(shape, None, width=width, num_heads=2)
