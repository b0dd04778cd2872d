"""What tasks are given: pictures of one's own, masks, other folders of data, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from imagegen.config import build
from imagegen.models import GenerativeModel
from imagegen.objectives.adaptive_sampler import adaptive
from imagegen.objectives.denoisers import SamplingError
from imagegen.objectives.samplers import euler
from imagegen.tasks import perform
from tests.sample_request import sample_request

Compose = Callable[..., DictConfig]
REQUEST = sample_request(num_samples=4, num_frames=3, noise=0.3, strength=0.5, blur=0.7)
SMALL = ["model.network.width=8", "model.num_steps=2", "run_dir=unused"]
VAE = ["model=cvae", "model.network.hidden=[16]", "run_dir=unused"]


def done(composed: Compose, out: Path, task: str, *overrides: str, **request: Any) -> GenerativeModel:
    cfg = composed(*(overrides or ("model=diffusion", *SMALL)))
    model: GenerativeModel = build(cfg.model, "model")
    perform(model, cfg, out, REQUEST | {"task": task} | request)
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of one's own, of another size and in colour."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, colour in enumerate(["black", "gray", "white"]):
        Image.new("RGB", (40, 30), colour).save(folder / f"{i}.png")
    return folder


def cells(path: Path, columns: int) -> np.ndarray[Any, Any]:
    """The images (rows, columns, 8, 8) of a grid of grey pictures, without their enlargement."""
    picture = np.asarray(Image.open(path))[..., 0]
    factor = picture.shape[1] // (10 * columns)
    small = picture[::factor, ::factor]
    return small.reshape(-1, 10, columns, 10).transpose(0, 2, 1, 3)[:, :, 1:-1, 1:-1]


RESTORATIONS = [("denoise", 9), ("complete", 9), ("enlarge", 9), ("deblur", 9), ("vary", 8)]


@pytest.mark.parametrize(("task", "columns"), RESTORATIONS)
def test_own_pictures_are_restored(composed: Compose, tmp_path: Path, photos: Path, task: str, columns: int) -> None:
    options = {"num_steps": 2}
    done(composed, tmp_path / "out.png", task, images=str(photos), labels=[3, 7], options=options)
    found = cells(tmp_path / "out.png", columns)
    originals = found[:, 0] if task == "vary" else found[0, 2::3]
    assert [x.flatten().tolist() for x in originals] == [[level] * 64 for level in (0, 128, 255)]


@pytest.mark.parametrize("task", ["reconstruct", "change_class"])
def test_own_pictures_are_encoded_and_decoded(composed: Compose, tmp_path: Path, photos: Path, task: str) -> None:
    done(composed, tmp_path / "out.png", task, *VAE, images=str(photos / "2.png"), labels=[9])
    columns = {"reconstruct": 8, "change_class": 11}[task]
    first, *others = cells(tmp_path / "out.png", columns)[0]
    assert (first == 255).all()
    if task == "change_class":  # of which the test split knows the means
        assert len({other.tobytes() for other in others}) == 10


def test_own_pictures_have_the_labels_given(composed: Compose, tmp_path: Path, photos: Path) -> None:
    for labels, expected in ((None, [0, 0, 0]), ([3, 5], [3, 5, 3])):
        done(composed, tmp_path / "out.npz", "encode", *VAE, images=str(photos), labels=labels)
        with np.load(tmp_path / "out.npz") as file:
            assert file["labels"].tolist() == expected
            assert file["latents"].shape[0] == 3


def test_own_pictures_need_no_data_set(
    composed: Compose, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["model=vae", "model.network.hidden=[16]", "data=mnist", "data.data_dir=nowhere", "run_dir=unused"]
    for task, words in (("log_likelihood", "of 3 images"), ("explain", "latents are active")):
        done(composed, tmp_path / "out.png", task, *missing, images=str(photos))
        assert words in capsys.readouterr().out


def test_own_pictures_are_made_black_and_white_for_models_of_such(
    composed: Compose, tmp_path: Path, photos: Path
) -> None:
    binary = ["data.binarize=fixed", "data.num_levels=2", "model.network.width=8", "run_dir=unused"]
    done(composed, tmp_path / "out.png", "complete", "model=pixelcnn", *binary, images=str(photos))
    assert set(np.unique(cells(tmp_path / "out.png", 9)[0, 2::3])) == {0, 255}


# Masks ------------------------------------------------------------------------------------------------------------


def mask(path: Path, left: int) -> str:
    picture = Image.new("L", (16, 16))
    picture.paste(255, (0, 0, left, 16))
    picture.save(path)
    return str(path)


def test_a_mask_says_what_is_known(composed: Compose, tmp_path: Path, photos: Path) -> None:
    left = mask(tmp_path / "mask.png", 6)
    done(composed, tmp_path / "out.png", "complete", images=str(photos), mask=left, options={"num_steps": 2})
    given, completed, original = cells(tmp_path / "out.png", 9)[0, 6:9]
    assert (given[:, :3] == 255).all()
    assert (given[:, 3:] == 128).all(), "of a value between black and white"
    assert (completed[:, :3] == original[:, :3]).all()
    assert not (completed[:, 3:] == original[:, 3:]).all()


@pytest.mark.parametrize(
    ("left", "words"), [(16, "all white and leaves no pixel to complete"), (0, "all black: nothing is known")]
)
def test_a_mask_must_leave_something(composed: Compose, tmp_path: Path, left: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        done(composed, tmp_path / "out.png", "complete", mask=mask(tmp_path / "mask.png", left))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.png").exists()


def test_a_mask_is_one_picture(composed: Compose, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match="holds 3 pictures; give one"):
        done(composed, tmp_path / "out.png", "complete", mask=str(photos))


# Parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*(task for task, _ in RESTORATIONS), "log_likelihood"])
def test_many_images_go_through_the_network_in_parts(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    """With room for 100 and for 150 images; steps are random, and a network that ends in 0 would hide it."""
    cfg = composed("model=diffusion", *SMALL, "sampler@model.sampler=ddim", "model.sampler.eta=1")
    model: GenerativeModel = build(cfg.model, "model")
    torch.nn.init.normal_(model.ema.module.head.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    sizes: list[int] = []
    model.ema.module.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    results = []
    for size in (100, 150):
        monkeypatch.setattr("imagegen.tasks.given.PART_SIZE", size)
        options = {"num_steps": 4, "batch_size": size} if task == "log_likelihood" else {"num_steps": 2}
        perform(model, cfg, tmp_path / "out.png", REQUEST | {"task": task, "num_samples": 120, "options": options})
        assert max(sizes) == min(size, 120)
        results.append(
            capsys.readouterr().out
            if task == "log_likelihood"
            else cells(tmp_path / "out.png", dict(RESTORATIONS)[task])
        )
    if task == "log_likelihood":
        assert results[0] == results[1]
    else:
        assert abs(results[0].astype(int) - results[1]).max() <= 1


def test_the_data_may_lie_elsewhere(composed: Compose, tmp_path: Path) -> None:
    for name in ("black", "white"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("L", (8, 8), name).save(tmp_path / name / f"{i}.png")
    sizes = ["data=folder", "data.image_shape=[1,8,8]", f"data.data_dir={tmp_path / 'black'}"]
    overrides = ["model=vae", *sizes, "model.network.hidden=[16]", "run_dir=unused"]
    for data_dir, level in ((None, 0), (str(tmp_path / "white"), 255)):
        done(composed, tmp_path / "out.png", "reconstruct", *overrides, data_dir=data_dir)
        assert (cells(tmp_path / "out.png", 8)[0, 0] == level).all()


def test_a_gpu_is_used_where_there_is_one(composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []
    monkeypatch.setattr(GenerativeModel, "to", lambda model, device: devices.append(device))
    for has_gpu, accelerator in ((True, "auto"), (True, "cpu"), (False, "auto")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        done(composed, tmp_path / "out.png", "sample", *VAE, accelerator=accelerator)
    assert devices == ["cuda", "cpu", "cpu"]


# Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "request_", "words"),
    [
        ("film", {"labels": []}, "labels must be null or a list of at least one class"),
        ("sample", {"labels": 3}, r"as \[3,5\], got 3"),
        ("vary", {"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
        ("film", {"num_samples": -1}, "num_samples must be"),
        ("deblur", {"num_samples": "many"}, "num_samples must be"),
        ("film", {"columns": 0}, "columns must be"),
        ("complete", {"options": {"num_steps": 0}}, "num_steps must be at least 1, got 0"),
        ("enlarge", {"options": {"num_steps": 0}}, "num_steps must be at least 1, got 0"),
        ("deblur", {"options": {"num_steps": -3}}, "num_steps must be at least 1, got -3"),
        ("denoise", {"options": {"num_steps": 0}}, "num_steps must be at least 1, got 0"),
        ("vary", {"options": {"num_steps": 0}}, "num_steps must be at least 1, got 0"),
        ("interpolate", {"options": {"num_steps": 0}}, "num_steps must be at least 1, got 0"),
        ("experts", {"options": {"num_steps": 1}}, "task=experts has none, got num_steps"),
        ("sample", {"images": "photos"}, "begins with noise alone"),
        ("vary", {"mask": "mask.png"}, "mask: is for task=complete"),
        ("vary", {"accelerator": "tpu"}, "accelerator must be auto or cpu, got tpu"),
        (
            "vary",
            {"images": "PHOTOS", "labels": [10]},
            r"from 10 to 10, but the data have the classes 0 to 9",
        ),
        ("traverse", {"images": "PHOTOS/1.png"}, "two or more"),
    ],
)
def test_mistakes_are_named(
    composed: Compose, tmp_path: Path, photos: Path, task: str, request_: dict[str, Any], words: str
) -> None:
    if "images" in request_:
        request_ = request_ | {"images": request_["images"].replace("PHOTOS", str(photos))}
    overrides = VAE if task == "traverse" else ()
    with pytest.raises(ValueError, match=words) as error:
        done(composed, tmp_path / "out.png", task, *overrides, **request_)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("task", ["denoise", "vary", "complete", "interpolate"])
def test_unknown_options_are_refused(composed: Compose, tmp_path: Path, task: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        done(composed, tmp_path / "out.png", task, options={"colour": 1})


# Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["denoise", "vary", "complete", "enlarge", "deblur", "interpolate", "film", "sample"])
def test_options_reach_the_sampler(composed: Compose, tmp_path: Path, task: str) -> None:
    seen: list[int] = []

    def watching(denoiser: Any, x: torch.Tensor, times: torch.Tensor, schedule: Any, noise: Any) -> torch.Tensor:
        seen.append(len(times) - 1)
        return euler(denoiser, x, times, schedule, noise)

    options = {"num_steps": 7, "sampler": watching, "guidance_scale": 2.0}
    done(composed, tmp_path / "out.png", task, options=options)
    assert set(seen) == {7}
    assert options.keys() == {"num_steps", "sampler", "guidance_scale"}, "they stay for others"


def test_the_number_of_images_of_a_path_is_not_that_of_steps(composed: Compose, tmp_path: Path) -> None:
    for out in ("out.png", "out.npz"):
        done(composed, tmp_path / out, "interpolate", options={"num_steps": 5}, num_frames=3)
    with np.load(tmp_path / "out.npz") as file:
        assert file["images"].shape == (4, 3, 8, 8, 1)
    with pytest.raises(TypeError, match="num_steps"):
        done(composed, tmp_path / "out.png", "interpolate", *VAE, options={"num_steps": 5})


@pytest.mark.parametrize("task", ["complete", "enlarge", "deblur", "denoise", "vary", "sample"])
def test_a_network_that_says_variances_says_them_in_every_task(composed: Compose, tmp_path: Path, task: str) -> None:
    done(composed, tmp_path / "out.png", task, "model=improved_ddpm", *SMALL, options={"num_steps": 3})
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("task", ["sample", "complete"])
def test_a_sampler_that_comes_to_no_end(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr("imagegen.objectives.adaptive_sampler.MAX_ROUNDS", 2)
    with pytest.raises(SamplingError, match="raise the tolerance 1e-12"):
        done(composed, tmp_path / "out.png", task, options={"sampler": partial(adaptive, tolerance=1e-12)})
