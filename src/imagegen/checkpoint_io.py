"""Checkpoint files that are whole or not there: a crash while one is written leaves the one before it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the file that was there before is still there."""


class AtomicCheckpointIO(CheckpointIO):
    """Write to a temporary file beside the target, flush it to the disk, then rename it. Read weights and numbers only.

    Nothing goes through `TMPDIR`, which may lie on another file system, where a rename is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write or replace a file. Raises CheckpointError, and leaves no temporary file behind."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # PyTorch's writer hides the system's word behind its own
            reason = next((text for text in map(_reason, (error, error.__context__)) if text), str(error))
            raise CheckpointError(f"cannot write {path}: {reason.splitlines()[0]}") from error
        finally:
            _remove(temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a file onto the CPU; never executes what is in it."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a file, if it is there."""
        _remove(Path(path))


def _reason(error: BaseException | None) -> str:
    return error.strerror or "" if isinstance(error, OSError) else ""


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut; not every file system can."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    except OSError:
        pass
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder that has become read-only
        return
