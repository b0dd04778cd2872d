"""`resume=`: from which checkpoint a run goes on, in which folder, and with which config."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from imagegen.config import UserError
from imagegen.json_files import read_json

# Groups of configs/train.yaml in which a run may have chosen another file than the default.
GROUPS = ("model", "data", "metrics", "metrics/features", "callbacks", "logger", "trainer", "experiment", "debug")
WHOLE_CONFIG = ("experiment", "debug")  # groups that change values everywhere
MAX_NAME = 100
OF_THIS_START = ("resume", "run_dir", "log_dir", "dry")


class Start(NamedTuple):
    """How a run begins: anew, or from a checkpoint."""

    cfg: DictConfig
    choices: dict[str, Any]  # group -> file
    overrides: list[str]  # of the run so far
    checkpoint: Path | None = None
    images_seen: int = 0
    in_place: bool = False  # go on in the folder that the run already has
    scores: dict[str, Any] | None = None  # of a run that is found finished

    def origin(self) -> dict[str, Any]:
        """What a checkpoint has to hold so that the run can go on without its command line."""
        config = OmegaConf.to_container(self.cfg, resolve=False)
        return {"config": config, "choices": self.choices, "overrides": self.overrides}


def complete(arguments: Sequence[str]) -> list[str]:
    """Add the model, data and so on of the run that `resume=` names, so that values of theirs may be overridden."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folder = Path(given.get("resume", "auto"))
    if folder.parent.name == "checkpoints":
        folder = folder.parents[1]  # of a checkpoint
    overrides = read_json(folder / "status.json").get("overrides", [])
    return [*(text for text in overrides if _key(text) in GROUPS and _key(text) not in given), *arguments]


def _key(override: str) -> str:
    return override.split("=")[0]


def start(cfg: DictConfig) -> Start:
    """What the composed config asks for by `resume` and `run_dir`. Raises UserError.

    In a sweep `run_dir` is the folder of all jobs, each in one named by its overrides, so that the same command goes on
    where it was stopped.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.run_dir is not None:
        cfg.run_dir, cfg.resume = str(Path(cfg.run_dir) / _job_name()), "auto"
    choices = {key: value for key, value in HydraConfig.get().runtime.choices.items() if not key.startswith("hydra/")}
    overrides = [text for text in HydraConfig.get().overrides.task if _key(text) not in OF_THIS_START]
    fresh = Start(cfg, choices, overrides)
    if cfg.resume is None:
        return fresh
    if cfg.resume == "auto":
        return _again(fresh)
    return _further(fresh)


def arguments(cfg: DictConfig) -> list[str]:
    """The overrides of this job alone: with them the other processes of a run are started, in a sweep too."""
    overrides = list(HydraConfig.get().overrides.task)
    if HydraConfig.get().mode != RunMode.MULTIRUN or cfg.resume != "auto":
        return overrides
    own = [text for text in overrides if _key(text) not in ("run_dir", "resume")]
    return [*own, f"run_dir='{cfg.run_dir}'", "resume=auto"]


def _job_name() -> str:
    """The overrides of a job as a file name."""
    words = [text for text in HydraConfig.get().overrides.task if _key(text) not in OF_THIS_START]
    name = re.sub(r"[^\w.=,+-]", "_", ",".join(words)) or "job"
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _again(fresh: Start) -> Start:
    """The same command once more: go on if the folder has a checkpoint."""
    from imagegen.checkpoint import check_resumable, newest_checkpoint

    if fresh.cfg.run_dir is None:
        raise UserError("resume: auto needs a folder that stays the same; give one with run_dir=")
    folder = Path(fresh.cfg.run_dir)
    if "LOCAL_RANK" not in os.environ and read_json(folder / "status.json").get("state") == "finished":
        print(f"{folder} is finished already")
        return fresh._replace(scores=read_json(folder / "scores.json"))
    found = newest_checkpoint(folder)
    if found is None:
        return fresh._replace(in_place=(folder / "status.json").is_file())
    path, checkpoint = found
    check_resumable(path, checkpoint, fresh.cfg)
    return fresh._replace(checkpoint=path, images_seen=checkpoint["images_seen"], in_place=True)


def _further(fresh: Start) -> Start:
    """A run that is known by its folder or checkpoint alone; what the command line says besides is changed."""
    from imagegen.checkpoint import check_resumable, newest_checkpoint

    given = Path(fresh.cfg.resume)
    found = newest_checkpoint(given)
    if found is None:
        raise UserError(f"resume: {given} is no run folder with a checkpoint, and no checkpoint")
    path, checkpoint = found
    origin = checkpoint.get("origin") or {"config": checkpoint["config"], "choices": {}, "overrides": []}
    cfg = OmegaConf.create(origin["config"])
    _apply(cfg, fresh.cfg, origin["choices"])
    folder = given if given.is_dir() else None
    if folder is None and path.parent.name == "checkpoints" and (path.parents[1] / "status.json").is_file():
        folder = path.parents[1]
    in_place = fresh.cfg.run_dir is None and folder is not None
    cfg.run_dir = str(folder) if in_place else fresh.cfg.run_dir
    check_resumable(path, checkpoint, cfg)
    overrides = list({_key(text): text for text in [*origin["overrides"], *fresh.overrides]}.values())
    choices = fresh.choices | origin["choices"]
    return Start(cfg, choices, overrides, path, checkpoint["images_seen"], in_place)


def _apply(cfg: DictConfig, composed: DictConfig, choices: dict[str, Any]) -> None:
    """Change the config of a run by the overrides on the command line, which have made `composed` of the defaults."""
    cfg.resume = composed.resume
    groups = HydraConfig.get().runtime.choices
    for override in OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task)):
        key = override.key_or_group
        if override.package is not None or key in groups:
            choice = key if override.package is None else f"{key}@{override.package}"
            if choices.get(choice) == groups.get(choice):
                continue
            if key in WHOLE_CONFIG:
                raise UserError(f"resume: {key}={groups[key]} cannot be added to a run; give its values one by one")
            place = override.package or key.replace("/", ".")
            OmegaConf.update(cfg, place, OmegaConf.select(composed, place), merge=False, force_add=True)
        elif override.is_delete():
            parent, _, name = key.rpartition(".")
            with open_dict(cfg):
                (OmegaConf.select(cfg, parent) if parent else cfg).pop(name, None)
        else:
            OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)
