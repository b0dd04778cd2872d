from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import logsigmoid

from imagegen.objectives.adversarial import NonSaturating


def test_losses_are_binary_cross_entropies() -> None:
    real_logits, fake_logits = torch.randn(16) * 5, torch.randn(16) * 5
    real, fake = torch.ones(16), torch.zeros(16)
    objective = NonSaturating()
    torch.testing.assert_close(objective.generator_loss(fake_logits), cross_entropy(fake_logits, real))
    torch.testing.assert_close(
        objective.discriminator_loss(real_logits, fake_logits),
        cross_entropy(real_logits, real) + cross_entropy(fake_logits, fake),
    )


def test_an_undecided_discriminator_pays_two_log_two() -> None:
    zeros = torch.zeros(4)
    assert NonSaturating().discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert NonSaturating().generator_loss(zeros).item() == pytest.approx(math.log(2))


def test_a_fake_that_is_found_out_still_teaches_the_generator() -> None:
    fake_logits = torch.full((5,), -20.0, requires_grad=True)
    [gradient] = torch.autograd.grad(NonSaturating().generator_loss(fake_logits), fake_logits)
    torch.testing.assert_close(gradient, torch.full((5,), -1 / 5))
    # log(1 - D(G(z))), the loss of the minimax game, is what would have saturated
    [saturated] = torch.autograd.grad(logsigmoid(-fake_logits).mean(), fake_logits)
    assert saturated.abs().max() < 1e-8


def test_gradients_push_the_logits_apart() -> None:
    real_logits, fake_logits = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    loss = NonSaturating().discriminator_loss(real_logits, fake_logits)
    real_gradient, fake_gradient = torch.autograd.grad(loss, (real_logits, fake_logits))
    torch.testing.assert_close(real_gradient, (real_logits.sigmoid() - 1) / 8)
    torch.testing.assert_close(fake_gradient, fake_logits.sigmoid() / 8)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([-1e6, 1e6], requires_grad=True)
    loss = NonSaturating().discriminator_loss(logits, logits) + NonSaturating().generator_loss(logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
