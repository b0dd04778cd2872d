"""The entry scripts as a user runs them."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagegen.leaderboard import SHEET_WIDTH
from tests import forked

Script = Callable[..., forked.Ended]
FAST = ["debug=default", "log_dir=logs"]


def folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("status.json"))


def status(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "status.json").read_text()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which nothing is changed."""
    place = tmp_path_factory.mktemp("trained")
    ended = forked.script("train.py", "model=vae", *FAST, folder=place).wait()
    assert ended.returncode == 0, ended.stderr
    [folder] = folders(place / "logs")
    return folder


def test_train_leaves_everything_in_its_run_folder(script: Script, tmp_path: Path) -> None:
    result = script("train.py", "model=diffusion", "run_dir=here", "debug=default", "logger=default")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "here"
    assert status(folder)["state"] == "finished"
    scores = json.loads((folder / "scores.json").read_text())
    assert "](samples/" in (folder / "card.md").read_text()
    assert scores["images_seen"] >= 2000
    assert scores["test/fid"] > 0
    assert scores["test/inception_score"] >= 1
    assert scores["protocol"]["num_function_evaluations"] == 8
    assert scores["protocol"]["num_real"] == 300
    assert len(scores["protocol"]["features_sha256"]) == 64
    for name in ("run_dir", "images_seen", "test/fid", "protocol"):
        assert name.split("_")[0] in result.stdout
    assert (folder / "config.yaml").is_file()
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "val/fid" in (folder / "metrics.csv").read_text().splitlines()[0]
    picture = np.asarray(Image.open(tmp_path / scores["picture"]))
    assert picture.ndim == 3
    assert picture.std() > 10
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


def test_checkpoint_alone_is_enough_to_evaluate_and_sample(
    script: Script, fresh_script: Script, trained: Path, tmp_path: Path
) -> None:
    """Twice in a fresh interpreter, where a script that imports too little fails; in test_sweep.py that is train.py."""
    alone = tmp_path / "elsewhere" / "model.ckpt"
    alone.parent.mkdir()
    alone.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())

    result = fresh_script("evaluate.py", f"ckpt={alone}", "num_samples=5000", "seed=1000000", "trainer=cpu")
    assert result.returncode == 0, result.stderr
    assert json.loads((alone.parent / "evaluation.json").read_text())["test/fid"] > 0

    result = fresh_script("sample.py", f"ckpt={alone}", "num_samples=6", "seed=3", "out=out/six.npz")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out" / "six.npz") as arrays:
        assert arrays["images"].shape == (6, 8, 8, 1)
        assert arrays["images"].dtype == np.uint8
        assert arrays["labels"].shape == (6,)

    result = script("sample.py", f"ckpt={trained}", "num_samples=4")
    assert result.returncode == 0, result.stderr
    assert Image.open(trained / "checkpoints" / "sample_seed0.png").size[0] > 100


def test_evaluate_repeats_the_scores_of_the_run(script: Script, tmp_path: Path) -> None:
    result = script("train.py", "model=cvae", "run_dir=here", "debug=default", "trainer.precision=32-true")
    assert result.returncode == 0, result.stderr
    result = script("evaluate.py", "ckpt=here", "num_samples=200", "trainer.precision=32-true", "out=again.json")
    assert result.returncode == 0, result.stderr
    first, again = (json.loads((tmp_path / name).read_text()) for name in ("here/scores.json", "again.json"))
    assert again["test/fid"] == pytest.approx(first["test/fid"], rel=1e-4)
    assert again["protocol"] == first["protocol"]
    for name in ("classification_accuracy", "classification_accuracy_both"):  # by a classifier that is trained here
        assert 0 < again[f"test/{name}"] <= 1


