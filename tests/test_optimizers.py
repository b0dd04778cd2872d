"""Muon against torch's own where that has one, and against singular values where it has none."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from imagegen.optimizers import Muon, orthogonalized


def trained(
    module: nn.Module, make: Callable[..., torch.optim.Optimizer], x: Tensor, target: Tensor, num_steps: int = 5
) -> list[Tensor]:
    module = copy.deepcopy(module)
    optimizer = make(module.parameters())
    for _ in range(num_steps):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, s, vh = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1, 0.05, len(s))) @ vh
    inner = u.mT @ orthogonalized(matrix) @ vh.mT
    assert (inner - torch.diag(inner.diag())).abs().max() < 1e-5
    assert inner.diag().min() > 0.6
    assert inner.diag().max() < 1.3


def test_no_gradient_is_no_update() -> None:
    assert orthogonalized(torch.zeros(3, 4)).abs().max() == 0


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_matrices_are_moved_as_by_the_muon_of_torch(shape: tuple[int, int]) -> None:
    """Its iterations run in bf16, so only the first two digits can agree."""
    torch.manual_seed(1)
    module, x, target = nn.Linear(shape[1], shape[0], bias=False), torch.randn(64, shape[1]), torch.randn(64, shape[0])
    settings = {"lr": 0.01, "weight_decay": 0.1}

    def reference(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Muon(parameters, momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings)

    (ours,) = trained(module, lambda p: Muon(p, betas=(0.95, 0.99), **settings), x, target)
    (theirs,) = trained(module, reference, x, target)
    moved = (theirs - module.weight).norm()
    assert moved > 0.05
    assert (ours - theirs).norm() / moved < 0.02


def test_what_is_no_matrix_is_moved_as_by_adamw() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.places = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2, 3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * x + self.places

    torch.manual_seed(2)
    module, x, target = Scaled(), torch.randn(7, 2, 3, 5), torch.randn(7, 2, 3, 5)
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    ours = trained(module, lambda p: Muon(p, **settings), x, target)
    theirs = trained(module, lambda p: torch.optim.AdamW(p, **settings), x, target)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_kernel_is_moved_as_the_matrix_that_it_is() -> None:
    torch.manual_seed(3)
    kernel = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)
    matrix = nn.Linear(36, 6, bias=False)
    matrix.weight.data = kernel.weight.detach().flatten(1).clone()
    x, target = torch.randn(8, 4, 3, 3), torch.randn(8, 6)
    (moved,) = trained(nn.Sequential(kernel, nn.Flatten()), Muon, x, target)
    (expected,) = trained(matrix, Muon, x.flatten(1), target)
    torch.testing.assert_close(moved.flatten(1), expected)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    torch.manual_seed(4)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    x, target = torch.randn(8, 2, 3, 3), torch.randn(8, 3)
    expected = trained(module, Muon, x, target, num_steps=6)

    first = Muon(module.parameters())
    for optimizer in (first, None):
        if optimizer is None:
            optimizer = Muon(module.parameters())
            optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
        for _ in range(3):
            optimizer.zero_grad()
            (module(x) - target).square().mean().backward()
            optimizer.step()
    for parameter, other in zip(module.parameters(), expected, strict=True):
        assert torch.equal(parameter, other)


def test_parameters_without_gradients_stay() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([used, unused], lr=0.1, weight_decay=0.5)
    assert optimizer.step(lambda: used.square().sum().backward() or 7.0) == 7.0  # type: ignore[func-returns-value]
    assert not torch.equal(used, torch.ones(2, 2))
    assert torch.equal(unused, torch.ones(2, 2))
