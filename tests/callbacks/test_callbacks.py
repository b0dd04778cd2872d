"""Budget, scores, pictures and checkpoints around a real, tiny training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from imagegen.callbacks import BestAndLast, Budget, ExportClassifier, GenerationMetrics, Progress, SampleGrid
from imagegen.config import build, to_plain
from imagegen.metrics.features import FeatureError, FeatureSource, load_features
from imagegen.trainer import Trainer

Compose = Callable[..., DictConfig]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "logger": False}


class Record(lightning.Callback):
    """What each step saw of the clock."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.lr: list[float] = []
        self.validated_at: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        self.progress.append(pl_module.progress)
        self.lr.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated_at.append(pl_module.images_seen)


def fit(cfg: DictConfig, *callbacks: lightning.Callback, val_every_images: int = 10**6, **options: Any) -> Trainer:
    lightning.seed_everything(0, verbose=False)
    settings = QUIET | {"enable_checkpointing": False} | options
    if any(isinstance(callback, BestAndLast) for callback in callbacks):
        del settings["enable_checkpointing"]
    trainer = Trainer("cpu", "32-true", callbacks=[Budget(val_every_images, seed=0), *callbacks], **settings)
    trainer.fit(build(cfg.model, "model"), build(cfg.data, "data"))
    return trainer


@pytest.fixture
def cfg(composed: Compose) -> DictConfig:
    return composed("model=vae", "model.network.hidden=[16]", "data.batch_size=32", "run_dir=unused")


def test_an_image_budget_ends_at_its_number_and_drives_the_learning_rate(cfg: DictConfig) -> None:
    record = Record()
    trainer = fit(cfg, record, max_images=320)
    assert trainer.lightning_module.images_seen == 320
    assert record.progress == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert record.lr == pytest.approx([cfg.model.lr * max(_cosine(i / 10, 0.02), 1e-3) for i in range(10)])


def _cosine(progress: float, warmup: float) -> float:
    return 0.0 if progress < warmup else 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def test_an_epoch_budget_counts_images_too(cfg: DictConfig) -> None:
    record = Record()
    trainer = fit(cfg, record, max_epochs=2)
    images = 2 * (1197 // 32) * 32
    assert trainer.lightning_module.images_seen == images
    assert record.progress[0] == pytest.approx(32 / images)
    assert record.progress[-1] == 1


def test_a_time_budget_ends_in_time_and_progress_follows_the_clock(cfg: DictConfig) -> None:
    record = Record()
    trainer = fit(cfg, record, max_time="00:00:00:02")
    assert trainer.lightning_module.images_seen > 0
    assert record.progress == sorted(record.progress)
    assert record.progress[0] < 0.2
    assert record.progress[-1] > 0.8


def test_without_a_budget_a_run_has_45_seconds() -> None:
    trainer = Trainer("cpu", "32-true", **QUIET)
    [timer] = [callback for callback in trainer.callbacks if type(callback).__name__ == "Timer"]
    assert timer.time_remaining() == 45


def test_validates_every_so_many_images_and_at_the_end(cfg: DictConfig) -> None:
    record = Record()
    fit(cfg, record, max_images=1600, val_every_images=500)
    assert record.validated_at == [512, 1024, 1536, 1600]


def test_two_optimizers_do_not_double_the_clock(composed: Compose) -> None:
    cfg = composed("model=gan", "model.network.hidden=[8]", "model.discriminator.hidden=[8]", "run_dir=unused")
    trainer = fit(cfg, max_images=640)
    assert trainer.lightning_module.images_seen == 640
    assert trainer.global_step == 2 * 640 // cfg.data.batch_size


def test_scores_are_logged_for_both_stages_with_their_protocol(cfg: DictConfig, tmp_path: Path) -> None:
    source = FeatureSource("digits")
    metrics = GenerationMetrics(source, num_val_samples=40, num_test_samples=80, seed=5, dirpath=str(tmp_path))
    trainer = fit(cfg, metrics, max_images=64)
    assert trainer.callback_metrics["val/fid"] > 0
    trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)
    assert trainer.callback_metrics["test/fid"] > 0
    assert trainer.callback_metrics["test/copy_rate_pixels"] < 0.5
    assert metrics.costs["sampling_ms_per_image"] > 0
    assert metrics.costs["peak_memory_mb"] > 50
    assert Image.open(tmp_path / "neighbours.png").size[0] > 100
    assert metrics.protocol["num_generated"] == 80
    assert metrics.protocol["reference"] == "test split"
    assert not any("features" in key for key in trainer.lightning_module.state_dict())


