"""A conditioned denoiser has what samplers ask for."""

from __future__ import annotations

import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import Cosine
from imagegen.objectives.observations import Conditioned, Known
from imagegen.objectives.samplers import ancestral
from imagegen.objectives.time_grids import uniform

KNOWN = torch.arange(16).view(1, 1, 4, 4) % 3 == 0


class StandardNormal:
    """The best denoiser of independent standard normal pixels, which also says variances."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
        return alpha * x / (alpha**2 + sigma**2)

    def with_variance_share(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        return self(x, t), 0 * x + 0.25


def test_the_share_of_the_variance_is_that_of_the_network() -> None:
    y = Known(KNOWN)(torch.full((1, 1, 4, 4), 0.7))
    given = Conditioned(StandardNormal(), Known(KNOWN), y, 0.1, Cosine())
    x, t = torch.randn(1, 1, 4, 4), torch.tensor(0.4)
    denoised, share = given.with_variance_share(x, t)
    torch.testing.assert_close(denoised, given(x, t))
    assert share is not None
    assert share.eq(0.25).all()
    assert not share.requires_grad
    samples = ancestral(
        given, torch.randn(500, 1, 4, 4), uniform(30).float(), Cosine(), lambda step: torch.randn(500, 1, 4, 4), None
    )
    assert (samples[:, KNOWN[0]] - 0.7).abs().mean() < 0.1
