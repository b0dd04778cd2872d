"""A short run of every model on digits must reach a recorded FID.

Each band is the FID seen for this budget plus a margin for other machines and libraries. A model that is broken, drawn
from the wrong weights or trained on the wrong objective misses it by far: one step of training leaves an FID of 334
(diffusion) or 512 (GAN).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., "subprocess.CompletedProcess[str]"]
# max_images, largest FID allowed, and smaller networks and fewer samples where the time asks for it; a new model earns
# its line when its FID is known
FEW = ["metrics.num_test_samples=1000", "metrics.num_val_samples=300"]
NARROW = ["model.network.width=32", *FEW]
SHALLOW = ["model.network.num_blocks=4", "model.network.hidden=128", *FEW]
PRIOR = ["model.prior.network.width=64", "model.prior.network.num_blocks=3", "model.prior.network.hidden=256"]
LATENT = ["model.lr=5e-3", *PRIOR, *NARROW]
BANDS: dict[str, tuple[int, float, list[str]]] = {
    "cgan": (150_000, 32.0, []),  # seen 18.2
    "dcgan": (80_000, 90.0, []),  # seen 60.9
    "ddpm": (16_000, 85.0, NARROW),  # seen 58.7
    "diffusion": (40_000, 20.0, []),  # seen 10.9
    "dit": (12_000, 85.0, ["model.lr=6e-3", "model.network.width=64", *SHALLOW]),  # seen 55.7
    "edm": (16_000, 55.0, NARROW),  # seen 35.6
    "flow_matching": (16_000, 35.0, NARROW),  # seen 19.7
    "gan": (200_000, 130.0, []),  # seen 93.1
    "improved_ddpm": (16_000, 60.0, NARROW),  # seen 37.3
    "latent_diffusion": (60_000, 50.0, LATENT),  # seen 27.7
    "pixelcnn": (30_000, 40.0, []),  # seen 24.5
    "r3gan": (50_000, 27.0, []),  # seen 15.1
    "sngan": (50_000, 38.0, []),  # seen 22.0
    "vae": (150_000, 95.0, []),  # seen 68.7
}


@pytest.mark.parametrize("model", BANDS)
def test_reaches_its_band(script: Script, tmp_path: Path, model: str) -> None:
    max_images, band, overrides = BANDS[model]
    arguments = [f"model={model}", f"trainer.max_images={max_images}", f"val_every_images={max_images}", "logger=csv"]
    result = script("train.py", *arguments, *overrides, "run_dir=here")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "here" / "scores.json").read_text())
    assert scores["test/fid"] < band
    assert scores["test/inception_score"] > 5
    assert scores.get("test/label_accuracy", 1.0) > 0.7, "conditional models draw the class they are asked for"
