"""A step that would spoil the weights is left out; too many end the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig

from imagegen.callbacks import Budget, TrainingDoctor
from imagegen.config import build
from imagegen.models import DivergenceError
from imagegen.trainer import Trainer

Compose = Callable[..., DictConfig]
SMALL = {
    "vae": ["model.network.hidden=[16]"],
    "gan": ["model.network.hidden=[16]", "model.discriminator.hidden=[16]"],
    "sngan": ["model.network.width=8", "model.discriminator.width=8"],
    "diffusion": ["model.network.width=16"],
}


class Spoil(lightning.Callback):
    """Makes the loss or, behind its back, one gradient no number in some steps."""

    def __init__(self, steps: set[int], what: str) -> None:
        self.steps, self.what, self.calls = steps, what, 0
        self.before: list[torch.Tensor] = []
        self.moved: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        self.before = [parameter.detach().clone() for parameter in pl_module.parameters() if parameter.requires_grad]

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        if self.what == "loss" and trainer.fit_loop.batch_idx in self.steps:
            loss.data.fill_(math.nan)

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if self.what == "gradients" and trainer.fit_loop.batch_idx in self.steps:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(math.inf)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        now = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        self.moved.append(any(not a.equal(b) for a, b in zip(self.before, now, strict=True)))


def fit(cfg: DictConfig, *callbacks: lightning.Callback) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    lightning.seed_everything(0, verbose=False)
    model = build(cfg.model, "model")
    budget = Budget(10**6, seed=0)
    trainer = Trainer("cpu", "32-true", max_images=480, callbacks=[budget, *callbacks], log_every_n_steps=2, **quiet)
    trainer.fit(model, build(cfg.data, "data"))
    return model


@pytest.mark.parametrize("what", ["loss", "gradients"])
@pytest.mark.parametrize("name", SMALL)
def test_bad_steps_are_left_out(composed: Compose, name: str, what: str) -> None:
    cfg = composed(f"model={name}", *SMALL[name], "data.batch_size=16", "run_dir=unused")
    spoil, doctor = Spoil({3, 4, 11}, what), TrainingDoctor()
    model = fit(cfg, spoil, doctor)
    bad = {step for step, moved in enumerate(spoil.moved) if not moved}
    assert bad - {0} == {3, 4, 11}, "the first step may have the learning rate 0"
    assert model.num_bad_steps == 3 * (2 if "gan" in name else 1)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(map(math.isfinite, model.train_means.values()))
    assert any("was left out" in text for text in doctor.warnings)


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_too_many_bad_steps_end_the_training(composed: Compose, name: str) -> None:
    cfg = composed(f"model={name}", *SMALL[name], "data.batch_size=16", "run_dir=unused")
    with pytest.raises(DivergenceError, match=r"diverged after \d+ images: 11 steps.*last losses: train/.*model\.lr"):
        fit(cfg, Spoil(set(range(5, 100)), "loss"))


def test_bad_steps_before_a_stop_count_after_it(composed: Compose) -> None:
    cfg = composed("model=vae", *SMALL["vae"], "data.batch_size=16", "run_dir=unused")
    first, second = fit(cfg, Spoil({27, 28, 29}, "loss")), build(cfg.model, "model")
    checkpoint: dict[str, Any] = {}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    assert second.num_bad_steps == 3
    assert second._num_bad_in_a_row == first._num_bad_in_a_row == 3
