from __future__ import annotations

import pytest
import torch

from imagegen.objectives.expert_balance import balance_loss, usage


def test_a_uniform_router_has_no_excess() -> None:
    probabilities = torch.full((12, 4), 0.25)
    for chosen in (torch.arange(12)[:, None] % 4, torch.zeros(12, 1, dtype=torch.long)):
        assert balance_loss(probabilities, chosen).item() == pytest.approx(0, abs=1e-6)


def test_one_expert_for_all_costs_the_most() -> None:
    probabilities = torch.eye(4)[torch.zeros(12, dtype=torch.long)]
    assert balance_loss(probabilities, torch.zeros(12, 1, dtype=torch.long)).item() == pytest.approx(3)


def test_its_gradient_moves_probability_to_experts_in_little_use() -> None:
    logits = torch.zeros(10, 2, requires_grad=True)
    balance_loss(logits.softmax(1), torch.tensor([[0]] * 8 + [[1]] * 2)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1] < 0).all()


def test_usage_counts_choices() -> None:
    torch.testing.assert_close(usage(torch.tensor([[0, 1], [0, 3]]), 4), torch.tensor([0.5, 0.25, 0.0, 0.25]))
