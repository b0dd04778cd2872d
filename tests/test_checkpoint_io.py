from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from imagegen.checkpoint_io import AtomicCheckpointIO, CheckpointError

FIRST, SECOND = {"weights": torch.arange(5.0)}, {"weights": torch.randn(100_000)}


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 10 kB, as on a full disk: not even the one that pytest reports to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    files = AtomicCheckpointIO()
    files.save_checkpoint(FIRST, path)
    files.save_checkpoint(SECOND, path)
    assert files.load_checkpoint(path)["weights"].equal(SECOND["weights"])
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
    files.remove_checkpoint(path)
    files.remove_checkpoint(path)
    assert not path.exists()


def test_a_file_that_does_not_fit_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    files = AtomicCheckpointIO()
    files.save_checkpoint(FIRST, path)
    with small_files(), pytest.raises(CheckpointError, match=r"^cannot write .*a\.ckpt: File too large$"):
        files.save_checkpoint(SECOND, path)
    assert files.load_checkpoint(path)["weights"].equal(FIRST["weights"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^cannot write .*file/a\.ckpt: (File exists|Not a directory)$"):
        AtomicCheckpointIO().save_checkpoint(FIRST, tmp_path / "file" / "a.ckpt")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"weights": Harmful()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="weights_only|Weights only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
