"""Every model keeps the contract on every embedded data set: train, sample, save, reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import DictConfig

from imagegen.callbacks import BestAndLast, Budget, SampleGrid
from imagegen.checkpoint import restore
from imagegen.config import build, to_plain
from imagegen.models import GenerativeModel
from imagegen.trainer import Trainer

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml") if path.stem != "classifier")
EMBEDDED = ["digits", "shapes"]
Compose = Callable[..., DictConfig]

# Small networks: this is about the contract, quality has a test of its own.
SMALL = {
    **{name: ["model.network.width=16"] for name in ("diffusion", "edm")},
    **{name: ["model.network.width=8", "model.num_steps=4"] for name in ("flow_matching", "ddpm", "improved_ddpm")},
    "consistency": ["model.network.width=16"],
    "latent_diffusion": [
        "model.network.width=8",
        *(f"model.prior.{key}" for key in ("num_steps=2", "network.width=16", "network.num_blocks=1")),
    ],
    **{
        name: ["model.network.width=16", "model.network.num_blocks=2", "model.network.hidden=16"]
        for name in ("dit", "dit_moe")
    },
    "gan": ["model.network.hidden=[32]", "model.discriminator.hidden=[32]"],
    "cgan": ["model.network.hidden=[32]", "model.discriminator.hidden=[32]"],
    **{
        name: ["model.network.width=8", "model.discriminator.width=8"]
        for name in ("dcgan", "lsgan", "wgan", "wgan_gp", "sngan", "r3gan", "sagan", "biggan")
    },
    # a growth that is in the middle of a fade-in when half of the budget is used
    "progan": ["model.network.width=8", "model.discriminator.width=8", "model.growth.share=0.6"],
    **{name: ["model.network.hidden=[32]"] for name in ("vae", "beta_vae", "cvae", "denoising_vae", "iwae")},
    **{name: ["model.network.width=8"] for name in ("conv_vae", "hvae")},
    "vq_vae": ["model.network.width=8", "model.prior_network.network.width=16"],
    "gmm": ["model.network.num_components=4", "model.network.num_features=6"],
    **{name: ["model.network.width=16", "model.network.num_blocks=1"] for name in ("pixelcnn", "pixelsnail")},
    **{name: ["model.network.width=16", "model.network.num_layers=1"] for name in ("gated_pixelcnn", "pixelrnn")},
    "pixelcnn_pp": ["model.network.width=8"],
    "image_transformer": ["model.network.width=16", "model.network.num_blocks=1", "model.network.head_dim=8"],
}


def fit(cfg: DictConfig, folder: Path, num_images: int, **trainer_options: Any) -> tuple[GenerativeModel, Trainer]:
    lightning.seed_everything(0, verbose=False)
    model, data = build(cfg.model, "model"), build(cfg.data, "data")
    checkpoints = BestAndLast(dirpath=str(folder), monitor=None, mode="min")
    checkpoints.config = to_plain(cfg)
    budget = Budget(val_every_images=num_images, seed=0)
    options = {
        "accelerator": "cpu",
        "precision": "32-true",
        "devices": 1,
        "limit_val_batches": 1,
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    options |= quiet | trainer_options
    trainer = Trainer(max_images=num_images, callbacks=[budget, checkpoints], log_every_n_steps=1, **options)
    trainer.fit(model, data)
    return model, trainer


def small(composed: Compose, model: str, data: str) -> DictConfig:
    overrides = [f"model={model}", f"data={data}", "data.batch_size=16", "run_dir=unused", *SMALL.get(model, [])]
    if data == "shapes":
        overrides += ["data.read.num_train=64", "data.read.num_val=16", "data.read.num_test=16"]
    return composed(*overrides)


@pytest.mark.parametrize("data", EMBEDDED)
@pytest.mark.parametrize("name", MODELS)
def test_trains_samples_saves_and_reloads(composed: Compose, tmp_path: Path, name: str, data: str) -> None:
    cfg = small(composed, name, data)
    model, _ = fit(cfg, tmp_path, num_images=64)
    assert model.images_seen == 64

    images = model.sample(4, seed=7)
    assert images.shape == (4, *cfg.data.image_shape)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert not images[0].equal(images[1])

    reloaded, saved = restore(tmp_path / "best.ckpt")
    assert saved.model == cfg.model
    assert reloaded.images_seen == 64
    torch.testing.assert_close(reloaded.sample(4, seed=7), images)


@pytest.mark.parametrize("name", MODELS)
def test_the_image_of_a_seed_does_not_depend_on_its_batch(composed: Compose, tmp_path: Path, name: str) -> None:
    model, _ = fit(small(composed, name, "digits"), tmp_path, num_images=32)
    together = model.sample(5, seed=10)
    torch.testing.assert_close(model.sample(5, seed=10, batch_size=2), together, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.sample(2, seed=13), together[3:], atol=1e-4, rtol=0)
    assert not model.sample(5, seed=0).allclose(together, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_sampling_leaves_the_global_random_state_alone(composed: Compose, tmp_path: Path, name: str) -> None:
    model = build(small(composed, name, "digits").model, "model")
    before = torch.get_rng_state()
    model.sample(2)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("name", MODELS)
def test_the_averaged_weights_are_what_samples(composed: Compose, tmp_path: Path, name: str) -> None:
    model, _ = fit(small(composed, name, "digits"), tmp_path, num_images=128)
    trained, averaged = list(model.network.parameters()), list(model.ema.module.parameters())
    assert any(not a.equal(b) for a, b in zip(trained, averaged, strict=True))
    assert not any(parameter.requires_grad for parameter in averaged)

    before = model.sample(3)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    assert model.sample(3).equal(before)
    with torch.no_grad():
        for parameter in averaged:
            parameter.zero_()
    assert not model.sample(3).equal(before)


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_checked(composed: Compose, name: str) -> None:
    model = build(small(composed, name, "digits").model, "model")
    if model.num_classes is None:
        with pytest.raises(ValueError, match="without labels"):
            model.sample(2, labels=torch.tensor([0, 1]))
    else:
        assert model.sample(2, labels=torch.tensor([3, 3])).shape[0] == 2
        for bad in (-1, 10):
            with pytest.raises(ValueError, match=r"0\.\.9"):
                model.sample(2, labels=torch.tensor([0, bad]))


@pytest.mark.parametrize("name", MODELS)
def test_resuming_ends_where_the_uninterrupted_run_ends(composed: Compose, tmp_path: Path, name: str) -> None:
    cfg = small(composed, name, "digits")
    whole, _ = fit(cfg, tmp_path / "whole", num_images=192)

    class StopHalfway(lightning.Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModel, *_: object) -> None:
            if pl_module.images_seen == 96:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    lightning.seed_everything(0, verbose=False)
    options = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_images": 192, "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options |= {"limit_val_batches": 0}
    half = build(cfg.model, "model")
    budget = Budget(192, seed=0)
    Trainer(callbacks=[budget, StopHalfway()], **options).fit(half, build(cfg.data, "data"))
    assert half.images_seen == 96

    lightning.seed_everything(123, verbose=False)
    resumed = build(cfg.model, "model")
    pictures = SampleGrid(str(tmp_path), num_samples=2, seed=0, first_seconds=1e-9)  # drawing changes nothing
    Trainer(callbacks=[Budget(192, seed=0), pictures], **options).fit(
        resumed, build(cfg.data, "data"), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert resumed.images_seen == 192
    assert list(tmp_path.glob("samples_*.png"))
    for key, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[key]), key
