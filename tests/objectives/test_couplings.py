from __future__ import annotations

import itertools

import torch

from imagegen.objectives.couplings import independent, optimal_transport


def cost(images: torch.Tensor, noise: torch.Tensor) -> float:
    return float((images - noise).square().sum())


def test_no_order_of_the_noise_is_cheaper() -> None:
    images, noise = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    best = min(cost(images, noise[list(order)]) for order in itertools.permutations(range(6)))
    paired = optimal_transport(images, noise, None)
    torch.testing.assert_close(torch.tensor(cost(images, paired)), torch.tensor(best))
    assert sorted(paired.sum((1, 2, 3)).tolist()) == sorted(noise.sum((1, 2, 3)).tolist())


def test_noise_stays_with_its_class() -> None:
    images, noise, labels = torch.randn(30, 1, 2, 2), torch.randn(30, 1, 2, 2), torch.arange(30) % 3
    paired = optimal_transport(images, noise, labels)
    for label in range(3):
        rows = labels == label
        assert sorted(paired[rows].sum((1, 2, 3)).tolist()) == sorted(noise[rows].sum((1, 2, 3)).tolist())
        assert cost(images[rows], paired[rows]) < cost(images[rows], noise[rows])


def test_independent_noise_is_left_alone() -> None:
    noise = torch.randn(3, 1, 2, 2)
    assert independent(torch.zeros(3, 1, 2, 2), noise, None) is noise
