from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

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


def test_a_failing_trial_is_recorded_with_its_reason(study: optuna.Study, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="the last word"):
        run_trial(study.ask(), command(tmp_path / "a", "1", 10), tmp_path / "a", "val/fid")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "status.json").write_text('{"reason": "training diverged"}')
    with pytest.raises(TrialError, match="training diverged"):
        run_trial(study.ask(), command(tmp_path / "b", "1", 10), tmp_path / "b", "val/fid")
    assert [trial.user_attrs["reason"] for trial in study.trials] == ["the last word", "training diverged"]
    with pytest.raises(TrialError):
        run_trial(study.ask(), command(tmp_path / "c", "0"), tmp_path / "c", "val/fid")


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


def test_best_values_become_an_experiment() -> None:
    text = experiment(["model=vae", "data=shapes", "model.network.hidden=[16]"], {"model.lr": 2e-3}, "val/fid 10")
    assert text.startswith("# @package _global_\n# val/fid 10\n")
    assert OmegaConf.create(text).defaults == [{"override /model": "vae"}, {"override /data": "shapes"}]
    assert OmegaConf.create(text).model == {"network": {"hidden": [16]}, "lr": 2e-3}


def test_a_study_without_a_completed_trial_says_so(study: optuna.Study, tmp_path: Path) -> None:
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    with pytest.raises(UserError, match="no trial was completed"):
        report(study, REQUEST, tmp_path)


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
