"""MNIST and CIFAR-10 files: built here byte by byte, read, damaged, and fetched from a server on this machine."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from imagegen.data import DataError, cifar10, fashion_mnist, mnist

Files = dict[str, bytes]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist.SHA256


@pytest.fixture(scope="module")
def mnist_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60_000), ("test", 10_000)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 3, 5:7] = np.arange(count, dtype="<u2").view(np.uint8).reshape(-1, 2)  # each image shows its place
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = rng.integers(0, 10, count, dtype=np.uint8)
    return arrays


def idx(magic: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return gzip.compress(struct.pack(f">I{len(shape)}I", magic, *shape) + content, compresslevel=1)


@pytest.fixture(scope="module")
def mnist_files(mnist_arrays: dict[str, np.ndarray]) -> Files:
    arrays = (mnist_arrays[name] for name in ("train_images", "train_labels", "test_images", "test_labels"))
    return {
        name: idx(0x0800 + array.ndim, array.shape, array.tobytes())
        for name, array in zip(mnist.SHA256, arrays, strict=True)
    }


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("module", [mnist, fashion_mnist])
def test_mnist_splits(
    module: ModuleType, tmp_path: Path, mnist_files: Files, mnist_arrays: dict[str, np.ndarray]
) -> None:
    folder = module.__name__.rpartition(".")[2]
    write(tmp_path / folder, mnist_files)  # their checksums are not the official ones
    splits = module.read(tmp_path)
    parts = {"train": ("train", 0, 55_000), "val": ("train", 55_000, 60_000), "test": ("test", 0, 10_000)}
    assert splits.keys() == parts.keys()
    for split, (source, start, stop) in parts.items():
        images, labels = splits[split]
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(images.numpy(), mnist_arrays[f"{source}_images"][start:stop, None])
        assert np.array_equal(labels.numpy(), mnist_arrays[f"{source}_labels"][start:stop])


def _labels(count: int, **changed: int) -> bytes:
    labels = bytearray(count)
    for place, label in changed.items():
        labels[int(place[2:])] = label
    return bytes(labels)


MNIST_DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "empty": (TEST_LABELS, lambda old: b"", "expected 10008 bytes unpacked, got 0 bytes"),
    "not-gzip": (TEST_LABELS, gzip.decompress, "cannot be unpacked .*expected 10008 bytes, got 0"),
    "cut": (
        TRAIN_LABELS,
        lambda old: old[: len(old) // 2],
        r"cannot be unpacked .*expected 60008 bytes, got [1-5]\d{4}\.",
    ),
    "flipped-bit": (
        TEST_LABELS,
        lambda old: old[:-8] + bytes([old[-8] ^ 1]) + old[-7:],  # in gzip's own checksum
        "cannot be unpacked .*CRC",
    ),
    "images-for-labels": (
        TEST_LABELS,
        lambda old: idx(2051, (10_000, 1), bytes(9_996)),
        "magic number 2051, expected 2049",
    ),
    "fewer": (
        TEST_LABELS,
        lambda old: idx(2049, (9_999,), bytes(9_999)),
        r"dimensions \(9999,\) .*expected \(10000,\)",
    ),
    "transposed": (TEST_IMAGES, lambda old: idx(2051, (28, 28, 10_000), b""), r"dimensions \(28, 28, 10000\)"),
    "short": (TEST_LABELS, lambda old: idx(2049, (10_000,), bytes(9_990)), "expected 10008 bytes unpacked, got 9998"),
    "long": (TEST_LABELS, lambda old: idx(2049, (10_000,), bytes(10_001)), "expected 10008 bytes unpacked, got more"),
    "label": (TEST_LABELS, lambda old: idx(2049, (10_000,), _labels(10_000, at7=10)), "label 10 at position 7"),
}


@pytest.mark.parametrize("damage", MNIST_DAMAGES)
def test_damaged_mnist(tmp_path: Path, mnist_files: Files, damage: str) -> None:
    name, change, message = MNIST_DAMAGES[damage]
    folder = write(tmp_path / "mnist", mnist_files | {name: change(mnist_files[name])})
    with pytest.raises(DataError, match=message) as error:
        mnist.read(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{folder / name}: ")
    assert text.endswith("Replace the file, or delete it to have it downloaded again.")
    assert text.count("\n") <= 1


@pytest.fixture(scope="module")
def cifar_files() -> Files:
    rng = np.random.default_rng(1)
    files = {}
    for number, name in enumerate(cifar10.FILES):
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = rng.integers(0, 10, 10_000)
        records[:, 1 + 1024 * 2 + 32 * 3 + 4] = number  # blue plane, row 3, column 4
        records[:, 1:3] = np.arange(10_000, dtype="<u2").view(np.uint8).reshape(-1, 2)  # red plane, start of row 0
        files[name] = records.tobytes()
    return files


def tar(path: Path, files: Files, folder: str = cifar10.FOLDER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_cifar10_splits(tmp_path: Path, cifar_files: Files, packed: bool) -> None:
    if packed:
        tar(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", {"readme.html": b"hello"} | cifar_files)
    else:
        write(tmp_path / "cifar10" / cifar10.FOLDER, cifar_files)
    splits = cifar10.read(tmp_path)
    assert {split: len(labels) for split, (_, labels) in splits.items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert all(images.shape[1:] == (3, 32, 32) and images.dtype == torch.uint8 for images, _ in splits.values())
    assert all(labels.dtype == torch.int64 for _, labels in splits.values())
    images = torch.cat([splits[split][0] for split in ("train", "val", "test")])
    labels = torch.cat([splits[split][1] for split in ("train", "val", "test")])
    place = torch.arange(60_000)
    assert torch.equal(images[:, 2, 3, 4].long(), place // 10_000)
    assert torch.equal(images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long(), place % 10_000)
    assert bytes(labels.to(torch.uint8).tolist()) == b"".join(content[::3073] for content in cifar_files.values())
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == ([] if packed else sorted(cifar_files))


def test_damaged_cifar10_files(tmp_path: Path, cifar_files: Files) -> None:
    folder = write(tmp_path / "cifar10" / cifar10.FOLDER, cifar_files)
    path = folder / "data_batch_3.bin"
    for content, message in (
        (cifar_files[path.name][:-1], "expected 30730000 bytes, got 30729999"),
        (cifar_files[path.name] + b"\0", "expected 30730000 bytes, got 30730001"),
        (bytes(3073 * 5) + b"\x0b" + cifar_files[path.name][3073 * 5 + 1 :], "label 11 in record 5, expected 0 to 9"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            cifar10.read(tmp_path)
        assert str(path) in str(error.value)


def test_damaged_cifar10_archive(tmp_path: Path, cifar_files: Files) -> None:
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    whole = tar(path, cifar_files).read_bytes()
    damages = {
        "cannot be unpacked": whole[: len(whole) // 2],
        "cannot be unpacked .*CRC": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "cannot be unpacked .*not a gzip|cannot be unpacked .*Not a gzip": b"<html>not found</html>",
    }
    for message, content in damages.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            cifar10.read(tmp_path)
        assert f"{path}: " in str(error.value)
    tar(path, {"data_batch_1.bin": b"short"})
    with pytest.raises(DataError, match=r"data_batch_1.bin: expected 30730000 bytes, got 5"):
        cifar10.read(tmp_path)
    tar(path, {"data_batch_1.bin": cifar_files["data_batch_1.bin"]}, "../elsewhere")
    with pytest.raises(DataError, match=r"has no data_batch_1.bin, .*test_batch.bin in cifar-10-batches-bin"):
        cifar10.read(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))


def test_read_downloads_only_what_is_missing(
    tmp_path: Path, server: tuple[Path, str], mnist_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    served = {name: content for name, content in mnist_files.items() if name != TEST_LABELS}
    write(folder / "mnist", served)
    monkeypatch.setattr(mnist, "MIRRORS", (address + "down/", address + "mnist/"))
    monkeypatch.setattr(
        mnist, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in mnist_files.items()}
    )
    own = tmp_path / "data" / "mnist"
    write(own, {TEST_LABELS: idx(2049, (10_000,), _labels(10_000, at0=3))})  # not what SHA256 says, and not served
    monkeypatch.setenv("IMAGEGEN_DATA_DIR", str(tmp_path / "data"))
    splits = mnist.read(None)
    assert int(splits["test"][1].sum()) == 3
    assert sorted(path.name for path in own.iterdir()) == sorted(mnist_files)
    assert (own / TRAIN_IMAGES).read_bytes() == mnist_files[TRAIN_IMAGES]


def test_cifar10_downloads_the_archive_once(
    tmp_path: Path, server: tuple[Path, str], cifar_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    archive = tar(folder / "cifar-10-binary.tar.gz", cifar_files)
    monkeypatch.setattr(cifar10, "URL", address + archive.name)
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert len(cifar10.read(tmp_path / "data")["train"][0]) == 45_000
    archive.unlink()
    assert len(cifar10.read(tmp_path / "data")["train"][0]) == 45_000
