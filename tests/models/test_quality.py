"""A short run of every model on digits must reach a recorded score.

Each band is what was seen for this budget plus a margin for other machines and libraries. A model that is broken, drawn
from the wrong weights or trained on the wrong objective misses it by far: one step of training leaves an FID of 334
(diffusion) or 512 (GAN), and the bits of autoregressive models, whose samples take longer to become digits, at 8.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

Script = Callable[..., "subprocess.CompletedProcess[str]"]


class Band(NamedTuple):
    max_images: int
    score: str
    largest: float
    overrides: tuple[str, ...] = ()  # smaller networks where the time asks for them


NARROW = ("model.network.width=32",)
NARROW_PAIR = (*NARROW, "model.discriminator.width=32")
SHALLOW = ("model.network.width=64", "model.network.num_blocks=3", "model.network.hidden=128")
FEW = ["metrics.num_val_samples=100", "metrics.num_test_samples=1000"]
BANDS = {
    "beta_vae": Band(100_000, "fid", 160.0),
    "biggan": Band(80_000, "fid", 55.0, NARROW_PAIR),
    "cgan": Band(100_000, "fid", 45.0),
    "consistency": Band(8_000, "fid", 80.0),
    "conv_vae": Band(30_000, "fid", 165.0),
    "cvae": Band(80_000, "fid", 35.0),
    "dcgan": Band(60_000, "fid", 120.0),
    "ddpm": Band(12_000, "fid", 75.0, NARROW),
    "denoising_vae": Band(80_000, "fid", 140.0),
    "diffusion": Band(12_000, "fid", 32.0),
    "dit": Band(14_000, "fid", 130.0, SHALLOW),
    "dit_moe": Band(14_000, "fid", 130.0, SHALLOW),
    "edm": Band(10_000, "fid", 58.0),
    "flow_matching": Band(10_000, "fid", 38.0),
    "gan": Band(150_000, "fid", 180.0),
    "gated_pixelcnn": Band(6_000, "bits_per_dim", 2.45),
    "gmm": Band(12_000, "fid", 50.0),
    "hvae": Band(30_000, "fid", 95.0),
    "image_transformer": Band(4_000, "bits_per_dim", 2.7),
    "improved_ddpm": Band(12_000, "fid", 78.0, NARROW),
    "iwae": Band(50_000, "fid", 170.0),
    "latent_diffusion": Band(32_000, "fid", 65.0),
    "lsgan": Band(40_000, "fid", 115.0),
    "pixelcnn": Band(10_000, "bits_per_dim", 2.2),
    "pixelcnn_pp": Band(8_000, "fid", 48.0),
    "pixelrnn": Band(8_000, "bits_per_dim", 2.4),
    "pixelsnail": Band(6_000, "bits_per_dim", 2.3),
    "progan": Band(50_000, "fid", 100.0),
    "r3gan": Band(16_000, "fid", 95.0),
    "sagan": Band(80_000, "fid", 95.0, NARROW_PAIR),
    "sngan": Band(80_000, "fid", 60.0, NARROW_PAIR),
    "vae": Band(100_000, "fid", 120.0),
    "vq_vae": Band(30_000, "fid", 120.0),
    "wgan": Band(40_000, "fid", 50.0),
    "wgan_gp": Band(25_000, "fid", 50.0),
}


def test_every_model_has_a_band() -> None:
    configs = Path(__file__).parents[2] / "configs" / "model"
    assert set(BANDS) == {path.stem for path in configs.glob("*.yaml")} - {"classifier"}


@pytest.mark.parametrize("model", BANDS)
def test_reaches_its_band(script: Script, tmp_path: Path, model: str) -> None:
    max_images, score, largest, overrides = BANDS[model]
    budget = [f"trainer.max_images={max_images}", "val_every_images=1000000000"]
    result = script("train.py", f"model={model}", *budget, *FEW, *overrides, "logger=csv", "run_dir=here")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "here" / "scores.json").read_text())
    assert scores[f"test/{score}"] < largest
    if score == "fid":
        assert scores["test/inception_score"] > 5
        assert scores.get("test/label_accuracy", 1.0) > 0.6, "conditional models draw the class they are asked for"