def test_samples_in_a_file_get_the_scores_of_the_model_that_drew_them(
    script: Script, trained: Path, tmp_path: Path
) -> None:
    result = script("sample.py", f"ckpt={trained}", "num_samples=200", "seed=1000000", "out=drawn.npz")
    assert result.returncode == 0, result.stderr
    result = script("evaluate.py", "samples=drawn.npz", "data=digits", "metrics.classification_accuracy=false")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "drawn_evaluation.json").read_text())
    expected = json.loads((trained / "scores.json").read_text())
    for name in ("test/fid", "test/inception_score", "test/kid", "test/precision", "test/copy_rate_pixels"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    assert (tmp_path / "drawn_neighbours.png").is_file()
    assert "±" in result.stdout


def test_the_scores_pass_their_own_test(script: Script) -> None:
    result = script("evaluate.py", "self_test=true", "data=digits")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("PASS") > 50
    assert "FAIL" not in result.stdout


def test_the_leaderboard_gathers_runs(fresh_script: Script, trained: Path, tmp_path: Path) -> None:
    result = fresh_script("-m", "imagegen.leaderboard", str(trained.parent), "--out", "table.md")
    assert result.returncode == 0, result.stderr
    assert "| vae |" in (tmp_path / "table.md").read_text()
    result = fresh_script("-m", "imagegen.leaderboard", str(trained.parent), "--samples", "samples.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width == SHEET_WIDTH
        assert picture.height >= 60
        assert np.asarray(picture)[:, -400:].std() > 20  # images, not a blank


def test_a_run_goes_on_where_another_ended(script: Script, trained: Path, tmp_path: Path) -> None:
    arguments = ["model=vae", f"resume={trained}", "debug=default", "run_dir=more"]
    result = script("train.py", *arguments, "trainer.max_images=4000")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "more" / "scores.json").read_text())["images_seen"] >= 4000
    with (tmp_path / "more" / "metrics.csv").open() as file:  # the test may be of a best checkpoint from before
        assert min(int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]) > 2000

    result = script("train.py", "model=gan", f"resume={trained}", "debug=default")
    assert result.returncode == 1
    assert "VAE" in result.stderr
    assert "GAN" in result.stderr


def test_a_multirun_gives_each_job_its_own_folder_and_wandb_run(script: Script, tmp_path: Path) -> None:
    arguments = ["--multirun", "model=vae", "model.latent_dim=2,4", "model.lr=1e-3", *FAST, "logger=default"]
    result = script("train.py", *arguments)
    assert result.returncode == 0, result.stderr
    runs = folders(tmp_path / "logs")
    assert len(runs) == 2
    assert all(status(folder)["state"] == "finished" for folder in runs)
    assert len(list(tmp_path.rglob("offline-run-*/*.wandb"))) == 2
    assert [bool(list(folder.glob("samples/latent_plane_*.png"))) for folder in runs] == [True, False]


def test_a_failing_job_does_not_take_the_rest_of_a_sweep_down(script: Script, tmp_path: Path) -> None:
    unknown = "optimized_metric=test/none"
    result = script("train.py", "--multirun", "model=vae", "data.batch_size=100000,64", unknown, *FAST)
    assert result.returncode == 1
    assert "no test/none among the scores: test/" in result.stdout
    assert sorted(str(status(folder)["state"]) for folder in folders(tmp_path / "logs")) == ["failed", "finished"]


