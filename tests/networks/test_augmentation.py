from __future__ import annotations

from typing import Any

import pytest
import torch

from imagegen.networks.augmentation import DiffAugment

IMAGES = torch.rand(200, 3, 16, 16) * 2 - 1


def test_nothing_asked_for_changes_nothing() -> None:
    assert DiffAugment(color=0, shift=0, cutout=0)(IMAGES).equal(IMAGES)
    assert DiffAugment(probability=0)(IMAGES).equal(IMAGES)


def test_pictures_are_moved_by_whole_pixels_and_filled_with_grey() -> None:
    ramp = (torch.arange(1.0, 65.0).view(1, 1, 8, 8) / 64).repeat(500, 1, 1, 1)
    moved = DiffAugment(color=0, shift=0.25, cutout=0)(ramp)
    padded = torch.nn.functional.pad(ramp[0, 0], (2, 2, 2, 2))
    windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    found = [[i for i, window in enumerate(windows) if window.equal(image[0])] for image in moved]
    assert all(len(matches) == 1 for matches in found)
    assert len({matches[0] for matches in found}) == 25


def test_a_square_is_cut_out() -> None:
    cut = DiffAugment(color=0, shift=0, cutout=0.5)(torch.ones(300, 1, 16, 16))
    missing = (cut == 0).sum((1, 2, 3))
    assert missing.min() >= 16  # a corner of it at least
    assert missing.max() <= 8 * 8
    assert ((cut == 0) | (cut == 1)).all()


def test_colours_change_by_what_the_paper_says() -> None:
    augment = DiffAugment(color=1, shift=0, cutout=0)
    grey = torch.zeros(2000, 1, 4, 4)
    shifts = augment(grey).mean((1, 2, 3))
    assert -0.5 <= shifts.min() < -0.45
    assert 0.45 < shifts.max() <= 0.5
    contrast = augment(IMAGES).std((1, 2, 3)) / IMAGES.std((1, 2, 3))
    assert contrast.max() < 1.5 * 2  # contrast and saturation together


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_so_many_images_are_changed(probability: float) -> None:
    changed = DiffAugment(probability=probability)(IMAGES.repeat(10, 1, 1, 1))
    share = (changed != IMAGES.repeat(10, 1, 1, 1)).flatten(1).any(1).float().mean()
    assert float(share) == pytest.approx(probability, abs=0.05)


def test_gradients_flow_through() -> None:
    images = IMAGES[:8].clone().requires_grad_()
    DiffAugment()(images).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


def test_an_adaptive_probability_follows_the_discriminator() -> None:
    augment = DiffAugment(probability=0.0, target=0.8)
    for _ in range(100):
        augment.adapt(torch.tensor(0.9), 1000)
    assert float(augment.probability) == pytest.approx(0.2)
    for _ in range(500):
        augment.adapt(torch.tensor(0.5), 1000)
    assert float(augment.probability) == 0
    assert "probability" in augment.state_dict()
    fixed = DiffAugment(probability=0.5)
    fixed.adapt(torch.tensor(1.0), 1000)
    assert float(fixed.probability) == 0.5


@pytest.mark.parametrize("options", [{"shift": 2.0}, {"probability": 1.5}, {"target": 3.0}])
def test_shares_are_shares(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shares"):
        DiffAugment(**options)
