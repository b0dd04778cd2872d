import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from imagegen.data import digits, shapes


def rows(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_digits_are_those_of_scikit_learn() -> None:
    splits = digits.read(None)
    assert {split: len(labels) for split, (_, labels) in splits.items()} == {"train": 1197, "val": 300, "test": 300}
    bunch = load_digits()
    expected = {
        (tuple(int(v) for v in levels), int(label)) for levels, label in zip(bunch.data, bunch.target, strict=True)
    }
    got = set()
    for images, labels in splits.values():
        assert (images.dtype, labels.dtype, images.shape[1:]) == (torch.uint8, torch.int64, (1, 8, 8))
        assert len(labels.unique()) == 10
        levels = (images.flatten(1).double() * 16 / 255).round().int().tolist()
        got |= {(tuple(image), label) for image, label in zip(levels, labels.tolist(), strict=True)}
    assert got == expected
    assert int(splits["train"][0].max()) == 255
    again = digits.read(None)
    assert all(torch.equal(again[split][0], splits[split][0]) for split in splits)


@pytest.fixture(scope="module")
def drawn() -> dict[str, tuple[Tensor, Tensor]]:
    return shapes.read(None, num_train=1600, num_val=400, num_test=403)


def test_shapes_layout(drawn: dict[str, tuple[Tensor, Tensor]]) -> None:
    assert {split: tuple(images.shape) for split, (images, _) in drawn.items()} == {
        "train": (1600, 3, 32, 32),
        "val": (400, 3, 32, 32),
        "test": (403, 3, 32, 32),
    }
    images, labels = drawn["train"]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert labels.bincount().tolist() == [200] * 8
    assert labels[:8].tolist() != list(range(8))


def test_shapes_repeat_and_splits_are_disjoint(drawn: dict[str, tuple[Tensor, Tensor]]) -> None:
    again = shapes.read(None, num_train=1600, num_val=400, num_test=403)
    other = shapes.read(None, num_train=1600, num_val=400, num_test=403, seed=1)
    for split, (images, labels) in drawn.items():
        assert torch.equal(images, again[split][0])
        assert torch.equal(labels, again[split][1])
        assert not torch.equal(images, other[split][0])
    everything = [row for images, _ in (*drawn.values(), *other.values()) for row in rows(images)]
    assert len(set(everything)) == len(everything)


def _star_area() -> float:
    angles = np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, math.cos(2 * math.pi / 5) / math.cos(math.pi / 5))
    x, y = radii * np.cos(angles), radii * np.sin(angles)
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _crescent_area() -> float:
    big, small, apart = 0.98, 0.8, 0.5
    first = math.acos((apart**2 + big**2 - small**2) / (2 * apart * big))
    second = math.acos((apart**2 + small**2 - big**2) / (2 * apart * small))
    lens = big**2 * (first - math.sin(2 * first) / 2) + small**2 * (second - math.sin(2 * second) / 2)
    return math.pi * big**2 - lens


AREAS = {  # by elementary geometry, in units of size squared
    "circle": math.pi * 0.9**2,
    "ring": math.pi * (0.97**2 - 0.53**2),
    "square": 1.4**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "star": _star_area(),
    "crescent": _crescent_area(),
    "heart": 1 + math.pi * 0.5**2,
}


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_outline_encloses_the_right_area_inside_the_unit_circle(name: str) -> None:
    axis = (np.arange(1200, dtype=np.float32) + 0.5) / 500 - 1.2
    x, y = np.meshgrid(axis, axis)
    inside = shapes.SHAPES[name](x, y) < 0
    assert inside.sum() / 500**2 == pytest.approx(AREAS[name], rel=0.005)
    assert np.hypot(x, y)[inside].max() < 1.005


def test_shape_stands_out_and_is_whole(drawn: dict[str, tuple[Tensor, Tensor]]) -> None:
    images, labels = drawn["train"]
    luminance = (images.double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1) / 255
    border = torch.cat([luminance[:, 0], luminance[:, -1], luminance[:, :, 0], luminance[:, :, -1]], 1)
    assert float((border.amax(1) - border.amin(1)).max()) < 0.3  # no shape is cut off by the border
    low, high = border.amin(1)[:, None, None], border.amax(1)[:, None, None]
    outside = torch.maximum(luminance - high, low - luminance)  # beyond all levels of the background
    assert float(outside.amax((1, 2)).min()) > 0.1
    # The area found this way lies between those of the smallest and the largest shape of the class.
    area = (outside > 0.05).sum((1, 2)).double()
    for label, name in enumerate(shapes.SHAPES):
        found = area[labels == label]
        assert float(found.min()) > 0.7 * 7**2 * AREAS[name]
        assert float(found.max()) < 1.4 * 13**2 * AREAS[name]
        assert float(found.mean()) == pytest.approx(AREAS[name] * (13**3 - 7**3) / 18, rel=0.2)


def test_attributes_are_those_of_the_images_that_were_drawn() -> None:
    splits = shapes.read(None, num_train=64, num_val=64, num_test=200)
    drawn = shapes.attributes(200, "test")
    images, labels = splits["test"]
    assert drawn["shape"].equal(labels)
    assert set(drawn) == {"shape", "size", "x", "y", "angle", "hue", "background"}
    # The shape differs most from the corner's colour: where it is says its position.
    weight = (images.float() - images[:, :, :1, :1].float()).abs().sum(1)
    columns = torch.arange(32.0)
    middle = (weight.sum(1) * columns).sum(1) / weight.sum((1, 2))
    assert float(torch.corrcoef(torch.stack([middle, drawn["x"]]))[0, 1]) > 0.5
    assert not shapes.attributes(64, "val")["hue"].equal(shapes.attributes(64, "train")["hue"])
