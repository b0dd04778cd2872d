from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from imagegen.metrics.interpretability import NUM_BINS, mutual_information, mutual_information_gap


def test_mutual_information_is_that_of_scikit_learn() -> None:
    torch.manual_seed(0)
    attributes = torch.stack([torch.randint(8, (3000,)).float(), torch.rand(3000)], 1)
    latents = attributes @ torch.randn(2, 4) + torch.randn(3000, 4)
    found = mutual_information(latents, attributes)
    for i in range(4):
        bins = latents[:, i].argsort().argsort() * NUM_BINS // 3000
        for j in range(2):
            column = attributes[:, j] if j == 0 else attributes[:, j].argsort().argsort() * NUM_BINS // 3000
            expected = mutual_info_score(bins.numpy(), column.numpy())
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-9)


def test_one_latent_for_each_attribute_has_a_gap_of_one() -> None:
    attributes = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)).repeat(20, 1)
    information = mutual_information(attributes.flip(1), attributes)
    torch.testing.assert_close(information.diagonal(), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(information[0, 1]) == pytest.approx(math.log(10))
    gap = mutual_information_gap(information, attributes)
    torch.testing.assert_close(gap, torch.ones(2, dtype=torch.float64))


def test_two_latents_that_say_the_same_have_no_gap() -> None:
    attribute = torch.rand(1000, 1)
    information = mutual_information(attribute.repeat(1, 2), attribute)
    assert float(mutual_information_gap(information, attribute)) == 0
