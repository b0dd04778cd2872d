"""Trainings broken on purpose, each in one way, and healthy ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig

from imagegen.callbacks import Budget, GenerationMetrics, TrainingDoctor
from imagegen.config import build
from imagegen.metrics.features import FeatureSource
from imagegen.models import VAE, DivergenceError
from imagegen.trainer import Trainer

Compose = Callable[..., DictConfig]
TINY = ["model.network.hidden=[32]", "run_dir=unused", "data.batch_size=32"]
GAN = [*TINY, "model=gan", "model.discriminator.hidden=[32]"]
VAE_ = [*TINY, "model=vae"]


def examine(
    cfg: DictConfig,
    path: Path | None = None,
    num_images: int = 3200,
    scores: bool = False,
    spoil: Callable[[Any], None] = lambda model: None,
) -> list[str]:
    """The doctor's words after a training, kept also where a training diverges."""
    lightning.seed_everything(0, verbose=False)
    doctor = TrainingDoctor(None if path is None else str(path))
    callbacks: list[lightning.Callback] = [Budget(num_images, seed=0)]
    if scores:
        callbacks.append(GenerationMetrics(FeatureSource("digits"), num_val_samples=200, num_test_samples=200, seed=5))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        "cpu",
        "32-true",
        max_images=num_images,
        callbacks=[*callbacks, doctor],
        log_every_n_steps=5,
        num_sanity_val_steps=0,
        logger=False,
        **quiet,
    )
    model = build(cfg.model, "model")
    spoil(model)
    with suppress(DivergenceError):
        trainer.fit(model, build(cfg.data, "data"))
    return doctor.warnings


def test_a_discriminator_that_wins(composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = composed(*GAN, "model.lr=1e-9", "model.discriminator_lr=1e-2", "model.discriminator.dropout=0.0")
    (tmp_path / "status.json").write_text('{"state": "running"}')
    [words] = examine(cfg, tmp_path / "status.json")
    assert "discriminator tells" in words
    assert "model.discriminator_lr" in words
    assert f"doctor: {words}" in capsys.readouterr().out
    assert json.loads((tmp_path / "status.json").read_text()) == {"state": "running", "warnings": [words]}


def test_a_critic_may_win(composed: Compose) -> None:
    cfg = composed(*GAN, "model.lr=1e-9", "model.discriminator_lr=1e-2", "model.discriminator.dropout=0.0")
    cfg.model.objective = {"_target_": "imagegen.objectives.adversarial.Wasserstein"}
    cfg.model.weight_clip = 0.1
    assert examine(cfg) == []


def test_a_generator_that_draws_one_picture(composed: Compose) -> None:
    def ignore_latents(model: Any) -> None:
        for network in (model.network, model.ema.module):
            torch.nn.init.zeros_(network.layers[0].weight)

    words = examine(composed(*GAN, "model.lr=1e-9", "model.discriminator_lr=1e-9"), scores=True, spoil=ignore_latents)
    assert any("9 classes are missing" in text for text in words)
    assert any("vary 0.00 times" in text for text in words)


def test_a_gradient_that_vanishes(composed: Compose) -> None:
    words = examine(composed(*GAN, "model.discriminator.dropout=1.0"), num_images=32 * 160)
    assert any("gradient of the generator has the norm 0" in text for text in words)


def test_a_gradient_that_explodes(composed: Compose) -> None:
    doctor = TrainingDoctor()
    module = build(composed(*VAE_).model, "model")
    optimizer = module.configure_optimizers()
    trainer = SimpleNamespace(is_global_zero=True, loggers=[])
    for step in range(500):
        scale = 1e5 if step >= 400 else 1.0
        for parameter in module.network.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        doctor.on_before_optimizer_step(trainer, module, optimizer)
    [words] = doctor.warnings
    assert "gradient of the network" in words
    assert "usually" in words


def test_a_penalty_that_blows_up(composed: Compose) -> None:
    small = ["model.network.width=8", "model.discriminator.width=8", "run_dir=unused", "data.batch_size=32"]
    words = examine(composed("model=wgan_gp", *small, "model.discriminator_lr=1.0"))
    assert any("penalty is" in text for text in words)


def test_averaged_weights_that_do_not_move(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed(*VAE_)
    monkeypatch.setattr(VAE, "update_average", lambda self: None)
    [words] = examine(cfg)
    assert "averaged ones do not" in words


def test_a_loss_that_is_no_number(composed: Compose, tmp_path: Path) -> None:
    words = examine(composed(*VAE_, "model.lr=1e30"), tmp_path / "status.json")
    assert any("no number" in text or "diverged" in text for text in words)
    assert json.loads((tmp_path / "status.json").read_text())["warnings"] == words


def test_a_posterior_that_collapses(composed: Compose) -> None:
    words = examine(composed(*VAE_, "model.beta=100.0"), num_images=6400)
    assert any("posterior collapse" in text for text in words)


def test_a_codebook_that_collapses(composed: Compose) -> None:
    doctor = TrainingDoctor()
    module = SimpleNamespace(images_seen=1000, progress=0.5, num_codes=256, train_means={}, num_bad_steps=0)
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[])
    for perplexity in (40.0, 9.0, 8.0, 7.0, 6.0, 5.0):
        module.train_means = {"train/perplexity": perplexity}
        doctor.on_train_batch_end(trainer, module, None, None, 0)
    [words] = doctor.warnings
    assert "of 256 codes only about 9.0 are in use" in words


def test_a_model_that_learns_by_heart(composed: Compose) -> None:
    doctor = TrainingDoctor()
    module = SimpleNamespace(images_seen=1000, progress=0.1)
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[])
    for bits in (4.0, 3.5, 3.6, 3.9):
        trainer.callback_metrics = {"val/bits_per_dim": bits}
        doctor._examine_scores(trainer, module)
    [words] = doctor.warnings
    assert "3.9 bits per dimension after 3.5" in words


def test_each_ailment_is_told_once_and_to_every_logger_that_listens(composed: Compose) -> None:
    heard: list[list[str]] = []
    logger = SimpleNamespace(log_warnings=lambda warnings: heard.append(list(warnings)))
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[logger, object()])
    doctor, module = TrainingDoctor(), SimpleNamespace(images_seen=1000, progress=0.5)
    for missing in (2, 3):
        trainer.callback_metrics = {"val/missing_classes": missing, "val/diversity": 0.9}
        doctor._examine_scores(trainer, module)
    assert heard == [["after 1,000 images: " + doctor.warnings[0].removeprefix("after 1,000 images: ")]]
    assert "2 classes are missing" in heard[0][0]


@pytest.mark.parametrize("name", ["gan", "vae", "diffusion", "dcgan", "r3gan", "pixelcnn"])
def test_a_healthy_start_is_left_alone(composed: Compose, name: str) -> None:
    sizes = {"gan": GAN[3:], "vae": [], "pixelcnn": ["model.network.width=16"]}
    width = ["model.network.width=16"] + (["model.discriminator.width=16"] if "gan" in name else [])
    cfg = composed(f"model={name}", "run_dir=unused", "data.batch_size=32", *sizes.get(name, width))
    assert examine(cfg, num_images=6400) == []
