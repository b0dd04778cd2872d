"""MNIST: 28x28 grey digits, 10 classes, in the four official idx files (LeCun, Cortes and Burges, 1998)."""

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from imagegen.data.download import DataError, download, resolve_data_dir

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
NUM_TRAIN = 60_000
NUM_VAL = 5_000  # the last ones of the official training set
NUM_TEST = 10_000
MEND = "Replace the file, or delete it to have it downloaded again."


def read(data_dir: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 55000 train, 5000 val and 10000 test images: uint8 (N, 1, 28, 28) in 0..255, labels int64 (N,) in 0..9.

    Reads `<data_dir>/mnist/*.gz` and downloads the files that are missing. Files already there may have any checksum,
    but their structure is checked.

    Raises:
        DataError: a file is damaged, or is missing and cannot be downloaded.

    """
    return read_files(resolve_data_dir(data_dir) / "mnist", MIRRORS, SHA256)


def read_files(folder: Path, mirrors: Sequence[str], sha256: Mapping[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what `read` does, of any set with the names and the layout of these files."""
    for name, digest in sha256.items():
        if not (folder / name).exists():
            try:
                download(folder / name, [mirror + name for mirror in mirrors], digest)
            except DataError as error:
                missing = ", ".join(other for other in sha256 if not (folder / other).exists())
                raise DataError(str(error).replace("the file", missing)) from None
    images, labels = _read_pair(folder, "train", NUM_TRAIN)
    num_train = NUM_TRAIN - NUM_VAL
    return {
        "train": (images[:num_train], labels[:num_train]),
        "val": (images[num_train:], labels[num_train:]),
        "test": _read_pair(folder, "t10k", NUM_TEST),
    }


def _read_pair(folder: Path, prefix: str, count: int) -> tuple[Tensor, Tensor]:
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (count, 28, 28))
    path = folder / f"{prefix}-labels-idx1-ubyte.gz"
    labels = _read_idx(path, (count,)).long()
    if labels.max() > 9:
        at = int((labels > 9).nonzero()[0])
        raise DataError(f"{path}: label {int(labels[at])} at position {at}, expected 0 to 9. {MEND}")
    return images[:, None], labels


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a gzipped idx file of unsigned bytes that must have exactly this shape.

    The header is the magic number 0x0800 + number of dimensions and then each dimension, all big-endian uint32.
    """
    header_format = f">{1 + len(shape)}I"
    header_size = struct.calcsize(header_format)
    num_bytes = header_size + torch.Size(shape).numel()
    content = _gunzip(path, num_bytes)
    if len(content) >= header_size:
        magic, *dimensions = struct.unpack_from(header_format, content)
        if magic != 0x0800 + len(shape):
            raise DataError(f"{path}: magic number {magic}, expected {0x0800 + len(shape)}. {MEND}")
        if tuple(dimensions) != shape:
            raise DataError(f"{path}: dimensions {tuple(dimensions)} in the header, expected {shape}. {MEND}")
    if len(content) != num_bytes:
        got = "more" if len(content) > num_bytes else f"{len(content)} bytes"
        raise DataError(f"{path}: expected {num_bytes} bytes unpacked, got {got}. {MEND}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header_size).reshape(shape)


def _gunzip(path: Path, num_bytes: int) -> bytearray:
    """Unpack a file; stop soon after `num_bytes`, so that a file which is far too long does not fill the memory."""
    content = bytearray()
    try:
        with gzip.open(path) as stream:
            while len(content) <= num_bytes and (block := stream.read1(1 << 20)):
                content += block
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be unpacked ({error}); expected {num_bytes} bytes, got {len(content)}. {MEND}"
        ) from error
    return content