def test_two_processes_train_and_score_as_one(script: Script, tmp_path: Path) -> None:
    arguments = ["model=gan", "run_dir=here", "debug=default", "trainer=ddp"]
    result = script("train.py", *arguments, "trainer.accelerator=cpu", "trainer.devices=2")
    assert result.returncode == 0, result.stderr
    assert status(tmp_path / "here")["state"] == "finished"
    scores = json.loads((tmp_path / "here" / "scores.json").read_text())
    assert scores["images_seen"] >= 2000
    assert scores["test/fid"] > 0
    assert not (tmp_path / "logs").exists()


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train.py", ["model=difusion"], ["difusion", "diffusion"]),
        ("train.py", ["data=mnits"], ["mnits", "mnist"]),
        ("train.py", ["model.lrr=1"], ["lrr"]),
        ("train.py", ["model.lr=abc"], ["model.lr", "abc"]),
        ("train.py", ["data.batch_size=0"], ["data.batch_size", "greater than 0"]),
        ("train.py", ["data=mnist", "data.data_dir=nowhere"], ["train-images-idx3-ubyte.gz", "data=digits"]),
        ("train.py", ["data=mnist", "data.data_dir=cut"], ["train-images-idx3-ubyte.gz"]),
        ("train.py", ["model._target_=os.system"], ["os.system", "not allowed"]),
        ("train.py", ["trainer=gpu"], ["no GPU found", "trainer=cpu"]),
        ("train.py", ["log_dir=file/logs"], ["file/logs", "log_dir="]),
        ("train.py", ["run_dir=full"], ["full", "not empty"]),
        ("train.py", ["resume=nowhere.ckpt"], ["nowhere.ckpt"]),
        ("train.py", ["metrics/features=inceptoin"], ["inceptoin", "digits"]),
        ("train.py", ["metrics.features.source=inceptoin"], ["inceptoin", "digits"]),
        ("train.py", ["metrics/features=shapes"], ["8 classes", "metrics/features"]),
        ("train.py", ["metrics/features=inception"], ["inception"]),
        ("sample.py", [], ["ckpt"]),
        ("sample.py", ["ckpt=nowhere"], ["nowhere"]),
        ("sample.py", ["ckpt=empty.ckpt"], ["empty.ckpt", "empty"]),
        ("sample.py", ["ckpt=text.ckpt"], ["text.ckpt", "not a checkpoint"]),
        ("sample.py", ["ckpt=bomb.ckpt"], ["bomb.ckpt", "refused"]),
        ("sample.py", ["ckpt=full"], ["full", "no run folder"]),
        ("train.py", ["trainer.log_every_n_steps=abc"], ["log_every_n_steps", "abc"]),
        ("train.py", ["trainer.max_images=null", "trainer.max_time=3m", "dry=true"], ["max_time", "3m"]),
        ("evaluate.py", ["ckpt=nowhere"], ["nowhere"]),
        ("evaluate.py", ["ckpt=nowhere", "data=digits"], ["data", "trained on"]),
        ("evaluate.py", [], ["ckpt=", "samples=", "self_test=true"]),
        ("evaluate.py", ["samples=nowhere.npz"], ["data=mnist"]),
        ("evaluate.py", ["samples=nowhere.npz", "data=digits"], ["nowhere.npz"]),
        ("evaluate.py", ["samples=full", "data=digits"], ["precious", "PNGs"]),
    ],
)
def test_a_mistake_ends_in_a_line_or_two(
    script: Script, tmp_path: Path, name: str, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "cut" / "mnist").mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "cut" / "mnist" / f"{split}-{kind}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00")
    torch.save({"config": Bomb()}, tmp_path / "bomb.ckpt", pickle_module=pickle)

    result = script(name, *arguments, *(["debug=default"] if name == "train.py" else []))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert (tmp_path / "full" / "precious").read_text() == "kept"
    assert not (tmp_path / "exploded").exists()


def test_runs_of_the_same_second_get_their_own_folders(tmp_path: Path) -> None:
    from imagegen.run import _unique_folder

    assert len({_unique_folder(tmp_path) for _ in range(5)}) == 5


def test_another_sampler_and_no_picture_of_what_is_no_number(script: Script, tmp_path: Path) -> None:
    small = ["model.network.width=8", "trainer.max_images=200", "metrics/features=none", "run_dir=here"]
    result = script("train.py", "model=diffusion", *FAST, *small)
    assert result.returncode == 0, result.stderr
    drawing = ["ckpt=here", "num_samples=2", "sampler=ddim", "sampler.eta=1", "num_steps=3"]
    result = script("sample.py", *drawing, "out=good.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "good.png").is_file()

    scored = ["ckpt=here", "num_samples=40", "metrics/features=digits", "metrics.classification_accuracy=false"]
    result = script("evaluate.py", *scored, "sampler=heun", "num_steps=3", "guidance_scale=2", "out=other.json")
    assert result.returncode == 0, result.stderr
    protocol = json.loads((tmp_path / "other.json").read_text())["protocol"]
    assert protocol["sampler"] == "heun, 3 steps"
    assert protocol["num_function_evaluations"] == 10, "twice as many for the guidance"
    assert protocol["guidance_scale"] == 2
    result = script("evaluate.py", *scored, "num_steps=0")
    assert result.returncode == 1
    assert "num_steps must be at least 1, got 0" in result.stderr
    assert "Traceback" not in result.stderr

    path = tmp_path / "here" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["ema.module.head.bias"].fill_(torch.nan)
    torch.save(checkpoint, path)
    result = script("sample.py", *drawing, "out=bad.png")
    assert result.returncode == 1
    assert "not finite at evaluation 1, t=1" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bad.png").exists()
