"""A run that is stopped anywhere and resumed ends bit for bit where the uninterrupted run ends."""

from __future__ import annotations

import csv
import math
import random
import signal
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from imagegen.callbacks import BestAndLast, Budget, GenerationMetrics
from imagegen.config import build, to_plain
from imagegen.metrics.features import FeatureSource
from imagegen.models import DivergenceError
from imagegen.tracking import CSVLogger
from imagegen.trainer import Trainer
from tests.forked import Process

CONFIGS = Path(__file__).parents[2] / "configs"
NUM_IMAGES = 1760  # 55 steps of 32, 37 to an epoch; validated after 8, 16, ..., 48 and 55


class StopAt(lightning.Callback):
    """Ends the run as a signal would, when a hook is called for the nth time."""

    def __init__(self, hook: str, number: int) -> None:
        self.number, self.calls = number, 0
        setattr(self, hook, self.count)

    def count(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.number:
            raise SystemExit(143)


def fit(
    cfg: DictConfig,
    folder: Path,
    stop: lightning.Callback | None = None,
    num_images: int | None = NUM_IMAGES,
    **budget: Any,
) -> BestAndLast:
    """Train with all that keeps state, and save after each step; go on if there is a checkpoint."""
    checkpoints = BestAndLast(str(folder / "checkpoints"), "val/fid", "min", save_every_seconds=1e-9)
    checkpoints.config, checkpoints.MAX_SHARE = to_plain(cfg), math.inf
    last = checkpoints.last if checkpoints.last.exists() else None
    lightning.seed_everything(0 if last is None else 123, verbose=False)
    logger = CSVLogger(str(folder))
    if last is not None:
        logger.resume(torch.load(last, weights_only=True)["images_seen"])
    metrics = GenerationMetrics(FeatureSource("digits"), num_val_samples=32, num_test_samples=32, seed=0)
    callbacks = [Budget(256, seed=0), metrics, *([stop] if stop else []), checkpoints]
    options = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0} | budget
    trainer = Trainer(
        "cpu", "32-true", max_images=num_images, callbacks=callbacks, logger=logger, log_every_n_steps=3, **options
    )
    trainer.fit(build(cfg.model, "model"), build(cfg.data, "data"), ckpt_path=last, weights_only=True)
    return checkpoints


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    small = ["model.network.hidden=[16]", "model.discriminator.hidden=[16]", "data.batch_size=32", "run_dir=unused"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=["model=gan", *small])


@pytest.fixture(scope="module")
def whole(cfg: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(cfg, folder)
    return folder


def assert_same_end(whole: Path, resumed: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        first, second = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (whole, resumed))
        for key in ("images_seen", "state_dict", "optimizer_states", "losses"):
            assert_equal(first[key], second[key])
        states = [checkpoint["callbacks"]["BestAndLast"] for checkpoint in (first, second)]
        assert states[0]["best_model_score"] == states[1]["best_model_score"]
    rows = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (whole, resumed)]
    assert rows[0] == rows[1]


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert first.equal(second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for pair in zip(first, second, strict=True):
            assert_equal(*pair)
    else:
        assert first == second


@pytest.mark.parametrize(
    ("hook", "number"),
    [
        *(("on_train_batch_start", step) for step in (2, 9, 38)),
        *(("on_validation_start", number) for number in (1, 7)),
        *(("on_validation_batch_end", number) for number in (1, 12)),
        *(("on_validation_epoch_end", number) for number in (2, 7)),
        *(("on_validation_end", number) for number in (1, 7)),
        ("on_train_epoch_end", 1),
    ],
)
def test_stopped_in_any_hook(cfg: DictConfig, whole: Path, tmp_path: Path, hook: str, number: int) -> None:
    stop = StopAt(hook, number)
    with pytest.raises(SystemExit):
        fit(cfg, tmp_path, stop)
    assert stop.calls == number
    fit(cfg, tmp_path)
    assert_same_end(whole, tmp_path)


def test_stopped_at_the_end_of_an_epoch_and_again_in_the_next(cfg: DictConfig, whole: Path, tmp_path: Path) -> None:
    for number in (38, 3):  # of steps in this process: the 37th is the last of its epoch
        with pytest.raises(SystemExit):
            fit(cfg, tmp_path, StopAt("on_train_batch_start", number))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["images_seen"] == 39 * 32
    fit(cfg, tmp_path)
    assert_same_end(whole, tmp_path)


def test_killed_twenty_times_at_random(cfg: DictConfig, tmp_path: Path) -> None:
    num_images = 320 * 32
    moments, last = random.Random(0), tmp_path / "killed" / "checkpoints" / "last.ckpt"
    ended = Process(fit, cfg, tmp_path / "whole", None, num_images, folder=tmp_path).wait()
    assert ended.returncode == 0, ended.output
    for _ in range(20):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = Process(fit, cfg, tmp_path / "killed", None, num_images, folder=tmp_path)
        process.wait_for(lambda before=before: last.exists() and last.stat().st_mtime_ns > before)
        time.sleep(moments.uniform(0, 0.1))
        process.send(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL, "had ended before"
    assert Process(fit, cfg, tmp_path / "killed", None, num_images, folder=tmp_path).wait().returncode == 0
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


def test_weights_that_are_no_numbers_are_never_saved(cfg: DictConfig, tmp_path: Path) -> None:
    class Spoil(lightning.Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
            if pl_module.images_seen == 640:
                next(pl_module.network.parameters()).data[0] = math.nan

    with pytest.raises(DivergenceError, match=r"after 640 images: weights are no numbers.*model\.lr"):
        fit(cfg, tmp_path, Spoil())
    for name, images_seen in (("last.ckpt", 608), ("best.ckpt", 512)):
        checkpoint = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
        assert checkpoint["images_seen"] <= images_seen
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_the_time_of_all_processes_counts(cfg: DictConfig, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(cfg, tmp_path, StopAt("on_validation_end", 2))
    before = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["BestAndLast"][
        "seconds"
    ]
    assert before > 0
    start = time.monotonic()
    checkpoints = fit(cfg, tmp_path)
    assert before < checkpoints.seconds <= before + time.monotonic() - start


class Shares(lightning.Callback):
    """The used share of the budget after each step."""

    def __init__(self) -> None:
        self.progress: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        self.progress.append(pl_module.progress)


def test_a_budget_of_time_goes_on_where_it_was(cfg: DictConfig, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(cfg, tmp_path, StopAt("on_validation_end", 2), None, max_time="00:00:00:04")
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    used = saved["callbacks"]["Timer"]["time_elapsed"]["train"] / 4
    shares = Shares()
    fit(cfg, tmp_path, shares, None, max_time="00:00:00:04")
    assert 0 < used <= shares.progress[0] < shares.progress[-1]
    after = Shares()
    fit(cfg, tmp_path, after, None, max_time="00:00:00:04")
    assert after.progress == [], "the time is up"
