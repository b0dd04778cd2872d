"""The classification accuracy score on real digits."""

from __future__ import annotations

import pytest
import torch

from imagegen.data import digits
from imagegen.metrics.accuracy import classification_accuracy, joined

SPLITS = digits.read(None)


def test_real_digits_teach_nearly_everything() -> None:
    accuracy, error = classification_accuracy(*SPLITS["train"], *SPLITS["test"], 10, seed=0)
    assert accuracy > 0.97
    assert error == pytest.approx((accuracy * (1 - accuracy) / len(SPLITS["test"][0])) ** 0.5)


def test_an_evaluation_without_gradients_gives_the_same() -> None:
    with torch.inference_mode():
        images, labels = (rows.clone() for rows in SPLITS["train"])
        inside = classification_accuracy(images, labels, *SPLITS["test"], 10, seed=0)
    assert inside == classification_accuracy(*SPLITS["train"], *SPLITS["test"], 10, seed=0)


def test_wrong_labels_teach_nothing() -> None:
    images, labels = SPLITS["train"]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert classification_accuracy(images, shuffled, *SPLITS["test"], 10, seed=0)[0] < 0.3


def test_joined_sets_weigh_the_same() -> None:
    few, many = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.ones(5, 1, 2, 2, dtype=torch.uint8)
    for first, second in ((few, many), (many, few)):
        images, labels = joined(first, torch.arange(len(first)), second, torch.arange(len(second)) + 10)
        assert images.float().mean() == 0.5
        assert len(images) == len(labels) == 10
        assert set(labels.tolist()) == {*range(len(first)), *range(10, 10 + len(second))}
