"""The short way through a step leaves everything as Lightning's own loop would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig

from imagegen.callbacks import Budget
from imagegen.config import build
from imagegen.epoch_loop import HOOKS, EpochLoop
from imagegen.trainer import Trainer

Compose = Callable[..., DictConfig]
SMALL = {
    "vae": ["model=vae", "model.network.hidden=[8]"],
    "gan": ["model=gan", "model.network.hidden=[8]", "model.discriminator.hidden=[8]"],
}


class Witness(lightning.Callback):
    """Notes every hook of a step with what Lightning's counters, the logs and the outputs were."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.short_steps = 0

    def note(self, hook: str, trainer: Trainer, module: Any, *arguments: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        self.short_steps += hook == "on_train_batch_end" and loop._step is not None
        numbers = [float(torch.as_tensor(x).detach()) for x in arguments if isinstance(x, int | torch.Tensor)]
        if arguments and isinstance(arguments[0], dict):  # outputs
            numbers += [float(x) for x in arguments[0].values()]
        counters = trainer.fit_loop.state_dict() | {"global_step": trainer.global_step}
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.seen.append((hook, module.images_seen, numbers, counters, logged))
        if hook in ("on_train_batch_start", "on_train_batch_end"):
            module.log(f"train/{hook}", float(module.images_seen), logger=False)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.note("on_validation_end", trainer, module)


for name in HOOKS:
    setattr(Witness, name, lambda self, *arguments, name=name: self.note(name, *arguments))


def fit(cfg: DictConfig, *callbacks: lightning.Callback, resume: Path | None = None, **options: Any) -> Any:
    lightning.seed_everything(0, verbose=False)
    settings = {"max_images": 1344, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "num_sanity_val_steps": 0} | options
    precision = settings.pop("precision", "32-true")
    trainer = Trainer("cpu", precision, devices=1, callbacks=[Budget(500, seed=0), *callbacks], **settings)
    trainer.fit(build(cfg.model, "model"), build(cfg.data, "data"), ckpt_path=resume, weights_only=True)
    return trainer


@pytest.fixture(params=SMALL)
def cfg(request: pytest.FixtureRequest, composed: Compose) -> DictConfig:
    return composed(*SMALL[request.param], "data.batch_size=64", "run_dir=unused")  # 18 steps an epoch, 21 in all


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_short_way_does_what_lightning_does(
    cfg: DictConfig, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = Witness(), Witness()
    ours = fit(cfg, short, precision=precision)
    monkeypatch.setattr(EpochLoop, "_is_usual", lambda self: False)
    theirs = fit(cfg, long, precision=precision)
    assert (short.short_steps, long.short_steps) == (21, 0)
    assert short.seen == long.seen
    assert [note[0] for note in short.seen].count("on_validation_end") == 3
    assert ours.fit_loop.state_dict() == theirs.fit_loop.state_dict()
    for key, value in theirs.lightning_module.state_dict().items():
        assert value.equal(ours.lightning_module.state_dict()[key]), key


def test_a_run_resumed_from_any_step_ends_the_same(cfg: DictConfig, tmp_path: Path) -> None:
    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: object) -> None:
            trainer.save_checkpoint(tmp_path / f"step-{module.images_seen // 64}.ckpt")

        def on_validation_end(self, trainer: Trainer, module: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"validation-{module.images_seen // 64}.ckpt")

    whole = fit(cfg, Save()).lightning_module.state_dict()
    # in an epoch, before, at and after its end, around a validation
    for name in ("step-2", "step-8", "validation-8", "step-17", "step-18", "step-19", "step-20"):
        resumed = fit(cfg, resume=tmp_path / f"{name}.ckpt").lightning_module
        assert resumed.images_seen == 1344
        for key, value in whole.items():
            assert value.equal(resumed.state_dict()[key]), (name, key)


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}, {"max_steps": 3}, {"profiler": "simple"}],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_usual_goes_lightnings_way(composed: Compose, options: dict[str, Any]) -> None:
    witness = Witness()
    fit(composed(*SMALL["vae"], "data.batch_size=64", "run_dir=unused"), witness, max_images=320, **options)
    assert witness.seen
    assert witness.short_steps == 0


def test_an_answer_of_minus_one_ends_the_epoch(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagegen.models import VAE

    start = VAE.on_train_batch_start

    def skip(self: VAE, batch: Any, batch_idx: int) -> int | None:
        start(self, batch, batch_idx)
        return -1 if batch_idx == 3 else None

    monkeypatch.setattr(VAE, "on_train_batch_start", skip)
    cfg = composed(*SMALL["vae"], "data.batch_size=64", "run_dir=unused")
    ours = fit(cfg, max_epochs=2, max_images=None)
    monkeypatch.setattr(EpochLoop, "_is_usual", lambda self: False)
    theirs = fit(cfg, max_epochs=2, max_images=None)
    assert ours.lightning_module.images_seen == 2 * 3 * 64
    assert ours.fit_loop.state_dict() == theirs.fit_loop.state_dict()
