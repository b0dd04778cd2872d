from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image

from imagegen.config import build
from imagegen.tasks import perform
from tests.sample_request import sample_request

Compose = Callable[..., DictConfig]
REQUEST = sample_request(num_samples=5, num_frames=4, noise=0.3, strength=0.5, blur=0.7)
SMALL = ["model.network.width=8", "model.num_steps=2", "run_dir=unused"]
MOE = ["model.network.width=16", "model.network.num_blocks=2", "model.network.hidden=16", "run_dir=unused"]


def done(composed: Compose, out: Path, task: str, *overrides: str, **request: Any) -> None:
    cfg = composed(*(overrides or ("model=diffusion", *SMALL)))
    perform(build(cfg.model, "model"), cfg, out, REQUEST | {"task": task} | request)


@pytest.mark.parametrize(("task", "columns"), [("denoise", 9), ("enlarge", 9), ("deblur", 9), ("vary", 8), ("film", 4)])
def test_pictures(composed: Compose, tmp_path: Path, task: str, columns: int) -> None:
    options = {"num_steps": 2} if task in ("enlarge", "deblur") else {}
    done(composed, tmp_path / "out.png", task, options=options)
    width, height = Image.open(tmp_path / "out.png").size
    assert width % (columns * 10) == 0
    assert height % 10 == 0


def test_a_film_has_its_frames_and_stays_at_the_end(composed: Compose, tmp_path: Path) -> None:
    # a new network that is asked for the data says 0: noise fades
    kind = "parameterization@model.parameterization=data"
    done(composed, tmp_path / "film.gif", "film", "model=diffusion", *SMALL, kind, "model.num_steps=6")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4  # the last one, shown longer
        film.seek(3)
        assert film.info["duration"] > 120


def test_a_likelihood_comes_with_its_errors(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(composed, tmp_path / "out.png", "log_likelihood", options={"num_steps": 4})
    out = capsys.readouterr().out
    for words in ("5 test images", "bits/dim", "± over images", "± over random signs", "half of the steps"):
        assert words in out
    done(composed, tmp_path / "out.png", "log_likelihood", "model=vae", "model.network.hidden=[8]", "run_dir=unused")
    assert "bound" in capsys.readouterr().out


def test_the_experts_of_each_class_add_up(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(composed, tmp_path / "out.png", "experts", "model=dit_moe", *MOE, num_samples=100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 + 3 + 10
    for line in lines[1:]:
        assert sum(float(share.strip("%")) for share in line.split()[-4:]) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize(
    ("task", "request_", "words"),
    [
        ("enlarge", {"factor": 3}, "factor: 3 does not divide"),
        ("deblur", {"blur": 0.0}, "blur: must be above 0"),
        ("vary", {"strength": 1.5}, "strength must lie in"),
        ("denoise", {"noise": 0.0}, "noise must be above 0"),
        ("film", {"num_frames": 1}, "needs 2 frames"),
        ("experts", {}, "has no experts"),
        ("log_likelihood", {"options": {"num_steps": 1}}, "needs 4 steps"),
        ("sample", {"options": {"num_steps": 0}}, "num_steps must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused(
    composed: Compose, tmp_path: Path, task: str, request_: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        done(composed, tmp_path / "out.png", task, **request_)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["vary", "film", "experts", "log_likelihood"])
def test_other_families_say_that_they_cannot(composed: Compose, tmp_path: Path, task: str) -> None:
    with pytest.raises(ValueError, match="GAN"):
        done(composed, tmp_path / "out.png", task, "model=gan", "run_dir=unused")
