"""Checkpoints read safely: a damaged, foreign or malicious file ends in one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from imagegen.config import UserError, build, validate
from imagegen.models import GenerativeModel


def find_checkpoint(path: str | Path, name: str = "best") -> Path:
    """A checkpoint file: `path` itself, or `checkpoints/<name>.ckpt` of the run folder `path`. Raises UserError."""
    path = Path(path)
    if path.is_dir():
        candidates = [path / "checkpoints" / f"{stem}.ckpt" for stem in (name, "last", "best")]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise UserError(f"ckpt: {path} is no run folder with a checkpoint (looked for {candidates[0]})")
        return found[0]
    if not path.is_file():
        raise UserError(f"ckpt: no file {path}; give a run folder (logs/<data>/<model>/<time>) or a .ckpt file")
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The plain contents of a checkpoint. Nothing in the file is executed (`weights_only=True`). Raises UserError."""
    if path.stat().st_size == 0:
        raise UserError(f"ckpt: {path} is empty; use another checkpoint of the run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if zipfile.is_zipfile(path):
            raise UserError(f"ckpt: {path} holds more than weights and numbers and was refused as unsafe") from None
        raise UserError(f"ckpt: {path} is not a checkpoint of this project, or is damaged") from None
    except Exception as error:  # a damaged pickle can fail in any way
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = (
            "is truncated or damaged" if _begins_as_zip(path) else "is not a checkpoint of this project, or is damaged"
        )
        raise UserError(f"ckpt: {path} {what} ({message[:120]})") from None
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "images_seen"} <= checkpoint.keys():
        raise UserError(f"ckpt: {path} was not written by this project")
    config = checkpoint["config"]
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("model", "data")):
        raise UserError(f"ckpt: {path} does not say how to build its model")
    return checkpoint


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def restore(path: Path) -> tuple[GenerativeModel, DictConfig]:
    """The model of a checkpoint with its weights, and the config of its run."""
    checkpoint = load_checkpoint(path)
    cfg = OmegaConf.create(checkpoint["config"])
    validate(OmegaConf.create({"model": cfg.model, "data": cfg.data}))
    model = build(cfg.model, "model")
    if not isinstance(model, GenerativeModel):
        raise UserError(f"ckpt: {path} holds a {type(model).__name__}, which draws no images")
    load_weights(model, checkpoint, path)
    return model, cfg


def load_weights(model: torch.nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Copy the weights of a checkpoint into a model of the same make. Raises UserError."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError:
        raise UserError(f"ckpt: the weights in {path} do not fit {type(model).__name__} as configured") from None
    model.images_seen = checkpoint["images_seen"]


def newest_checkpoint(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest valid checkpoint of a run folder, or the one that `path` is; None where there is none.

    Damaged ones are named in a line and put aside. Raises UserError if all are, or the one that `path` is.
    """
    if path.is_file():
        return path, load_checkpoint(path)
    files = [file for name in ("last", "best") if (file := path / "checkpoints" / f"{name}.ckpt").is_file()]
    found, refusals = [], []
    for file in files:
        try:
            found.append((file, load_checkpoint(file)))
        except UserError as error:
            file.replace(file.with_name(f"{file.name}.damaged"))
            refusals.append(f"{error}; it is now {file.name}.damaged")
    if refusals and not found:
        raise UserError("; ".join(refusals))
    for refusal in refusals:
        print(refusal)
    return max(found, key=lambda pair: pair[1]["images_seen"], default=None)  # of two equal ones the first: last.ckpt


def check_resumable(path: Path, checkpoint: dict[str, Any], cfg: DictConfig) -> None:
    """Refuse to resume from a checkpoint of another model, with both names. Raises UserError."""
    saved = OmegaConf.create(checkpoint["config"])
    for key in ("model._target_", "model.network", "data.image_shape"):
        then, now = OmegaConf.select(saved, key), OmegaConf.select(cfg, key)
        if then != now:
            raise UserError(f"resume: {path} is of another model: {key} was {then}, is now {now}")
