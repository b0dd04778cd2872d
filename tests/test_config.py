from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from imagegen.config import UserError, build, locate, share_config_store, to_plain, validate
from imagegen.models import VAE
from imagegen.networks.mlp import MLPGenerator
from imagegen.objectives.lr_schedules import cosine

GENERATOR = {
    "_target_": "imagegen.networks.mlp.MLPGenerator",
    "image_shape": [1, 8, 8],
    "latent_dim": 4,
    "hidden": [16, 8],
}
MODEL = {
    "_target_": "imagegen.models.VAE",
    "network": {
        "_target_": "imagegen.networks.autoencoder.MLPAutoencoder",
        "image_shape": "${model.image_shape}",
        "latent_dim": "${model.latent_dim}",
        "hidden": [16],
    },
    "image_shape": [1, 8, 8],
    "latent_dim": 4,
    "likelihood": {"_target_": "imagegen.objectives.likelihoods.DiscretizedLogistic"},
    "num_classes": None,
    "beta": 1.0,
    "free_bits": 0.0,
    "input_noise": 0.0,
    "num_train_samples": 1,
    "lr": 1e-3,
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.99]},
    "lr_schedule": {"_target_": "imagegen.objectives.lr_schedules.cosine", "_partial_": True, "warmup": 0.1},
    "ema_half_life": 1000,
}


def config(**changes: Any) -> DictConfig:
    """A valid config of a model, with changes by dotted key."""
    cfg = OmegaConf.create({"model": MODEL})
    for key, value in changes.items():
        OmegaConf.update(cfg, "model." + key.replace("__", "."), value)
    return cfg


def refusal(cfg: DictConfig) -> str:
    with pytest.raises(UserError) as error:
        validate(cfg)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_valid_config_is_built() -> None:
    cfg = config()
    validate(cfg)
    model = build(cfg.model, "model")
    assert isinstance(model, VAE)
    assert model.image_shape == (1, 8, 8)
    assert (model.latent_dim, model.lr) == (4, 1e-3)
    assert model.lr_schedule(0.05) == cosine(0.05, warmup=0.1)
    assert type(model.lr_schedule) is functools.partial  # Hydra's own kind checks its target anew in each step
    optimizer = model.optimizer(model.network.parameters(), lr=1.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.9, 0.99)


