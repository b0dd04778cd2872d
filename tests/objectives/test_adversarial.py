from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import logsigmoid, mse_loss

from imagegen.objectives.adversarial import Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein

ALL = [NonSaturating(), LeastSquares(), Hinge(), Wasserstein(), Relativistic()]
every_objective = pytest.mark.parametrize("objective", ALL, ids=lambda objective: type(objective).__name__)


def test_losses_are_binary_cross_entropies() -> None:
    real_logits, fake_logits = torch.randn(16) * 5, torch.randn(16) * 5
    real, fake = torch.ones(16), torch.zeros(16)
    objective = NonSaturating()
    torch.testing.assert_close(objective.generator_loss(fake_logits), cross_entropy(fake_logits, real))
    torch.testing.assert_close(
        objective.discriminator_loss(real_logits, fake_logits),
        cross_entropy(real_logits, real) + cross_entropy(fake_logits, fake),
    )


def test_least_squares_are_halved_squared_errors() -> None:
    real_logits, fake_logits = torch.randn(16), torch.randn(16)
    ones, zeros = torch.ones(16), torch.zeros(16)
    expected = 0.5 * (mse_loss(real_logits, ones) + mse_loss(fake_logits, zeros))
    torch.testing.assert_close(LeastSquares().discriminator_loss(real_logits, fake_logits), expected)
    torch.testing.assert_close(LeastSquares().generator_loss(fake_logits), 0.5 * mse_loss(fake_logits, ones))


def test_the_hinge_is_satisfied_beyond_its_margin() -> None:
    logits = torch.tensor([1.5, 2.0], requires_grad=True)
    assert Hinge().discriminator_loss(logits, -logits).item() == 0
    assert Hinge().discriminator_loss(torch.zeros(2), torch.zeros(2)).item() == 2


def test_the_wasserstein_loss_is_the_negative_difference() -> None:
    real_logits, fake_logits = torch.randn(16), torch.randn(16)
    expected = fake_logits.mean() - real_logits.mean()
    torch.testing.assert_close(Wasserstein().discriminator_loss(real_logits, fake_logits), expected)
    drifting = Wasserstein(drift=0.5).discriminator_loss(real_logits, fake_logits)
    torch.testing.assert_close(drifting, expected + 0.5 * real_logits.square().mean())


def test_the_critic_estimates_the_distance_of_two_gaussians() -> None:
    # Equal but for their means: the distance is that of the means, and the best critic is linear with slope 1.
    real, fake = torch.randn(20_000) + 3.0, torch.randn(20_000) + 0.5
    slope = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([slope], lr=0.1)
    for _ in range(50):
        loss = Wasserstein().discriminator_loss(slope * real, slope * fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            slope.clamp_(-1, 1)
    assert -loss.item() == pytest.approx(2.5, abs=0.05)


def test_relativistic_losses_see_differences_only() -> None:
    real_logits, fake_logits = torch.randn(16), torch.randn(16)
    objective = Relativistic()
    torch.testing.assert_close(
        objective.discriminator_loss(real_logits, fake_logits),
        objective.discriminator_loss(real_logits + 7, fake_logits + 7),
    )
    torch.testing.assert_close(
        objective.generator_loss(fake_logits, real_logits), objective.discriminator_loss(fake_logits, real_logits)
    )


@every_objective
def test_gradients_push_the_logits_apart_and_the_generator_pulls_back(objective: Any) -> None:
    real_logits, fake_logits = 0.3 * torch.rand(8), 0.3 * torch.rand(8)
    real_logits, fake_logits = real_logits.requires_grad_(), fake_logits.requires_grad_()
    loss = objective.discriminator_loss(real_logits, fake_logits)
    real_gradient, fake_gradient = torch.autograd.grad(loss, (real_logits, fake_logits))
    assert real_gradient.mean() < 0 < fake_gradient.mean()
    [pull] = torch.autograd.grad(objective.generator_loss(fake_logits, real_logits), fake_logits)
    assert (pull < 0).all()


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


@every_objective
def test_huge_logits_stay_finite(objective: Any) -> None:
    logits = torch.tensor([-1e6, 1e6], requires_grad=True)
    loss = objective.discriminator_loss(logits, logits) + objective.generator_loss(logits, logits.detach())
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
