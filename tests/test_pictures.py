from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from imagegen.data.module import from_uint8, to_uint8
from imagegen.models.base import GenerativeModel
from imagegen.objectives.lr_schedules import constant
from imagegen.pictures import WAYPOINTS, image_grid, save_interpolations, save_png, save_samples


class Painted(GenerativeModel):
    """Paints each image in one level: 10 * label + seed (or the seed alone), plus `brightness`."""

    def __init__(self, num_classes: int | None = None, image_shape: tuple[int, int, int] = (1, 4, 6)) -> None:
        super().__init__(nn.Linear(1, 1), image_shape, 1e-3, torch.optim.SGD, constant, 1.0)
        self.num_classes = num_classes

    def draw(self, seeds: range, labels: Tensor | None, brightness: int = 0) -> Tensor:
        classes = self.sample_labels(seeds, labels)
        level = torch.tensor(list(seeds)) + brightness + (0 if classes is None else 10 * classes)
        return from_uint8(level.to(torch.uint8)[:, None, None, None].expand(-1, *self.image_shape))


class Failing(Painted):
    def draw(self, seeds: range, labels: Tensor | None, **options: Any) -> Tensor:
        raise RuntimeError("out of paint")


def random_images(num: int, channels: int, height: int = 5, width: int = 7) -> Tensor:
    return torch.randint(0, 255, (num, channels, height, width), dtype=torch.uint8)


def cells(grid: np.ndarray, factor: int, height: int, width: int) -> list[np.ndarray]:
    """The images of a grid, row by row, brought back to their size; their frames are a pixel wide."""
    small = grid[::factor, ::factor]
    assert np.array_equal(small.repeat(factor, 0).repeat(factor, 1), grid), "pixels are whole squares"
    rows, columns = small.shape[0] // (height + 2), small.shape[1] // (width + 2)
    split = small.reshape(rows, height + 2, columns, width + 2, 3).swapaxes(1, 2).reshape(-1, height + 2, width + 2, 3)
    return list(split)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("num", "columns", "rows_and_columns"), [(5, 3, (2, 3)), (7, None, (3, 3)), (1, None, (1, 1))])
def test_each_image_lies_in_its_cell(
    channels: int, num: int, columns: int | None, rows_and_columns: tuple[int, int]
) -> None:
    images = random_images(num, channels)
    grid = image_grid(from_uint8(images), columns, min_width=1)
    assert grid.dtype == np.uint8
    assert grid.shape == (rows_and_columns[0] * 7, rows_and_columns[1] * 9, 3)
    found = cells(grid, 1, 5, 7)
    for image, cell in zip(images, found, strict=False):
        expected = image.permute(1, 2, 0).expand(-1, -1, 3).numpy()
        assert np.array_equal(cell[1:-1, 1:-1], expected)
        frame = cell.copy()
        frame[1:-1, 1:-1] = 255
        assert (frame == 255).all()
    for cell in found[num:]:
        assert (cell == 255).all(), "cells without an image are white"


@pytest.mark.parametrize(("min_width", "factor"), [(1, 1), (27, 1), (54, 2), (90, 3), (480, 18)])
def test_small_images_are_enlarged_by_a_whole_factor(min_width: int, factor: int) -> None:
    images = random_images(6, 1)
    grid = image_grid(from_uint8(images), 3, min_width)
    assert grid.shape == (2 * 7 * factor, 3 * 9 * factor, 3)
    for image, cell in zip(images, cells(grid, factor, 5, 7), strict=True):
        assert np.array_equal(cell[1:-1, 1:-1, 0], image[0].numpy())


def test_large_grids_keep_their_size() -> None:
    assert image_grid(torch.zeros(100, 3, 100, 100)).shape == (1020, 1020, 3)


