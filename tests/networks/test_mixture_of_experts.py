from __future__ import annotations

import pytest
import torch

from imagegen.networks.mixture_of_experts import MixtureOfExperts


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_it_is_the_weighted_sum_over_the_chosen_experts(top_k: int) -> None:
    layer, x = MixtureOfExperts(6, 10, 4, top_k), torch.randn(3, 5, 6)
    out = layer(x)
    for n in range(3):
        for place in range(5):
            probabilities = layer.router(x[n, place]).softmax(0)
            best = probabilities.argsort(descending=True)[:top_k].tolist()
            expected = sum(probabilities[i] * layer.experts[i](x[n, place]) for i in best)
            torch.testing.assert_close(out[n, place], expected)


def test_a_token_depends_on_no_other() -> None:
    layer, x = MixtureOfExperts(6, 10, 4, 2), torch.randn(8, 5, 6)
    torch.testing.assert_close(layer(x)[2:3], layer(x[2:3]))


def test_an_expert_that_nobody_chooses_is_no_trouble() -> None:
    layer = MixtureOfExperts(2, 4, 3, 1)
    with torch.no_grad():
        layer.router.weight.copy_(torch.tensor([[9.0, 9.0], [0.0, 0.0], [-9.0, -9.0]]))
    out = layer(torch.ones(2, 3, 2))
    out.sum().backward()
    assert layer.routing is not None
    assert layer.routing.chosen.unique().tolist() == [0]
    assert not layer.experts[1][0].weight.grad.any()


@pytest.mark.parametrize("top_k", [0, 5])
def test_no_more_experts_than_there_are(top_k: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.4"):
        MixtureOfExperts(6, 10, 4, top_k)
