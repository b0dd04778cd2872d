"""Every config composes, and every key of every node is a parameter of its target, in the same order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from imagegen.config import UserError, build, locate, validate

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
Compose = Callable[..., DictConfig]


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}")


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes_with_every_data_set(composed: Compose, model: str, data: str) -> None:
    cfg = composed(f"model={model}", f"data={data}")
    validate(cfg)
    assert OmegaConf.to_container(cfg.model.image_shape) == OmegaConf.to_container(cfg.data.image_shape)


@pytest.mark.parametrize(
    "group", ["trainer", "logger", "callbacks", "debug", "experiment", "metrics", "metrics/features"]
)
def test_every_option_composes(composed: Compose, group: str) -> None:
    for name in names(group):
        validate(composed(f"{group}={name}"))


PARTS = ["noise_schedule", "parameterization", "time_distribution", "weighting", "coupling", "sampler", "time_grid"]


@pytest.mark.parametrize("group", PARTS)
def test_every_part_of_a_diffusion_model_composes(composed: Compose, group: str) -> None:
    for name in names(group):  # with model=edm, whose sigma_max and sigma_data some parts share
        model = "diffusion" if group in ("noise_schedule", "parameterization") else "edm"
        build(composed(f"model={model}", f"{group}@model.{group}={name}", "run_dir=unused").model[group], group)
    if group == "sampler":
        for name in names(group):
            validate(composed("ckpt=some", f"sampler={name}", config_name="sample"))


@pytest.mark.parametrize("model", MODELS)
def test_keys_are_the_parameters_of_the_target_in_their_order(composed: Compose, model: str) -> None:
    cfg = composed(f"model={model}", "run_dir=somewhere")
    for path, node in nodes(OmegaConf.to_container(cfg, resolve=True)):
        keys = [key for key in node if key not in ("_target_", "_partial_")]
        parameters = list(inspect.signature(locate(node["_target_"], path)).parameters)
        if node["_target_"].startswith("imagegen.") and not path.startswith(".trainer"):
            known = [parameter for parameter in parameters if parameter in keys]
            # Defaults of a config group come before the keys of the file itself.
            own = [key for key in keys if not isinstance(node[key], dict)]
            assert own == [key for key in known if key in own], path
            assert set(keys) <= set(parameters), path


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.lr=abc", "model.lr"),
        ("model.lr=0", "model.lr"),
        ("model.num_steps=-1", "model.num_steps"),
        ("model.network.width=0", "model.network.width"),
        ("metrics.num_val_samples=0", "metrics.num_val_samples"),
        ("trainer.max_images=-5", "trainer.max_images"),
        ("+model.optimizer.nesterov=true", "model.optimizer.nesterov"),
        ("model._target_=os.system", "model._target_"),
        ("data.read._target_=pip.main", "data.read._target_"),
        ("data.batch_size=0", "data.batch_size"),
        ("run_dir=null data.name=???", "data.name"),
        ("model=gan model.num_discriminator_steps=0", "model.num_discriminator_steps"),
        ("model=cgan data.num_classes=null", "data.num_classes"),
        ("model=gan model.objective._target_=imagegen.objectives.adversarial.Hinje", "Hinje"),
        ("model=gan model.penalty._target_=imagegen.objectives.penalties.R3", "R3"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_key(composed: Compose, override: str, key: str) -> None:
    with pytest.raises(UserError) as error:
        validate(composed(*override.split()))
    assert key in str(error.value)
    assert "\n" not in str(error.value)
