"""CIFAR-10: 32x32 RGB photographs, 10 classes, official binary version (Krizhevsky, 2009)."""

import gzip
import tarfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from imagegen.data.download import DataError, download, resolve_data_dir

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
FILES = (*TRAIN_FILES, "test_batch.bin")
RECORD_BYTES = 1 + 3 * 32 * 32  # label, then red, green and blue plane
FILE_BYTES = 10_000 * RECORD_BYTES
NUM_VAL = 5_000  # the last ones of data_batch_5.bin
MEND = "Replace it, or delete it to have the archive downloaded again."


def read(data_dir: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 45000 train, 5000 val and 10000 test images: uint8 (N, 3, 32, 32) in 0..255, labels int64 (N,) in 0..9.

    Reads `<data_dir>/cifar10/cifar-10-batches-bin/*.bin` if all six are there, else
    `<data_dir>/cifar10/cifar-10-binary.tar.gz`, which is downloaded if it is missing (170 MB). Files already there may
    have any checksum, but their structure is checked.

    Raises:
        DataError: a file is damaged, or is missing and cannot be downloaded.

    """
    root = resolve_data_dir(data_dir) / "cifar10"
    paths = [root / FOLDER / name for name in FILES]
    if all(path.exists() for path in paths):
        parts = [_parse(path, _read_file(path)) for path in paths]
    else:
        archive = root / "cifar-10-binary.tar.gz"
        if not archive.exists():
            download(archive, [URL], SHA256)
        contents = _read_archive(archive)
        parts = [_parse(archive / FOLDER / name, contents[name]) for name in FILES]
    images = torch.cat([images for images, _ in parts[:-1]])
    labels = torch.cat([labels for _, labels in parts[:-1]])
    num_train = len(images) - NUM_VAL
    return {
        "train": (images[:num_train], labels[:num_train]),
        "val": (images[num_train:], labels[num_train:]),
        "test": parts[-1],
    }


def _read_file(path: Path) -> bytes:
    if (size := path.stat().st_size) != FILE_BYTES:
        raise DataError(f"{path}: expected {FILE_BYTES} bytes, got {size}. {MEND}")
    return path.read_bytes()


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the six files in memory: nothing is unpacked to disk, so no member can write outside the data folder."""
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    folder, _, name = member.name.removeprefix("./").rpartition("/")
                    if folder == FOLDER and name in FILES and member.isfile():
                        if member.size != FILE_BYTES:
                            raise DataError(f"{path}: {name}: expected {FILE_BYTES} bytes, got {member.size}. {MEND}")
                        file = archive.extractfile(member)
                        assert file is not None  # it is a regular file
                        contents[name] = file.read()
            while stream.read(1 << 20):  # gzip compares its checksum only at the very end
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(
            f"{path}: cannot be unpacked ({error}); the file has {path.stat().st_size} bytes, "
            f"the official one 170052171. {MEND}"
        ) from error
    if missing := [name for name in FILES if name not in contents]:
        raise DataError(f"{path}: has no {', '.join(missing)} in {FOLDER}. {MEND}")
    return contents


def _parse(path: Path, content: bytes) -> tuple[Tensor, Tensor]:
    # A bytearray is writable, as torch wants it.
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].long()
    if labels.max() > 9:
        at = int((labels > 9).nonzero()[0])
        raise DataError(f"{path}: label {int(labels[at])} in record {at}, expected 0 to 9. {MEND}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
