from __future__ import annotations

import pytest
import torch
from scipy import stats

from imagegen.objectives.latents import slerp, truncate


def test_the_ends_of_an_arc_are_met() -> None:
    start, end = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(slerp(start, end, 0.0), start)
    torch.testing.assert_close(slerp(start, end, 1.0), end)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_quarter_circle(share: float) -> None:
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    angle = torch.tensor(share * torch.pi / 2)
    torch.testing.assert_close(slerp(start, end, share), 2 * torch.stack([angle.cos(), angle.sin()])[None])


def test_latents_between_are_as_long_as_any_other() -> None:
    start, end = torch.randn(2, 500, 128)
    middle = slerp(start, end, 0.5)
    assert middle.norm(dim=1).mean() == pytest.approx(float(start.norm(dim=1).mean()), rel=0.01)
    assert (0.5 * (start + end)).norm(dim=1).mean() < 0.75 * middle.norm(dim=1).mean()


def test_steps_of_an_arc_are_equally_wide() -> None:
    start, end = torch.randn(2, 1, 16)
    points = [slerp(start, end, i / 4) for i in range(5)]
    angles = [torch.cosine_similarity(a, b).acos() for a, b in zip(points[:-1], points[1:], strict=True)]
    torch.testing.assert_close(torch.cat(angles), angles[0].expand(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("end", [torch.ones(2, 4), -torch.ones(2, 4), torch.zeros(2, 4)])
def test_directions_without_one_arc_stay_finite(end: torch.Tensor) -> None:
    assert slerp(torch.ones(2, 4), end, 0.3).isfinite().all()
    torch.testing.assert_close(slerp(torch.ones(2, 4), torch.ones(2, 4), 0.3), torch.ones(2, 4))


@pytest.mark.parametrize("bound", [0.3, 1.0, 2.0])
def test_truncated_latents_have_the_truncated_normal_distribution(bound: float) -> None:
    torch.manual_seed(0)
    found = truncate(torch.randn(20_000), bound)
    assert found.abs().max() <= bound
    assert stats.kstest(found.double().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 0.01


def test_a_large_bound_changes_nothing_and_order_is_kept() -> None:
    latents = torch.randn(1000).sort().values
    torch.testing.assert_close(truncate(latents, 8.0), latents)
    assert (truncate(latents, 0.5).diff() >= 0).all()
    assert truncate(torch.tensor([-50.0, 50.0]), 1.0).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_is_positive(bound: float) -> None:
    with pytest.raises(ValueError, match="truncation"):
        truncate(torch.zeros(2), bound)
