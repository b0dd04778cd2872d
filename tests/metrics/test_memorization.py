from __future__ import annotations

import math

import pytest
import torch

from imagegen.metrics import memorization
from imagegen.metrics.memorization import Memorization, nearest


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
@pytest.mark.parametrize("has_int8", [True, False])
def test_nearest_pixels_are_those_of_all_distances(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], num_rows: int, num_others: int, has_int8: bool
) -> None:
    monkeypatch.setattr(memorization, "_has_int8_products", lambda rows: has_int8)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (num_rows, *shape), dtype=torch.uint8, generator=generator)
    others = torch.randint(256, (num_others, *shape), dtype=torch.uint8, generator=generator)
    others[-1], others[0] = rows[0], 255 - rows[0]
    distances, indices = memorization.nearest(rows, others)
    expected = torch.cdist(rows.flatten(1).double() / 255, others.flatten(1).double() / 255) / math.prod(shape) ** 0.5
    torch.testing.assert_close(distances.double(), expected.min(1).values, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(expected[range(num_rows), indices], expected.min(1).values, atol=1e-3, rtol=1e-5)
    assert indices[0] == num_others - 1
