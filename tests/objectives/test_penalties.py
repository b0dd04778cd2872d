"""On discriminators whose gradients are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagegen.objectives.penalties import R1, R1R2, Dragan, GradientPenalty, Orthogonal, squared_gradient_norms

ALL = [GradientPenalty(), R1(), R1R2(), Dragan()]
every_penalty = pytest.mark.parametrize("penalty", ALL, ids=lambda penalty: type(penalty).__name__)
IMAGES, FAKES = torch.randn(6, 1, 3, 3), torch.randn(6, 1, 3, 3)


def linear(norm: float) -> Any:
    """A discriminator w.x with |w| = norm, whose gradient is w everywhere."""
    weight = torch.arange(1.0, 10.0)
    weight = norm * weight / weight.norm()
    return lambda images: images.flatten(1) @ weight


def quadratic(images: Tensor) -> Tensor:
    """|x|^2 / 2: its gradient is x."""
    return 0.5 * images.square().flatten(1).sum(1)


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_penalties_of_a_linear_discriminator(norm: float) -> None:
    judge = linear(norm)
    assert GradientPenalty(weight=10)(judge, IMAGES, FAKES).item() == pytest.approx(10 * (norm - 1) ** 2, abs=1e-4)
    assert Dragan(weight=10)(judge, IMAGES, FAKES).item() == pytest.approx(10 * (norm - 1) ** 2, abs=1e-4)
    assert R1(weight=2)(judge, IMAGES, FAKES).item() == pytest.approx(norm**2, rel=1e-5)
    assert R1R2(weight=2)(judge, IMAGES, FAKES).item() == pytest.approx(2 * norm**2, rel=1e-5)


def test_penalties_look_where_they_say() -> None:
    norms, fake_norms = (x.square().flatten(1).sum(1) for x in (IMAGES, FAKES))
    torch.testing.assert_close(squared_gradient_norms(quadratic, IMAGES), norms)
    torch.testing.assert_close(R1(weight=1)(quadratic, IMAGES, FAKES), 0.5 * norms.mean())
    torch.testing.assert_close(R1R2(weight=1)(quadratic, IMAGES, FAKES), 0.5 * (norms.mean() + fake_norms.mean()))


def test_the_gradient_penalty_looks_between_the_pairs() -> None:
    # From 0 to x the gradient of |x|^2 / 2 has the norm t |x|, with t uniform.
    images = torch.full((50_000, 1, 1, 1), 3.0)
    found = GradientPenalty(weight=1)(quadratic, torch.zeros_like(images), images).item()
    assert found == pytest.approx(1.0, abs=0.03)  # the integral of (3 t - 1)^2


@every_penalty
def test_a_penalty_teaches_the_discriminator_and_nobody_else(penalty: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Softplus(), nn.Linear(4, 1), nn.Flatten(0))
    fakes = FAKES.clone().requires_grad_()
    penalty(network, IMAGES, fakes.detach()).backward()
    assert network[1].weight.grad is not None
    assert network[1].weight.grad.any()
    assert fakes.grad is None


@every_penalty
def test_penalties_are_computed_in_full_precision(penalty: Any) -> None:
    seen = []

    def judge(images: Tensor) -> Tensor:
        hidden = nn.functional.linear(images.flatten(1), torch.eye(9))
        seen.append(hidden.dtype)
        return hidden.square().sum(1)

    with torch.autocast("cpu", torch.bfloat16):
        penalty(judge, IMAGES, FAKES.bfloat16())  # as a generator under autocast hands them over
    assert set(seen) == {torch.float32}


def test_a_critic_that_does_not_move_has_a_finite_gradient() -> None:
    weight = torch.zeros(9, requires_grad=True)
    GradientPenalty()(lambda images: images.flatten(1) @ weight, IMAGES, FAKES).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_orthogonal_rows_cost_nothing_and_parallel_ones_do() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Conv2d(1, 2, 2), nn.Embedding(5, 4))
    with torch.no_grad():
        network[0].weight.copy_(3 * torch.eye(4)[:3])
        network[2].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]).view(2, 1, 2, 2))
    assert Orthogonal(weight=2.0)(network).item() == 0
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]]).view(2, 1, 2, 2))
    assert Orthogonal(weight=2.0)(network).item() == pytest.approx(2 * (2**2 + 2**2))


def test_the_orthogonal_penalty_reaches_weights_under_spectral_normalisation() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    Orthogonal()(nn.Sequential(layer)).backward()
    assert layer.parametrizations.weight.original.grad.any()


def test_of_a_tall_matrix_the_columns_are_compared() -> None:
    layer = nn.Linear(2, 50)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(50)[:, :2])
    assert Orthogonal()(nn.Sequential(layer)).item() == 0
