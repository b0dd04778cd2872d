from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imagegen.metrics.generation import SampleError
from imagegen.metrics.samples import read_samples

GREY, COLOUR = (1, 6, 8), (3, 6, 8)


def levels(shape: tuple[int, ...], num: int = 12) -> torch.Tensor:
    return torch.randint(256, (num, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_a_folder_of_pngs_comes_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = levels(shape)
    for i, image in enumerate(images):
        array = image[0] if shape == GREY else image.permute(1, 2, 0)
        Image.fromarray(array.numpy()).save(tmp_path / f"{i:03d}.png")
    found, labels = read_samples(tmp_path, shape)
    assert found.equal(images)
    assert labels is None


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_array_files_come_back(tmp_path: Path, suffix: str, channels_last: bool) -> None:
    images = levels(COLOUR)
    stored = (images.permute(0, 2, 3, 1) if channels_last else images).contiguous()
    path = tmp_path / f"samples{suffix}"
    labels = torch.arange(12)
    if suffix == ".npy":
        np.save(path, stored.numpy())
    elif suffix == ".npz":
        np.savez(path, images=stored.numpy(), labels=labels.numpy())
    else:
        save_file({"images": stored, "labels": labels}, path)
    found, found_labels = read_samples(path, COLOUR)
    assert found.equal(images)
    assert found_labels is None if suffix == ".npy" else found_labels is not None and found_labels.equal(labels)


def test_floats_in_either_range_are_rounded(tmp_path: Path) -> None:
    images = levels(GREY)
    images[0, 0, 0, 0] = 0
    for name, floats in (("one", images / 255), ("two", images / 127.5 - 1)):
        np.save(tmp_path / f"{name}.npy", floats.numpy())
        assert read_samples(tmp_path / f"{name}.npy", GREY)[0].equal(images)


def test_grey_pictures_without_a_channel(tmp_path: Path) -> None:
    images = levels(GREY)
    np.save(tmp_path / "grey.npy", images[:, 0].numpy())
    assert read_samples(tmp_path / "grey.npy", GREY)[0].equal(images)


def test_grey_pictures_written_with_colours(tmp_path: Path) -> None:
    images = levels(GREY)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).convert("RGB").save(tmp_path / f"{i:03d}.png")
    assert read_samples(tmp_path, GREY)[0].equal(images)
    Image.fromarray(levels(COLOUR)[0].permute(1, 2, 0).numpy()).save(tmp_path / "000.png")
    with pytest.raises(SampleError, match="shape"):  # real colours are no grey picture
        read_samples(tmp_path, GREY)


def test_pictures_of_16_bits_are_refused(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(np.full((6, 8), 1000 * i, np.uint16)).save(tmp_path / f"{i:03d}.png")
    with pytest.raises(SampleError, match=r"000\.png has more than 8 bits per pixel"):
        read_samples(tmp_path, GREY)


def test_labels_of_any_whole_type_become_int64(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=levels(GREY).numpy(), labels=np.arange(12, dtype=np.int32))
    labels = read_samples(tmp_path / "x.npz", GREY)[1]
    assert labels is not None
    assert labels.dtype == torch.int64


def test_classes_marked_as_absent_are_absent(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=levels(GREY).numpy(), labels=np.full(12, -1))
    assert read_samples(tmp_path / "x.npz", GREY)[1] is None


def _npy(array: np.ndarray) -> Callable[[Path], Path]:  # type: ignore[type-arg]
    def write(folder: Path) -> Path:
        np.save(folder / "samples.npy", array)
        return folder / "samples.npy"

    return write


def _empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def _mixed_folder(folder: Path) -> Path:
    Image.new("L", (8, 6)).save(folder / "0.png")
    (folder / "notes.txt").write_text("hello")
    return folder


def _broken_png(folder: Path) -> Path:
    (folder / "0.png").write_bytes(b"\x89PNG")
    return folder


def _sizes(folder: Path) -> Path:
    Image.new("L", (8, 6)).save(folder / "0.png")
    Image.new("L", (9, 6)).save(folder / "1.png")
    return folder


def _truncated(folder: Path) -> Path:
    buffer = io.BytesIO()
    np.savez(buffer, images=levels(GREY).numpy())
    (folder / "samples.npz").write_bytes(buffer.getvalue()[:200])
    return folder / "samples.npz"


def _pickle(folder: Path) -> Path:
    np.save(folder / "samples.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    return folder / "samples.npy"


def _other_names(folder: Path) -> Path:
    np.savez(folder / "samples.npz", x=levels(GREY).numpy(), y=np.zeros(12))
    return folder / "samples.npz"


def _labels(folder: Path) -> Path:
    np.savez(folder / "samples.npz", images=levels(GREY).numpy(), labels=np.zeros(11))
    return folder / "samples.npz"


def _text(folder: Path) -> Path:
    (folder / "samples.txt").write_text("hello")
    return folder / "samples.txt"


NAN = np.full((12, 6, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_npy(np.random.default_rng(0).uniform(0, 255, (12, 6, 8))), "floats from"),
        (_npy(NAN), "not finite"),
        (_npy(np.zeros((12, 6, 8), np.int64)), "int64"),
        (_npy(np.zeros((12, 5, 8), np.uint8)), "shape"),
        (_npy(np.zeros((12, 3, 6, 8), np.uint8)), "shape"),
        (_npy(np.zeros((3, 6, 8), np.uint8)), "at least 10"),
        (_npy(np.zeros((0, 6, 8), np.float32)), "at least 10"),
        (_empty_folder, "empty"),
        (_mixed_folder, "notes.txt"),
        (_broken_png, "0.png"),
        (_sizes, "1.png"),
        (_truncated, "samples.npz"),
        (_pickle, "samples.npy"),
        (_other_names, "no array 'images'"),
        (_labels, "labels"),
        (_text, "neither a folder"),
        (lambda folder: folder / "nowhere", "no file or folder"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(SampleError, match=words) as error:
        read_samples(write(tmp_path), GREY)
    assert "\n" not in str(error.value)
