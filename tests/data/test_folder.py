"""Folders of pictures, written here and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagegen.data import DataError
from imagegen.data.folder import read, read_pictures

SHAPE = (3, 8, 8)


def pictures(count: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def write(folder: Path, images: list[Image.Image], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:03d}.{suffix}")
    return folder


def rows_of(images: list[Image.Image]) -> set[bytes]:
    return {np.asarray(image).transpose(2, 0, 1).tobytes() for image in images}


def test_every_picture_is_in_one_split(tmp_path: Path) -> None:
    images = pictures(60)
    splits = read(write(tmp_path, images), SHAPE)
    assert {name: len(rows) for name, (rows, _) in splits.items()} == {"train": 51, "val": 3, "test": 6}
    found = [row.numpy().tobytes() for rows, _ in splits.values() for row in rows]
    assert len(found) == 60
    assert set(found) == rows_of(images), "pictures of the right size are read as they are"
    for rows, labels in splits.values():
        assert (rows.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert labels.eq(0).all()


def test_the_split_depends_on_the_names_alone(tmp_path: Path) -> None:
    images = pictures(40)
    first, second = (read(write(tmp_path / name, images), SHAPE) for name in ("a", "b"))
    assert all(first[name][0].equal(second[name][0]) for name in first)


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    cats, dogs = pictures(15, seed=1), pictures(15, seed=2)
    write(tmp_path / "dogs", dogs)
    write(tmp_path / "cats" / "deeper", cats)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    for rows, labels in read(tmp_path, SHAPE).values():
        for row, label in zip(rows, labels, strict=True):
            assert row.numpy().tobytes() in rows_of((cats, dogs)[label])


def test_the_middle_is_cut_out_and_shrunk(tmp_path: Path) -> None:
    wide = Image.new("RGB", (64, 16), "red")
    wide.paste("blue", (24, 0, 40, 16))
    for suffix, tolerance in (("png", 2), ("jpg", 12)):
        images, _ = read(write(tmp_path / suffix, [wide] * 20, suffix), SHAPE)["train"]
        error = (images.int() - torch.tensor([0, 0, 255])[:, None, None]).abs()[..., 1:-1]
        assert error.max() <= tolerance, "all blue, but for what filters take from beside"


def test_grey_transparent_and_turned_pictures(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    images, _ = read(write(tmp_path / "clear", [clear] * 20), (1, 8, 8))["train"]
    assert images.shape[1:] == (1, 8, 8)
    assert images.eq(255).all(), "what is transparent becomes white"
    turned = Image.new("L", (8, 8))
    turned.paste(255, (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # as a camera held upside down says
    folder = write(tmp_path / "turned", [])
    for i in range(20):
        turned.save(folder / f"{i}.png", exif=exif)
    images, _ = read(folder, (1, 8, 8))["train"]
    assert images[:, :, 4:].eq(255).all()
    assert images[:, :, :4].eq(0).all()


def _few(folder: Path) -> Path:
    return write(folder, pictures(19))


def _damaged(folder: Path) -> Path:
    write(folder, pictures(30))
    path = folder / "007.png"
    path.write_bytes(path.read_bytes()[:60])
    return folder


def _mixed(folder: Path) -> Path:
    write(folder / "cats", pictures(20))
    return write(folder, pictures(3))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        pytest.param(lambda folder: None, r"data\.data_dir=<folder>", id="not said"),
        pytest.param(lambda folder: folder / "absent", "no folder .*absent", id="absent"),
        pytest.param(_few, "holds 19 pictures .*at least 20", id="few"),
        pytest.param(_damaged, r"007\.png is no picture that can be read", id="damaged"),
        pytest.param(_mixed, r"000\.png lies beside the folders of classes", id="mixed"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, prepare: object, message: str) -> None:
    folder = prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        read(folder, SHAPE)
    assert "\n" not in str(error.value)


def test_a_few_pictures_are_read_without_splits(tmp_path: Path) -> None:
    images = pictures(3)
    write(tmp_path / "b", images[1:])
    write(tmp_path / "a", images[:1])
    found = read_pictures(tmp_path, SHAPE)
    assert found.dtype == torch.uint8
    assert [row.numpy().tobytes() for row in found] == [np.asarray(x).transpose(2, 0, 1).tobytes() for x in images]
    assert read_pictures(tmp_path / "b" / "001.png", SHAPE).equal(found[2:])
    assert read_pictures(tmp_path, (1, 4, 6)).shape == (3, 1, 4, 6)


def test_no_pictures_are_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for path, words in (
        ("", "holds no pictures"),
        ("notes.txt", "no picture that can be read"),
        ("x", "no picture or"),
    ):
        with pytest.raises(DataError, match=words) as error:
            read_pictures(tmp_path / path, SHAPE)
        assert "\n" not in str(error.value)