def test_a_feature_network_of_other_classes_is_refused(cfg: DictConfig) -> None:
    metrics = GenerationMetrics(FeatureSource("shapes"), num_val_samples=40, num_test_samples=40, seed=5)
    with pytest.raises(FeatureError, match="8 classes"):
        fit(cfg, metrics, max_images=64)


def test_without_a_feature_network_a_line_says_so(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    cfg.data.name = "mine"
    fit(cfg, GenerationMetrics(FeatureSource(), num_val_samples=40, num_test_samples=40, seed=5), max_images=64)
    assert "no feature network for data 'mine'" in capsys.readouterr().out


def test_pictures_carry_the_number_of_images_seen(cfg: DictConfig, tmp_path: Path) -> None:
    cfg.model.latent_dim = 2
    grid = SampleGrid(str(tmp_path), num_samples=9, seed=0)
    fit(cfg, grid, max_images=64)
    names = {"samples", "latent_plane", "reconstructions", "traversals"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}_000000064.png" for name in names}
    assert grid.last == tmp_path / "samples_000000064.png"
    assert Image.open(grid.last).size[0] >= 240


def test_early_pictures_come_at_doubled_intervals_and_leave_modes_alone(cfg: DictConfig, tmp_path: Path) -> None:
    class Modes(lightning.Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
            assert pl_module.network.training
            time.sleep(0.01)

    fit(cfg, SampleGrid(str(tmp_path), num_samples=4, seed=0, first_seconds=1e-9), Modes(), max_images=3200)
    drawn = sorted(int(path.stem.removeprefix("samples_")) for path in tmp_path.glob("samples_*.png"))
    assert drawn[0] == 32
    assert drawn[-1] == 3200  # the validation at the end
    assert 3 <= len(drawn) <= 12  # not at each of 100 steps


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_checkpoint_is_the_one_with_the_best_score(cfg: DictConfig, tmp_path: Path, mode: str) -> None:
    class Score(lightning.Callback):
        scores = iter([3.0, 1.0, 2.0])

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.log("val/score", next(self.scores), logger=False)

    checkpoints = BestAndLast(str(tmp_path), "val/score", mode)
    checkpoints.config = to_plain(cfg)
    fit(cfg, Score(), checkpoints, max_images=96, val_every_images=32)
    seen = {name: torch.load(tmp_path / name, weights_only=True)["images_seen"] for name in ("best.ckpt", "last.ckpt")}
    assert seen == {"best.ckpt": 64 if mode == "min" else 32, "last.ckpt": 96}


def test_a_score_that_nobody_computes_leaves_the_newest_as_the_best(cfg: DictConfig, tmp_path: Path) -> None:
    fit(cfg, BestAndLast(str(tmp_path), "val/fid", "min"), max_images=96, val_every_images=32)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["images_seen"] == 96


def test_a_trained_classifier_becomes_a_feature_network(composed: Compose, tmp_path: Path) -> None:
    cfg = composed("model=classifier", "model.network.width=8", "run_dir=unused")
    trainer = fit(cfg, ExportClassifier(str(tmp_path / "mine.safetensors")), max_images=2000)
    trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)
    network = load_features(str(tmp_path / "mine.safetensors"))
    assert network.accuracy == pytest.approx(float(trainer.callback_metrics["test/accuracy"]))
    features, logits = network(torch.zeros(2, 1, 8, 8))
    assert features.shape == (2, 64)
    assert logits.shape == (2, 10)


def test_without_a_terminal_progress_is_lines(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    fit(cfg, Progress(), max_images=320, log_every_n_steps=2)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("100 %")
    assert "320 images" in lines[-1]
    assert "train/loss" in lines[-1]


def test_a_diverging_run_stops_with_a_word(cfg: DictConfig) -> None:
    from imagegen.models import DivergenceError

    cfg.model.lr = 1e30
    with pytest.raises(DivergenceError, match=r"diverged after .* images.*model\.lr"):
        fit(cfg, max_images=64_000, log_every_n_steps=1)
