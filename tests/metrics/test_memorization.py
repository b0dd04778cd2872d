from __future__ import annotations

import math

import pytest
import torch

from imagegen.metrics import memorization
from imagegen.metrics.memorization import Memorization, _LowerBound, nearest


def test_nearest_vectors_are_those_of_all_distances() -> None:
    rows, others = (torch.randint(256, (num, 1, 5, 5)).float() for num in (33, 10_050))
    distances, indices = memorization.nearest(rows, others, block_size=10)
    expected = torch.cdist(rows.flatten(1).double(), others.flatten(1).double()).min(1)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-3, atol=1e-4)
    assert (indices == expected.indices).float().mean() > 0.99  # ties aside


def test_copies_have_a_rate_of_one_and_fresh_draws_about_a_hundredth() -> None:
    train, held_out, fresh = torch.randn(500, 3), torch.randn(2000, 3), torch.randn(4000, 3)

    def rate(rows: torch.Tensor) -> dict[str, float]:
        metric = Memorization(train, nearest(held_out, train)[0])
        for batch in rows.split(1500):
            metric.update(batch)
        return dict(metric.compute())

    assert rate(train[:300])["copy_rate"] == 1
    fair = rate(fresh)
    assert fair["copy_rate"] == pytest.approx(0.01, abs=4 * (fair["copy_rate_se"] + 0.002))
    assert rate(train[:50].repeat(4, 1) + 10)["copy_rate"] == 0


def test_half_copies_are_half() -> None:
    train, held_out = torch.randn(500, 8), torch.randn(500, 8)
    metric = Memorization(train, nearest(held_out, train)[0])
    metric.update(torch.cat([train[:100], 5 + torch.randn(100, 8)]))
    assert metric.compute()["copy_rate"] == pytest.approx(0.5)
    distances, indices = metric.neighbours()
    assert indices[:100].tolist() == list(range(100))
    assert float(distances[:100].max()) < 1e-2


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 5, 7)])
@pytest.mark.parametrize(("num_rows", "num_others"), [(1, 3), (17, 10_001)])
@pytest.mark.parametrize("kind", ["noise", "pictures"])
def test_nearest_pixels_are_those_of_all_distances(
    shape: tuple[int, ...], num_rows: int, num_others: int, kind: str
) -> None:
    generator = torch.Generator().manual_seed(0)

    def images(num: int) -> torch.Tensor:
        if kind == "noise":  # which no bound rules out
            return torch.randint(256, (num, *shape), dtype=torch.uint8, generator=generator)
        mixture = torch.randn(num, 10, generator=generator) @ directions
        return (128 + 20 * mixture).clamp(0, 255).to(torch.uint8).reshape(num, *shape)

    directions = torch.randn(10, math.prod(shape), generator=generator)
    rows, others = images(num_rows), images(num_others)
    others[-1], others[0] = rows[0], 255 - rows[0]
    distances, indices = memorization.nearest(rows, others)
    expected = torch.cdist(rows.flatten(1).double() / 255, others.flatten(1).double() / 255) / math.prod(shape) ** 0.5
    torch.testing.assert_close(distances.double(), expected.min(1).values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected[range(num_rows), indices], expected.min(1).values, atol=1e-5, rtol=1e-5)
    assert indices[0] == num_others - 1


def test_shortened_vectors_are_never_farther_apart_and_rule_out_most() -> None:
    generator = torch.Generator().manual_seed(0)
    decay = torch.linspace(0, 8, 300).exp().reciprocal()
    rows, others = (torch.randn(num, 300, generator=generator) * decay for num in (50, 4000))
    bound = _LowerBound(others)
    lower = torch.cdist(bound.shortened(rows).double(), bound.shortened(others).double())
    distances = torch.cdist(rows.double(), others.double())
    assert (lower <= distances + 1e-5).all()
    assert (lower <= distances.min(1, keepdim=True).values).double().mean() < 0.01
