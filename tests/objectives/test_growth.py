from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from imagegen.objectives.growth import Growth, shrink


@pytest.mark.parametrize(
    ("progress", "level"),
    [(0, 0), (0.124, 0), (0.125, 0), (0.1875, 0.5), (0.25, 1), (0.374, 1), (0.4375, 1.5), (0.5, 2), (0.9, 2), (1, 2)],
)
def test_each_size_is_trained_alone_and_then_faded_into_the_next(progress: float, level: float) -> None:
    assert Growth(share=0.5).level(progress, num_levels=3) == pytest.approx(level)


def test_growing_never_jumps_nor_shrinks() -> None:
    levels = torch.tensor([Growth(0.8).level(i / 1000, 4) for i in range(1001)])
    assert levels.diff().min() >= 0
    assert levels.diff().max() < 0.01
    assert (levels[0], levels[-1]) == (0, 3)


def test_one_size_does_not_grow() -> None:
    assert Growth().level(0.0, 1) == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_the_share_is_one(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Growth(share)


def test_images_are_averaged_to_the_size_of_their_level() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert shrink(images, 3.0, 4) is images
    torch.testing.assert_close(shrink(images, 1.0, 4), F.avg_pool2d(images, 4))
    assert shrink(images, 1.001, 4).shape == (2, 3, 16, 16)


def test_a_fade_in_of_images_is_continuous() -> None:
    images = torch.randn(2, 1, 28, 28)
    enlarged = F.interpolate(shrink(images, 1.0, 3), scale_factor=2.0)
    torch.testing.assert_close(shrink(images, 1 + 1e-6, 3), enlarged, atol=1e-4, rtol=0)
    torch.testing.assert_close(shrink(images, 2 - 1e-6, 3), images, atol=1e-4, rtol=0)
    torch.testing.assert_close(shrink(images, 1.5, 3), 0.5 * (images + enlarged))
