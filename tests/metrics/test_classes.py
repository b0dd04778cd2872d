from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from imagegen.metrics.classes import ClassCoverage, class_spread


def scores(real: list[int], fake: list[int], labels: list[int] | None = None) -> dict[str, float]:
    metric = ClassCoverage(4)
    metric.update(one_hot(torch.tensor(real), 4).float(), real=True)
    metric.update(one_hot(torch.tensor(fake), 4).float(), False, None if labels is None else torch.tensor(labels))
    return dict(metric.compute())


def test_a_dropped_class_is_missing_and_counts_in_the_distance() -> None:
    values = scores([0, 1, 2, 3] * 25, [0, 1, 2, 2] * 25)
    assert values["missing_classes"] == 1
    assert values["class_tv"] == pytest.approx(0.25)


def test_a_class_that_is_hardly_there_is_missing() -> None:
    assert scores([0, 1, 2, 3] * 25, [0, 1, 2] * 33 + [3])["missing_classes"] == 1
    assert scores([0, 1, 2, 3] * 25, [0, 1, 2] * 32 + [3] * 4)["missing_classes"] == 0


def test_equal_shares_have_no_distance() -> None:
    values = scores([0, 1, 2, 3] * 5, [3, 2, 1, 0] * 25)
    assert values["class_tv"] == 0
    assert "label_accuracy" not in values


def test_label_accuracy_is_the_share_found_in_the_class_asked_for() -> None:
    values = scores([0, 1, 2, 3] * 5, [0, 1, 2, 3] * 5, [0, 1, 2, 0] * 5)
    assert values["label_accuracy"] == pytest.approx(0.75)


def test_the_error_of_the_distance_shrinks_with_more_samples() -> None:
    def error(count: int) -> float:
        drawn = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), count, replacement=True)
        return scores([0, 1, 2, 3] * 25, drawn.tolist())["class_tv_se"]

    assert 0 < error(10_000) < error(100)


def test_the_spread_within_classes() -> None:
    logits = torch.eye(3)[[0, 0, 1, 1]]
    features = torch.tensor([[0.0, 0], [2, 0], [10, 10], [10, 14]])
    assert class_spread(features, logits) == pytest.approx(((1 + 1 + 4 + 4) / 4) ** 0.5)
    assert class_spread(features[[0, 0, 2, 2]], logits) == 0


def test_the_spread_is_that_of_gaussians_around_any_means() -> None:
    torch.manual_seed(0)
    classes = torch.randint(5, (20_000,))
    features = 100 * torch.randn(5, 8)[classes] + 0.5 * torch.randn(20_000, 8)
    assert class_spread(features, torch.eye(5)[classes]) == pytest.approx(0.5 * 8**0.5, rel=0.01)
