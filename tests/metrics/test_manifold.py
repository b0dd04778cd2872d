"""Against the authors' implementation of density and coverage, which has precision and recall too."""

from __future__ import annotations

import pytest
import torch

from imagegen.metrics.manifold import PrecisionRecall, neighbour_radii, pairwise_distances, standard_error


def scores(real: torch.Tensor, fake: torch.Tensor, k: int = 5) -> dict[str, float]:
    metric = PrecisionRecall(k)
    metric.update(real, real=True)
    for batch in fake.split(70):
        metric.update(batch, real=False)
    return dict(metric.compute())


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("num_real", "num_fake"), [(300, 200), (1100, 1300)])
def test_agrees_with_prdc(k: int, num_real: int, num_fake: int) -> None:
    prdc = pytest.importorskip("prdc")
    real, fake = torch.randn(num_real, 6), 0.4 + 1.2 * torch.randn(num_fake, 6)
    theirs = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    ours = scores(real, fake, k)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=2 / num_real), name


def test_distances_are_euclidean_even_far_from_the_origin() -> None:
    rows, others = 1000 + torch.randn(25, 4), 1000 + torch.randn(31, 4)
    for block, distances in pairwise_distances(rows, others, block_size=10):
        torch.testing.assert_close(
            distances.double(), torch.cdist(rows[block].double(), others.double()), atol=1e-3, rtol=0
        )


def test_radii_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    torch.testing.assert_close(neighbour_radii(line, 2), torch.tensor([3.0, 2.0, 3.0, 6.0]))


def test_far_samples_have_nothing_and_a_few_copies_little_coverage() -> None:
    real = torch.randn(500, 4)
    far = scores(real, 100 + torch.randn(300, 4))
    assert far["precision"] == far["recall"] == far["density"] == far["coverage"] == 0
    few = scores(real, real[:10].repeat(30, 1))
    assert few["precision"] == 1
    assert few["coverage"] < 0.3


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 5"):
        scores(torch.randn(5, 2), torch.randn(50, 2))


def test_standard_error_of_a_share() -> None:
    values = torch.tensor([True] * 30 + [False] * 70)
    assert standard_error(values) == pytest.approx((0.3 * 0.7 / 99) ** 0.5)