def test_validation_changes_nothing() -> None:
    cfg = config()
    cfg.run_dir = None
    before = OmegaConf.to_yaml(cfg)
    validate(cfg)
    assert OmegaConf.to_yaml(cfg) == before


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("learning_rate", "ema_half_life"),
        ("network__layers", "hidden"),
        ("likelihood__scale", ""),
        ("optimizer__learning_rate", "betas"),
        ("lr_schedule__warm_up", "warmup"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones(key: str, known: str) -> None:
    message = refusal(config(**{key: 0.1}))
    assert message.startswith("model." + key.replace("__", ".") + ": ")
    assert "has no such key" in message
    assert known in message


@pytest.mark.parametrize("key", ["lr", "network.hidden", "likelihood", "ema_half_life"])
def test_an_absent_key_is_refused(key: str) -> None:
    cfg = config()
    parent, _, name = f"model.{key}".rpartition(".")
    del OmegaConf.select(cfg, parent)[name]
    message = refusal(cfg)
    assert message.startswith(f"{parent}: ")
    assert message.endswith(f"also needs {name}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", "abc"),
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", None),
        ("lr", [1e-3]),
        ("lr", float("nan")),
        ("beta", -0.1),
        ("ema_half_life", 0),
        ("network__latent_dim", "wide"),
        ("network__latent_dim", 0),
        ("network__latent_dim", -4),
        ("network__latent_dim", 2.5),
        ("network__latent_dim", None),
        ("network__image_shape", 8),
        ("network__image_shape", ["one", 8, 8]),
        ("network__hidden", [16, 0]),
        ("network__hidden", 16),
        ("network__hidden", "16"),
        ("lr_schedule__warmup", "soon"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: Any) -> None:
    message = refusal(config(**{key: value}))
    assert f"model.{key.replace('__', '.')}: " in message
    assert repr(value) in message


@pytest.mark.parametrize(("key", "value"), [("latent_dim", 0), ("image_shape", 8)])
def test_a_bad_value_is_named_by_its_own_key_if_others_refer_to_it(key: str, value: Any) -> None:
    assert f"model.{key}: " in refusal(config(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("lr", "0.1"), ("latent_dim", "4"), ("latent_dim", True)])
def test_numbers_in_quotes_and_truth_values_are_no_numbers(key: str, value: Any) -> None:
    assert f"model.{key}: " in refusal(config(**{key: value}))


def test_values_left_open_are_all_named() -> None:
    message = refusal(config(lr="???", beta="???"))
    assert "model.lr" in message
    assert "model.beta" in message


def test_a_value_left_open_is_named_if_others_refer_to_it() -> None:
    assert "model.latent_dim" in refusal(config(latent_dim="???"))


def test_a_reference_to_nothing_is_refused() -> None:
    assert "no_such_key" in refusal(config(lr="${no_such_key}"))


def test_a_run_folder_that_does_not_exist_yet_is_no_missing_value() -> None:
    cfg = config()
    cfg.run_dir = None
    cfg.folder = {"_target_": "imagegen.callbacks.SampleGrid", "dirpath": "${run_dir}/a", "num_samples": 1, "seed": 0}
    validate(cfg)


@pytest.mark.parametrize("place", ["model", "model.network", "model.optimizer", "other", "things[1]"])
@pytest.mark.parametrize("target", ["os.system", "pip.main", "builtins.open", "builtins.eval", "joblib.load"])
def test_foreign_targets_are_refused_wherever_they_stand(target: str, place: str) -> None:
    cfg = config()
    cfg.other, cfg.things = {"a": 1}, [1, {"a": 1}]
    OmegaConf.select(cfg, place)["_target_"] = target
    message = refusal(cfg)
    assert message.startswith(f"{place}._target_: {target} is not allowed")


@pytest.mark.parametrize(
    "target",
    [
        "imagegen.models.gan.torch.load",
        "imagegen.run.os.system",
        "imagegen.data.mnist.Path.write_text",
        "imagegen.models.base.torch.os.system",
        "lightning.pytorch.trainer.trainer.os.system",
        "torch.optim.swa_utils.itertools.chain",
        "imagegen.models.gan",  # a module
        "imagegen.models",
        "imagegen.config.build",
        "imagegen_evil.models.GAN",
        "torch.load",
        "",
        "system",
    ],
)
def test_roundabout_targets_are_refused(target: str) -> None:
    with pytest.raises(UserError, match="is not allowed") as error:
        locate(target, "model")
    assert str(error.value).startswith("model._target_: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "target",
    [
        "imagegen.models.VAE.load_from_checkpoint",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        "lightning.pytorch.cli.instantiate_class",
        "lightning.pytorch.core.saving._load_from_checkpoint",
    ],
)
def test_targets_that_call_or_unpickle_anything_are_refused(target: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        locate(target, "model")


@pytest.mark.parametrize("target", [5, 1.5, None, ["os.system"], {"a": 1}])
def test_a_target_that_is_no_name_is_refused(target: Any) -> None:
    message = refusal(OmegaConf.create({"model": {"_target_": target}}))
    assert message.startswith("model._target_: ")


@pytest.mark.parametrize("target", ["imagegen.models.NoSuchModel", "imagegen.models.no_such_file.GAN", "torch.optim."])
def test_a_target_that_does_not_exist_is_refused(target: str) -> None:
    with pytest.raises(UserError, match="cannot import") as error:
        locate(target, "model")
    assert str(error.value).startswith(f"model._target_: cannot import {target}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "target",
    [
        "imagegen.models.GAN",
        "imagegen.data.digits.read",
        "imagegen.objectives.samplers.heun",
        "torch.optim.AdamW",
        "lightning.pytorch.loggers.CSVLogger",
    ],
)
def test_targets_of_the_project_are_found(target: str) -> None:
    assert locate(target, "x").__name__ == target.rpartition(".")[2]


def test_nothing_is_called_by_validation() -> None:
    # The sizes are valid for the type, and only the constructor knows that they are not for the network.
    odd = {"_target_": "imagegen.networks.unet.UNet", "image_shape": [1, 9, 9], "num_classes": None}
    validate(OmegaConf.create({"model": {"network": odd}}))


def test_build_refuses_what_validate_refuses() -> None:
    for node in ({"_target_": "os.system", "command": "true"}, GENERATOR | {"latent_dim": 0}, GENERATOR | {"x": 1}):
        with pytest.raises(UserError, match="network"):
            build(OmegaConf.create(node), "network")


def test_build_takes_objects_that_a_config_cannot_hold() -> None:
    node = OmegaConf.create({key: value for key, value in GENERATOR.items() if key != "hidden"})
    with pytest.raises(UserError, match="also needs hidden"):
        build(node, "network")
    assert isinstance(build(node, "network", hidden=[3]), MLPGenerator)


def test_build_passes_plain_lists() -> None:
    network = MODEL["network"] | {"image_shape": [1, 8, 8], "latent_dim": 4}  # type: ignore[operator]
    model = build(OmegaConf.create(MODEL | {"network": network}), "model")
    assert type(model.image_shape) is tuple
    assert type(model.optimizer.keywords["betas"]) is list


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # ValueError of ours, two levels down
        ({"network": {"_target_": "imagegen.networks.unet.UNet", "image_shape": [1, 17, 17]}}, "17x17 must divide"),
        # ValueError of PyTorch
        ({"network": {"_target_": "torch.optim.Adam", "params": []}}, "empty parameter list"),
        # TypeError of PyTorch
        ({"network": {"_target_": "torch.optim.SGD", "params": 3, "lr": 0.1}}, "object is not iterable"),
    ],
)
def test_what_a_constructor_refuses_is_one_line(changes: dict[str, Any], words: str) -> None:
    cfg = OmegaConf.create({"model": MODEL | changes})
    validate(cfg)
    with pytest.raises(UserError) as error:
        build(cfg.model, "model")
    message = str(error.value)
    assert message.startswith("model: ")
    assert words in message
    assert len(message.splitlines()) == 1


def test_plain_configs_hold_no_references() -> None:
    plain = to_plain(config())
    assert type(plain) is dict
    assert type(plain["model"]["network"]["image_shape"]) is list
    assert plain["model"]["network"]["latent_dim"] == 4


def test_the_shared_store_is_not_copied_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConfigStore, "__deepcopy__", None, raising=False)  # taken away again afterwards
    share_config_store()
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    with initialize_config_dir(str(Path(__file__).parents[1] / "configs"), version_base="1.3"):
        compose("train")  # brings in the configs of Hydra's plugins
        before = repr(store.repo)
        cfg = compose("train", overrides=["hydra.verbose=true", "hydra.job.name=other"], return_hydra_config=True)
    assert cfg.hydra.job.name == "other"
    assert repr(store.repo) == before
