from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from imagegen.config import build
from imagegen.models import GenerativeModel
from imagegen.tasks import perform
from tests.sample_request import sample_request

Compose = Callable[..., DictConfig]
REQUEST = sample_request(num_samples=12, num_frames=5, noise=0.3, strength=0.5)
SMALL = {
    "vae": ["model.network.hidden=[16]"],
    "cvae": ["model.network.hidden=[16]"],
    "gan": [],
    "vq_vae": ["model.network.width=8"],
}


def trained(composed: Compose, name: str, *overrides: str) -> tuple[GenerativeModel, DictConfig]:
    cfg = composed(f"model={name}", "run_dir=unused", *SMALL.get(name, ["model.network.width=8"]), *overrides)
    return build(cfg.model, "model"), cfg


def done(composed: Compose, out: Path, task: str, name: str, *overrides: str, **request: Any) -> None:
    model, cfg = trained(composed, name, *overrides)
    perform(model, cfg, out, REQUEST | {"task": task} | request)


@pytest.mark.parametrize("name", ["vae", "cvae", "conv_vae", "hvae", "vq_vae"])
def test_images_stand_beside_their_reconstructions(composed: Compose, tmp_path: Path, name: str) -> None:
    done(composed, tmp_path / "out.png", "reconstruct", name)
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    factor = picture.shape[1] // (8 * 10)
    first = picture[factor : 9 * factor : factor, factor : 9 * factor : factor, 0]
    model, cfg = trained(composed, name)
    data = build(cfg.data, "data")
    data.setup("test")
    assert np.array_equal(first, data.splits["test"][0][0, 0].numpy())


@pytest.mark.parametrize(("task", "columns"), [("denoise", 9), ("traverse", 5), ("change_class", 11)])
def test_pictures_of_a_vae(composed: Compose, tmp_path: Path, task: str, columns: int) -> None:
    done(composed, tmp_path / "out.png", task, "vae")
    width, height = Image.open(tmp_path / "out.png").size
    assert width % (columns * 10) == 0
    assert height % 10 == 0


def test_latents_as_arrays(composed: Compose, tmp_path: Path) -> None:
    done(composed, tmp_path / "latents.npz", "encode", "vae")
    with np.load(tmp_path / "latents.npz") as file:
        assert file["latents"].shape == (300, 16)
        assert file["labels"].shape == (300,)


def test_an_image_of_its_own_class_is_its_reconstruction(composed: Compose) -> None:
    from imagegen.tasks import change_class

    model, _ = trained(composed, "vae")
    images, labels = torch.rand(20, 1, 8, 8) * 2 - 1, torch.arange(20) % 4
    picture = change_class(model, images, labels, {"num_samples": 4, "images": None})
    factor = picture.shape[1] // (5 * 10)
    small = picture[::factor, ::factor, 0]
    restored = ((model.reconstruct(images[:4]) + 1) * 127.5).round()
    for row in range(4):
        cell = small[row * 10 + 1 : row * 10 + 9, (row + 1) * 10 + 1 : (row + 1) * 10 + 9]
        np.testing.assert_allclose(cell, restored[row, 0].numpy(), atol=1)


@pytest.mark.parametrize("name", ["pixelcnn", "gated_pixelcnn", "pixelsnail"])
def test_images_are_completed_below_what_is_known(composed: Compose, tmp_path: Path, name: str) -> None:
    done(composed, tmp_path / "out.png", "complete", name, known=0.75, num_samples=3, options={"temperature": 0.9})
    picture = np.asarray(Image.open(tmp_path / "out.png"))[..., 0]
    factor = picture.shape[1] // (9 * 10)
    given, completed, original = (
        picture[factor:, (10 * i + 1) * factor :][: 8 * factor, : 8 * factor] for i in range(3)
    )
    assert np.array_equal(completed[: 6 * factor], original[: 6 * factor])
    assert np.array_equal(given[: 6 * factor], original[: 6 * factor])
    assert not np.array_equal(completed[6 * factor :], original[6 * factor :])
    assert (given[6 * factor :] == 128).all()


def test_what_latents_say_of_attributes(composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["data=shapes", "data.read.num_train=64", "data.read.num_val=16", "data.read.num_test=300"]
    done(composed, tmp_path / "out.png", "explain", "vae", *sizes)
    out = capsys.readouterr().out
    assert "of 16 latents are active" in out
    for word in ("shape", "hue", "angle", "mutual information gap"):
        assert word in out


@pytest.mark.parametrize(
    ("task", "name", "out", "words"),
    [
        ("dream", "vae", "out.png", "not one of sample, interpolate"),
        ("reconstruct", "gan", "out.png", "GAN cannot reconstruct"),
        ("explain", "gan", "out.png", "GAN cannot explain"),
        ("encode", "vae", "out.png", r"must end in \.npz"),
        ("traverse", "vae", "out.gif", r"must end in \.png"),
        ("change_class", "vq_vae", "out.png", "codes and cannot be added"),
        ("complete", "gan", "out.png", "GAN cannot complete"),
    ],
)
def test_what_cannot_be_done_is_refused(
    composed: Compose, tmp_path: Path, task: str, name: str, out: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        done(composed, tmp_path / out, task, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"known": 1.0}, "leaves no pixel to complete"),
        ({"known": 1.5}, "known: must be a share from 0 to 1"),
        ({"options": {"temperature": 0.0}}, "temperature must be above 0"),
    ],
)
def test_what_cannot_be_completed_is_refused(
    composed: Compose, tmp_path: Path, request_: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        done(composed, tmp_path / "out.png", "complete", "pixelcnn", **request_)


def test_a_request_is_the_config_of_the_script() -> None:
    keys = set(OmegaConf.load(Path(__file__).parents[2] / "configs" / "sample.yaml"))
    assert set(REQUEST) | {"task", "ckpt", "out", "log_dir", "defaults"} == keys