def test_levels_outside_the_range_are_clamped() -> None:
    grid = image_grid(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1), 2, min_width=1)
    assert grid[1, 1].tolist() == [0, 0, 0]
    assert grid[1, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_holds_the_grid(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "new" / "folder" / "grid.png"
    grid = image_grid(from_uint8(random_images(4, channels)))
    save_png(grid, path)
    assert np.array_equal(np.asarray(Image.open(path)), grid)
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]


def test_samples_as_a_png(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "samples.png"
    save_samples(Painted(), path, 5, seed=20, columns=5)
    picture = np.asarray(Image.open(path))
    factor = picture.shape[0] // 6
    found = cells(picture, factor, 4, 6)
    assert [int(cell[2, 2, 0]) for cell in found] == [20, 21, 22, 23, 24]
    assert [entry.name for entry in path.parent.iterdir()] == ["samples.png"]


@pytest.mark.parametrize("image_shape", [(1, 4, 6), (3, 4, 6)])
def test_samples_as_arrays(tmp_path: Path, image_shape: tuple[int, int, int]) -> None:
    path = tmp_path / "deep" / "samples.npz"
    save_samples(Painted(image_shape=image_shape), path, 5, seed=20)
    with np.load(path) as file:
        assert set(file) == {"images", "labels"}
        images, labels = file["images"], file["labels"]
    assert images.dtype == np.uint8
    assert images.shape == (5, 4, 6, image_shape[0])
    assert images[:, 0, 0, 0].tolist() == [20, 21, 22, 23, 24]
    assert labels.dtype == np.int64
    assert labels.tolist() == [-1] * 5
    assert [entry.name for entry in path.parent.iterdir()] == ["samples.npz"]


def drawn(path: Path) -> tuple[list[int], list[int]]:
    with np.load(path) as file:
        return file["images"][:, 0, 0, 0].tolist(), file["labels"].tolist()


def test_labels_are_repeated_as_needed(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    save_samples(Painted(num_classes=10), path, 5, seed=1, labels=[7, 2])
    assert drawn(path) == ([71, 22, 73, 24, 75], [7, 2, 7, 2, 7])


def test_without_labels_each_class_comes_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    save_samples(Painted(num_classes=3), path, 5, seed=1)
    assert drawn(path) == ([11, 22, 3, 14, 25], [1, 2, 0, 1, 2])


def test_options_reach_the_sampler(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    save_samples(Painted(), path, 2, seed=1, options={"brightness": 100})
    assert drawn(path)[0] == [101, 102]


@pytest.mark.parametrize("name", ["samples.jpg", "samples", "samples.npy", "samples.png.txt"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png, \.npz"):
        save_samples(Painted(), tmp_path / "deep" / name, 2, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_samples", [0, -3])
def test_no_samples_are_refused(tmp_path: Path, num_samples: int) -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        save_samples(Painted(), tmp_path / "samples.png", num_samples, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_classes", "labels"), [(None, [1]), (3, [0, 3]), (3, [-1])])
def test_labels_that_the_model_does_not_know_are_refused(
    tmp_path: Path, num_classes: int | None, labels: list[int]
) -> None:
    with pytest.raises(ValueError, match="labels"):
        save_samples(Painted(num_classes), tmp_path / "samples.npz", 4, seed=0, labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_list_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels"):
        save_samples(Painted(3), tmp_path / "samples.npz", 4, seed=0, labels=[])


@pytest.mark.parametrize("name", ["samples.png", "samples.npz"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_samples(Painted(), path, 2, seed=0)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="out of paint"):
        save_samples(Failing(), path, 2, seed=0)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["samples.png", "samples.npz"])
def test_the_same_seed_writes_the_same_images_over_an_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    save_samples(Painted(3), path, 4, seed=5)
    first = path.read_bytes()
    save_samples(Painted(3), path, 4, seed=6)
    assert path.read_bytes() != first
    save_samples(Painted(3), path, 4, seed=5)
    if name.endswith("png"):
        assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


class Latent(GenerativeModel):
    """Paints each image in the level of its one latent."""

    latent_shape = (1,)

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), (1, 4, 6), 1e-3, torch.optim.SGD, constant, 1.0)

    def decode(self, latents: Tensor, labels: Tensor | None = None, **options: Any) -> Tensor:
        return torch.tanh(latents)[:, :, None, None].expand(-1, *self.image_shape)


def test_interpolations_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.png"
    save_interpolations(Latent(), path, num_samples=3, num_frames=5, seed=2)
    picture = np.asarray(Image.open(path))
    found = cells(picture, picture.shape[0] // (3 * 6), 4, 6)
    expected = Latent().interpolate(3, 5, seed=2)[:, :, 0, 2, 2].flatten()
    assert [int(cell[2, 2, 0]) for cell in found] == to_uint8(expected).tolist()


def test_a_film_is_a_round_walk(tmp_path: Path) -> None:
    path = tmp_path / "walk.gif"
    save_interpolations(Latent(), path, num_samples=4, num_frames=6, seed=2)
    with Image.open(path) as film:
        assert film.n_frames == WAYPOINTS * 5
        assert film.info["loop"] == 0


def test_interpolations_as_arrays(tmp_path: Path) -> None:
    save_interpolations(Latent(), tmp_path / "rows.npz", num_samples=3, num_frames=5, seed=2)
    with np.load(tmp_path / "rows.npz") as file:
        assert file["images"].shape == (3, 5, 4, 6, 1)
        assert file["labels"].tolist() == [-1] * 3


def test_a_film_of_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.npz"):
        save_samples(Latent(), tmp_path / "samples.gif", 4, 0)
    with pytest.raises(ValueError, match="no latents"):
        save_interpolations(Painted(), tmp_path / "rows.png", 4, 4, 0)
