from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from imagegen.config import validate
from imagegen.sweep import sweep_table
from tests.forked import Ended, script

ROOT = Path(__file__).parents[1]
SMALL = ["model=vae", "model.network.hidden=[16]", "debug=default"]


def test_the_table_shows_what_differs() -> None:
    jobs = [
        {"overrides": ["model=vae", "a=1"], "state": "finished", "score": 12.345, "reason": None, "run": "x/1"},
        {"overrides": ["model=vae", "a=2"], "state": "failed", "score": None, "reason": "why", "run": None},
    ]
    lines = sweep_table(jobs, "test/fid").splitlines()
    assert lines[2] == "| 0 | a=1 | finished | 12.35 | x/1 |"
    assert lines[3] == "| 1 | a=2 | failed |  | why (no folder) |"


@pytest.mark.parametrize(
    "launcher", [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=submitit_local"]]
)
def test_jobs_of_a_launcher(fresh_script: Callable[..., Ended], tmp_path: Path, launcher: list[str]) -> None:
    """In a fresh interpreter: in a forked process joblib's workers do not start."""
    ended = fresh_script("train.py", "--multirun", *SMALL, "seed=0,1", "run_dir=sweep", *launcher)
    assert ended.returncode == 0, ended.stderr
    assert "| 0 | seed=0 | finished |" in ended.stdout
    assert "| 1 | seed=1 | finished |" in ended.stdout
    folders = sorted((tmp_path / "sweep").iterdir())
    assert [folder.name.split("seed=")[1][0] for folder in folders] == ["0", "1"]
    assert all(json.loads((folder / "scores.json").read_text())["test/fid"] > 0 for folder in folders)


def test_two_processes_in_a_sweep_train_on_the_values_of_their_job(tmp_path: Path) -> None:
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_images=1000"]
    arguments = ["--multirun", *SMALL, *ddp, "model.latent_dim=2,4", "run_dir=sweep"]
    ended = script("train.py", *arguments, folder=tmp_path).wait()
    assert ended.returncode == 0, ended.output  # different values would be refused: see test_processes.py
    assert ended.output.count("| finished |") == 2


def test_the_file_for_wandb_names_what_can_be_set() -> None:
    sweep = yaml.safe_load((ROOT / "configs" / "wandb_sweep.yaml").read_text())
    fixed = [text for text in sweep["command"] if "=" in text]
    for end in ("min", "max"):
        chosen = {key: domain.get(end, domain.get("values", [0])[0]) for key, domain in sweep["parameters"].items()}
        assert all(isinstance(value, int | float) for value in chosen.values())
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("train", overrides=[*fixed, *(f"{key}={value}" for key, value in chosen.items())])
        validate(cfg)
    assert (ROOT / sweep["program"]).is_file()


@pytest.mark.parametrize("override", ["logger=tensorboard", "logger=mlflow", "trainer=fsdp"])
def test_other_loggers_and_strategies_are_a_word(override: str) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        validate(compose("train", overrides=[override]))


def test_slurm_is_a_word() -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
    assert cfg.hydra.launcher.max_num_timeout > 0, "a job whose time is up goes on"
