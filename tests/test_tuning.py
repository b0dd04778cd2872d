from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from imagegen.config import UserError, validate
from imagegen.tuning import TrialError, experiment, gather, open_study, report, retry_lost_trials, run_trial, suggest
from tests.forked import script

CONFIGS = Path(__file__).parents[1] / "configs"
REQUEST: dict[str, Any] = {
    "name": "study",
    "direction": "minimize",
    "metric": "val/fid",
    "storage": None,
    "seed": 0,
    "pruner": {"num_trials": 1, "num_images": 0},
    "train": ["model=vae"],
    "out": None,
}
# Logs val/fid as a run of train.py would, and then waits for minutes or ends with a status.
PROGRAM = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
rows = [f"{64 * (i + 1)},{value}\\n" for i, value in enumerate(sys.argv[3:])]
(folder / "metrics.csv").write_text("step,val/fid\\n" + "".join(rows))
print("the last word")
time.sleep(600) if sys.argv[2] == "wait" else sys.exit(int(sys.argv[2]))
"""


def command(folder: Path, end: str, *values: float) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(folder), end, *map(str, values)]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(REQUEST, tmp_path)


def test_the_best_value_of_a_trial_counts_and_each_is_reported(study: optuna.Study, tmp_path: Path) -> None:
    trial = study.ask()
    assert run_trial(trial, command(tmp_path / "a", "0", 30, 10, 20), tmp_path / "a", "val/fid") == 10
    assert study.trials[0].intermediate_values == {64: 30, 128: 10, 192: 20}


def test_a_trial_that_falls_behind_is_ended(study: optuna.Study, tmp_path: Path) -> None:
    first = study.ask()
    study.tell(first, run_trial(first, command(tmp_path / "a", "0", 10, 5), tmp_path / "a", "val/fid"))
    with pytest.raises(optuna.TrialPruned):
        run_trial(study.ask(), command(tmp_path / "b", "wait", 50, 40), tmp_path / "b", "val/fid")


def test_a_metric_that_no_run_has_ends_the_search_and_its_run_is_a_trial_of_the_next(
    study: optuna.Study, tmp_path: Path
) -> None:
    trial = study.ask()
    suggest(trial, "model.lr", {"low": 1e-4, "high": 1e-2})
    with pytest.raises(UserError, match="metric: val/typo is not among the metrics of the run in .*; they are val/fid"):
        run_trial(trial, command(tmp_path / "a", "0", 30, 10), tmp_path / "a", "val/typo")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    again = study.ask()
    assert suggest(again, "model.lr", {"low": 1e-4, "high": 1e-2}) == trial.params["model.lr"]
    assert again.user_attrs["folder"] == str(tmp_path / "a")
    assert run_trial(again, command(tmp_path / "a", "0", 30, 10), tmp_path / "a", "val/fid") == 10


def test_a_metric_that_some_runs_have_fails_only_the_others(study: optuna.Study, tmp_path: Path) -> None:
    first, second = study.ask(), study.ask()
    study.tell(first, run_trial(first, command(tmp_path / "a", "0", 10), tmp_path / "a", "val/fid"))
    with pytest.raises(TrialError, match="metric: val/typo is not among the metrics of the run"):
        run_trial(second, command(tmp_path / "b", "0", 10), tmp_path / "b", "val/typo")
    assert "they are val/fid" in study.trials[1].user_attrs["reason"]


def test_a_failing_trial_is_recorded_with_its_reason(study: optuna.Study, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="the last word"):
        run_trial(study.ask(), command(tmp_path / "a", "1", 10), tmp_path / "a", "val/fid")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "status.json").write_text('{"reason": "training diverged"}')
    with pytest.raises(TrialError, match="training diverged"):
        run_trial(study.ask(), command(tmp_path / "b", "1", 10), tmp_path / "b", "val/fid")
    assert [trial.user_attrs["reason"] for trial in study.trials] == ["the last word", "training diverged"]


@pytest.mark.parametrize("storage", [None, "study.journal"])
def test_a_study_whose_tuner_died_goes_on(tmp_path: Path, storage: str | None) -> None:
    request = REQUEST | {"storage": storage and str(tmp_path / storage)}
    study = open_study(request, tmp_path)
    lost, alive = study.ask(), study.ask()
    for trial, pid in ((lost, 2**22 - 1), (alive, 1)):
        suggest(trial, "model.lr", {"low": 1e-4, "high": 1e-2, "log": True})
        trial.set_user_attr("folder", str(tmp_path / f"trial_{trial.number}"))
        trial.set_user_attr("process", [os.uname().nodename, pid])
    again = open_study(request, tmp_path)
    retry_lost_trials(again)
    assert [trial.state.name for trial in again.trials] == ["FAIL", "RUNNING", "WAITING"]
    retried = again.ask()
    assert suggest(retried, "model.lr", {"low": 1e-4, "high": 1e-2, "log": True}) == lost.params["model.lr"]
    assert retried.user_attrs["folder"] == str(tmp_path / "trial_0"), "its run goes on from its checkpoint"


def test_domains(study: optuna.Study) -> None:
    trial = study.ask()
    assert suggest(trial, "a", {"values": [4, 8]}) in (4, 8)
    assert isinstance(suggest(trial, "b", {"low": 1, "high": 3}), int)
    assert 0.5 <= suggest(trial, "c", {"low": 0.5, "high": 3}) <= 3
    with pytest.raises(UserError, match="model.lr has neither values nor 'low'"):
        suggest(trial, "model.lr", {"high": 3})


def test_what_follows_two_dashes_is_for_train() -> None:
    assert gather(["search=vae", "--", "model=vae", "a=[1,2]"]) == ["search=vae", "train=['model=vae','a=[1,2]']"]
    assert gather(["num_trials=3"]) == ["num_trials=3"]


def compose_with(folder: Path, *overrides: str) -> DictConfig:
    """As train.py would, with the files of a folder beside those of configs/."""
    (folder / "experiment").mkdir(exist_ok=True)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=[*overrides, f"hydra.searchpath=[file://{folder}]"])


def test_best_values_become_an_experiment() -> None:
    overrides = ["model=vae", "data=shapes", "model.network.hidden=[16]", "run_dir=x", "resume=auto", "model.lr=2e-3"]
    text = experiment(overrides, "val/fid 10", CONFIGS)
    assert text.startswith("# @package _global_\n# val/fid 10\ndefaults:\n")
    found = OmegaConf.create(text)
    assert found.pop("defaults") == ["_self_", {"override /model": "vae"}, {"override /data": "shapes"}]
    assert found == {"model": {"network": {"hidden": [16]}, "lr": 2e-3}}


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=vae"],
        ["log_dir=/x", "optimized_metric=test/kid", "val_every_images=1000", "seed=3"],
        ["sampler@model.sampler=heun", "model.num_steps=3"],
        ["metrics/features=none", "model.lr=1e-05"],
        ["model=vae", "debug=default", "trainer.max_images=1000", "logger=tensorboard"],
        ["debug=default", "experiment=shapes_diffusion", "data=digits", "model.num_steps=3"],
        ["experiment=[shapes_diffusion,tutorial_vae]"],
        ["~logger", "~debug", "trainer={max_images: 1000}"],
        ["+model.more.words='some text'", "++trainer.max_time=00:00:10:00", "+model.new={a: 1}"],
        ["+sampler@model.other=heun"],
        ["model.lr=${seed}", "logger.wandb.tags=[a, '1']", "data.data_dir='1e-3'", "trainer.max_epochs=null"],
        ["network@model.network=dit", "model.optimizer.betas=[0.5,0.9]", "model.optimizer={weight_decay: 1}"],
    ],
)
def test_an_experiment_composes_what_its_overrides_do(tmp_path: Path, overrides: list[str]) -> None:
    expected = compose_with(tmp_path, *overrides)
    (tmp_path / "experiment" / "best.yaml").write_text(experiment(overrides, "val/fid 10", CONFIGS))
    assert compose_with(tmp_path, "experiment=best") == expected


def test_a_choice_for_hydra_is_in_an_experiment_too(tmp_path: Path) -> None:
    text = experiment(["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"], "val/fid 10", CONFIGS)
    compose_with(tmp_path)
    (tmp_path / "experiment" / "best.yaml").write_text(text)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = ["experiment=best", f"hydra.searchpath=[file://{tmp_path}]"]
        launcher = compose("train", overrides=overrides, return_hydra_config=True).hydra.launcher
    assert (launcher._target_.split(".")[-1], launcher.n_jobs) == ("JoblibLauncher", 3)


@pytest.mark.parametrize("override", ["~model.optimizer.fused", "model.optimizer.betas.0=0.5"])
def test_what_an_experiment_cannot_say_is_in_a_comment(tmp_path: Path, override: str) -> None:
    text = experiment(["model=vae", override, "model.lr=2e-3"], "val/fid 10", CONFIGS)
    lines = text.splitlines()
    assert lines[2] == f"# Only the command line can say this, after experiment=...: {override}"
    expected = compose_with(tmp_path, "model=vae", "model.lr=2e-3", override)
    (tmp_path / "experiment" / "best.yaml").write_text(text)
    assert compose_with(tmp_path, "experiment=best", override) == expected


def test_a_study_without_a_completed_trial_says_so(study: optuna.Study, tmp_path: Path) -> None:
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    with pytest.raises(UserError, match="no trial was completed"):
        report(study, REQUEST, tmp_path, CONFIGS)


@pytest.mark.parametrize("name", [path.stem for path in (CONFIGS / "search").glob("*.yaml")])
def test_what_is_searched_can_be_set(name: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        space = compose("tune", overrides=[f"search={name}", "name=x"]).space
        for end in ("low", "high"):
            values = {key: domain.get(end, domain.get("values", [0])[0]) for key, domain in space.items()}
            validate(
                compose("train", overrides=[f"model={name}", *(f"{key}={value}" for key, value in values.items())])
            )


def test_a_search_records_goes_on_and_leaves_an_experiment(tmp_path: Path) -> None:
    arguments = ["search=vae", "first=[{model.lr:1e-3},{model.lr:1e30}]", "out=best/found.yaml", "name=mine"]
    of_train = ["--", "model=vae", "debug=default", "model.network.hidden=[16]", "trainer.max_images=1000"]
    ended = script("tune.py", "num_trials=1", *arguments, *of_train, folder=tmp_path).wait()
    assert ended.returncode == 0, ended.output
    ended = script("tune.py", "num_trials=2", *arguments, *of_train, folder=tmp_path).wait()
    assert ended.returncode == 0, ended.output
    assert "1 complete, 1 fail" in ended.output
    assert "trial 1 failed: DivergenceError: training diverged" in ended.output
    folder = tmp_path / "logs" / "tune" / "mine"
    assert {"study.db", "history.png", "trial_0000", "trial_0001.log"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "trial_0000" / "status.json").read_text())["state"] == "finished"
    found = OmegaConf.load(tmp_path / "best" / "found.yaml")
    assert found.model.lr == 1e-3
    assert found.model.network.hidden == [16]
