"""A run that is stopped anywhere and resumed ends bit for bit where the uninterrupted run ends."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import torch
from omegaconf import DictConfig

from imagegen.callbacks import BestAndLast, Budget, GenerationMetrics
from imagegen.config import build, to_plain
from imagegen.metrics.features import FeatureSource
from imagegen.tracking import CSVLogger
from imagegen.trainer import Trainer

Compose = Callable[..., DictConfig]
NUM_IMAGES = 1760  # more than an epoch of 1184, validated every 256 images and at the end
BATCH_SIZE = 32


class StopAt(lightning.Callback):
    """Ends the run as a signal would, when a hook is called for the nth time."""

    def __init__(self, hook: str, number: int) -> None:
        self.hook, self.number, self.calls = hook, number, 0

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_") or name != self.hook:
            return super().__getattribute__(name)

        def count(*_: object) -> None:
            self.calls += 1
            if self.calls == self.number:
                raise SystemExit(143)

        return count


class Fit(NamedTuple):
    model: Any
    checkpoints: BestAndLast
    trainer: Trainer
    rows: list[dict[str, str]]


def fit(cfg: DictConfig, folder: Path, stop: StopAt | None = None, is_resumed: bool = False, **options: Any) -> Fit:
    lightning.seed_everything(123 if is_resumed else 0, verbose=False)
    model, data = build(cfg.model, "model"), build(cfg.data, "data")
    checkpoints = BestAndLast(str(folder / "checkpoints"), "val/fid", "min", **options)
    checkpoints.config = to_plain(cfg)
    checkpoints.MAX_SHARE = math.inf
    logger = CSVLogger(str(folder))
    last = checkpoints.last if is_resumed else None
    if last is not None:
        logger.resume(torch.load(last, weights_only=True)["images_seen"])
    metrics = GenerationMetrics(FeatureSource("digits"), num_val_samples=32, num_test_samples=32, seed=0)
    callbacks = [Budget(256, seed=0), metrics, *([stop] if stop else []), checkpoints]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        "cpu", "32-true", max_images=NUM_IMAGES, callbacks=callbacks, logger=logger, log_every_n_steps=3, **quiet
    )
    if stop is None:
        trainer.fit(model, data, ckpt_path=last, weights_only=True)
    else:
        with pytest.raises(SystemExit):
            trainer.fit(model, data, ckpt_path=last, weights_only=True)
        assert stop.calls == stop.number
    rows = list(csv.DictReader(logger.path.read_text().splitlines())) if logger.path.exists() else []
    return Fit(model, checkpoints, trainer, rows)


@pytest.fixture
def cfg(composed: Compose) -> DictConfig:
    small = ["model.network.hidden=[16]", "model.discriminator.hidden=[16]", f"data.batch_size={BATCH_SIZE}"]
    return composed("model=gan", *small, "run_dir=unused")


@pytest.fixture
def whole(cfg: DictConfig, tmp_path: Path) -> Fit:
    return fit(cfg, tmp_path / "whole")


def assert_same_end(whole: Fit, resumed: Fit) -> None:
    assert_equal(whole.model.state_dict(), resumed.model.state_dict())
    for first, second in zip(whole.trainer.optimizers, resumed.trainer.optimizers, strict=True):
        assert_equal(first.state_dict(), second.state_dict())
    assert whole.rows == resumed.rows
    assert whole.checkpoints.best_model_score == resumed.checkpoints.best_model_score
    best = [torch.load(fit.checkpoints.best_model_path, weights_only=True) for fit in (whole, resumed)]
    assert_equal(best[0]["state_dict"], best[1]["state_dict"])


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert first.equal(second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        for pair in zip(first, second, strict=True):
            assert_equal(*pair)
    else:
        assert first == second


# 55 steps; validation after 8, 16, ... 48 and 55; an epoch has 37
@pytest.mark.parametrize(
    ("hook", "number"),
    [
        *(("on_train_batch_start", step) for step in (2, 9, 38)),
        *(("on_validation_start", number) for number in (1, 4, 7)),
        *(("on_validation_batch_end", number) for number in (1, 12)),
        *(("on_validation_epoch_end", number) for number in (2, 7)),
        *(("on_validation_end", number) for number in (1, 7)),
        ("on_train_epoch_end", 1),
    ],
)
def test_stopped_in_a_hook(cfg: DictConfig, whole: Fit, tmp_path: Path, hook: str, number: int) -> None:
    fit(cfg, tmp_path / "cut", StopAt(hook, number), save_every_seconds=1e-9)
    assert_same_end(whole, fit(cfg, tmp_path / "cut", is_resumed=True))
