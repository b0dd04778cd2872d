"""sample.py on one's own pictures, and its mistakes, as a user meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from imagegen.config import build, to_plain
from tests import forked

Script = Callable[..., forked.Ended]


@pytest.fixture
def ckpt(composed: Callable[..., DictConfig], tmp_path: Path) -> Path:
    """A checkpoint of a diffusion model that has learnt nothing."""
    cfg = composed("model=diffusion", "model.network.width=8", "model.num_steps=2", "run_dir=unused")
    path = tmp_path / "new.ckpt"
    state = build(cfg.model, "model").state_dict()
    torch.save({"config": to_plain(cfg), "state_dict": state, "images_seen": 0}, path)
    return path


def test_own_pictures_and_a_mask(script: Script, ckpt: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "white").save(tmp_path / "photo.jpg")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 8, 3))
    mask.save(tmp_path / "mask.png")
    own = ["images=photo.jpg", "mask=mask.png", "labels=[4]", "sampler=heun", "+options.num_steps=2"]
    result = script("sample.py", f"ckpt={ckpt}", "task=complete", *own, "out=out.png", "accelerator=cpu")
    assert result.returncode == 0, result.stderr
    assert np.asarray(Image.open(tmp_path / "out.png")).max() == 255


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["labels=[]"], "at least one class"),
        (["task=film", "labels=[]"], "at least one class"),
        (["task=complete", "num_samples=0"], "num_samples"),
        (["task=complete", "+options.num_steps=0"], "num_steps must be at least 1"),
        (["task=vary", "+options.colour=1"], "colour"),
        (["task=vary", "images=nowhere"], "nowhere"),
        (["task=complete", "mask=nowhere.png"], "nowhere.png"),
        (["task=vary", "images=new.ckpt"], "no picture that can be read"),
    ],
)
def test_a_mistake_ends_in_a_line(script: Script, ckpt: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = script("sample.py", f"ckpt={ckpt}", *arguments, "out=out.png")
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.png").exists()
