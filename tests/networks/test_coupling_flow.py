from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from imagegen.networks.coupling_flow import CouplingFlow


def flow(dim: int, num_layers: int = 5) -> CouplingFlow:
    net = CouplingFlow(dim, num_layers, hidden=16)
    for parameter in net.parameters():  # its last layers begin at zero
        nn.init.normal_(parameter, std=0.3)
    return net.double()


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_there_and_back(dim: int) -> None:
    net, u = flow(dim), torch.randn(6, dim, dtype=torch.float64)
    z = net(u)
    assert not z.allclose(u, atol=0.1)
    torch.testing.assert_close(net.inverse(z)[0], u)


@pytest.mark.parametrize("dim", [2, 5])
def test_the_log_determinant_is_that_of_the_jacobian(dim: int) -> None:
    net, u = flow(dim), torch.randn(4, dim, dtype=torch.float64)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda x: net(x[None])[0], row) for row in u])
    torch.testing.assert_close(net.inverse(net(u))[1], torch.linalg.slogdet(jacobians)[1])


def test_begins_as_the_identity() -> None:
    u = torch.randn(3, 4)
    net = CouplingFlow(4, 3)
    assert net(u).equal(u)
    assert net.inverse(u)[1].equal(torch.zeros(3))


def test_its_density_integrates_to_one() -> None:
    net = flow(2)
    axis = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        u, log_det = net.inverse(grid)
    density = torch.exp(-0.5 * u.square().sum(1) - math.log(2 * math.pi) - log_det)
    assert float(density.sum() * (60 / 1200) ** 2) == pytest.approx(1.0, abs=0.01)


def test_autocast_does_not_touch_it() -> None:
    net, u = flow(4).float(), torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(u).dtype == torch.float32
        assert net.inverse(net(u))[0].allclose(u, atol=1e-4)
