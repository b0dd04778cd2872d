"""What `tune.py` does: a search by Optuna in which each trial is a run of `train.py` in a process of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from imagegen.config import UserError, to_plain
from imagegen.json_files import read_json
from imagegen.resume import WHOLE_CONFIG
from imagegen.stop_signals import STOP

if TYPE_CHECKING:
    import optuna

INTERVAL = 0.5  # seconds between looks at a trial
OF_EACH_TRIAL = ("run_dir", "resume")  # what `tune` says to train.py
MAX_NAMES = 8  # of metrics, in a message


class TrialError(RuntimeError):
    """The run of a trial has failed."""


def gather(arguments: Sequence[str]) -> list[str]:
    """Turn the overrides that follow `--` into the value of `train`."""
    if "--" not in arguments:
        return list(arguments)
    place = list(arguments).index("--")
    quoted = ["'" + text.replace("'", "\\'") + "'" for text in arguments[place + 1 :]]
    return [*arguments[:place], f"train=[{','.join(quoted)}]"]


def tune(cfg: DictConfig, script: Path) -> None:
    """Search until the study has `num_trials`; write its best values and its plots. Raises UserError."""
    request = to_plain(cfg)
    folder = Path(request["log_dir"]) / "tune" / request["name"]
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(request, folder)
    retry_lost_trials(study)
    if not study.trials:
        for values in request["first"]:
            study.enqueue_trial(values)
    for trial in study.trials:
        print(f"trial {trial.number}: {trial.state.name.lower()}")
    num_left = request["num_trials"] - sum(_counts(trial) for trial in study.trials)

    def objective(trial: optuna.Trial) -> float:
        values = {key: suggest(trial, key, domain) for key, domain in request["space"].items()}
        place = trial.user_attrs.get("folder") or str(folder / f"trial_{trial.number:04d}")
        trial.set_user_attr("folder", place)
        trial.set_user_attr("process", _process())
        command = [sys.executable, str(script), *overrides(request, values), f"run_dir={place}", "resume=auto"]
        return run_trial(trial, command, Path(place), request["metric"])

    with STOP:
        if num_left > 0:
            study.optimize(objective, n_trials=num_left, n_jobs=request["num_jobs"], catch=(TrialError,))
    report(study, request, folder, script.with_name("configs"))


def overrides(request: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What a trial with these values says to train.py."""
    return [*request["train"], *(f"{key}={value}" for key, value in values.items())]


def open_study(request: dict[str, Any], folder: Path) -> optuna.Study:
    """The study in its storage, begun or gone on with. Raises UserError."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UserError('tune.py needs Optuna: pip install -e ".[sweep]"') from None

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = request["storage"] or f"sqlite:///{folder / 'study.db'}"
    storage = where if "://" in where else optuna.storages.JournalStorage(JournalFileBackend(where))
    pruner = optuna.pruners.MedianPruner(request["pruner"]["num_trials"], request["pruner"]["num_images"])
    study = optuna.create_study(
        study_name=request["name"],
        storage=storage,
        direction=request["direction"],
        pruner=pruner,
        load_if_exists=True,
    )
    # Another seed for each start, or the second would suggest what the first has tried.
    study.sampler = optuna.samplers.TPESampler(seed=request["seed"] + len(study.trials))
    return study


def suggest(trial: optuna.Trial, key: str, domain: dict[str, Any]) -> Any:
    """A value for a key: one of `values`, or between `low` and `high`, whole numbers if both are. Raises UserError."""
    if "values" in domain:
        return trial.suggest_categorical(key, domain["values"])
    try:
        low, high, is_log = domain["low"], domain["high"], bool(domain.get("log"))
    except KeyError as error:
        raise UserError(f"search: {key} has neither values nor {error}") from None
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=is_log)
    return trial.suggest_float(key, low, high, log=is_log)


def run_trial(trial: optuna.Trial, command: Sequence[str], folder: Path, metric: str) -> float:
    """The best value of the metric that a command logs to `<folder>/metrics.csv`.

    What it prints goes to `<folder>.log`. Raises TrialPruned if the trial falls behind, TrialError if it fails, and
    UserError if it logs no such metric, and no trial has.
    """
    from optuna import TrialPruned

    values: dict[int, float] = {}
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        is_running = True
        while is_running:
            is_running = process.poll() is None  # before the look at the file, so that its last rows are seen
            for step, value in read_metric(folder / "metrics.csv", metric):
                if step not in values:
                    values[step] = value
                    trial.report(value, step)
            if is_running and trial.should_prune():
                raise TrialPruned
            time.sleep(INTERVAL if is_running else 0)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode != 0 or not values:
        reason = failure(folder, log) if process.returncode != 0 else absence(folder, metric)
        if process.returncode == 0 and not any(other.intermediate_values for other in trial.study.trials):
            # Of a search for another metric this run, which is finished, will be a trial.
            trial.study.enqueue_trial(trial.params, user_attrs={"folder": str(folder)})
            raise UserError(reason)
        trial.set_user_attr("reason", reason)
        raise TrialError(f"trial {trial.number} failed: {reason}")
    is_less_better = trial.study.direction.name == "MINIMIZE"
    return min(values.values()) if is_less_better else max(values.values())


def failure(folder: Path, log: Path) -> str:
    """Why a run has failed: in its own words, or else the last line of what it printed."""
    words = log.read_text().strip().splitlines() or ["no word"]
    return str(read_json(folder / "status.json").get("reason") or words[-1])


def absence(folder: Path, metric: str) -> str:
    """Say that a run has no such metric, and name some that it has, those of validations first."""
    path = folder / "metrics.csv"
    lines = path.read_text().splitlines() if path.is_file() else []
    names = sorted(set(next(csv.reader(lines), [])) - {"step", metric})
    names.sort(key=lambda name: not name.startswith("val/"))
    some = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return f"metric: {metric} is not among the metrics of the run in {folder}; they are {some or 'none'}"


def read_metric(path: Path, metric: str) -> Iterator[tuple[int, float]]:
    """(images seen, value) for each row of a metrics.csv that has the metric."""
    if path.is_file():
        for row in csv.DictReader(path.read_text().splitlines()):
            if row.get(metric):
                yield int(row["step"]), float(row[metric])


def retry_lost_trials(study: optuna.Study) -> None:
    """Put trials whose tuner has died back into the queue: their runs go on from their checkpoints."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if _is_alive(trial.user_attrs.get("process")):
            continue
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs.get("folder")})


def _process() -> list[Any]:
    return [os.uname().nodename, os.getpid()]


def _is_alive(process: Sequence[Any] | None) -> bool:
    if process is None or process[0] != os.uname().nodename:
        return process is not None  # that of another machine cannot be seen from here
    try:
        os.kill(process[1], 0)
    except ProcessLookupError:
        return False
    return bool(process[1] != os.getpid())


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial has come to an end of its own."""
    return trial.state.name in ("COMPLETE", "PRUNED") or "reason" in trial.user_attrs


def report(study: optuna.Study, request: dict[str, Any], folder: Path, configs: Path) -> None:
    """Print what became of the trials, write the best values as an experiment, and plot history and importance.

    `configs` is the folder of what train.py can be told. Raises UserError if no trial was completed.
    """
    states = [trial.state.name.lower() for trial in study.trials]
    print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    for trial in study.trials:
        if "reason" in trial.user_attrs:
            print(f"trial {trial.number} failed: {trial.user_attrs['reason']}")
    if "complete" not in states:
        raise UserError(f"no trial was completed; see {folder}")
    out = folder / "best.yaml" if request["out"] is None else Path(request["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    best = study.best_trial
    words = f"{request['metric']} {best.value:.5g}, {study.study_name}"
    out.write_text(experiment(overrides(request, best.params), words, configs))
    print(f"best: trial {best.number}, {request['metric']} {best.value:.5g}, {best.params}; written to {out}")
    plot(study, folder)


def experiment(overrides: Sequence[str], words: str, configs: Path) -> str:
    """Overrides of train.py as the text of a file for configs/experiment/; a comment names what no such file can say.

    A file that changes values everywhere becomes a base of this one, as Hydra would compose it too late or not at all.
    """
    bases: dict[str, list[str]] = {key: [] for key in WHOLE_CONFIG}
    added: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    comments = [words]
    config = OmegaConf.create({"defaults": []})
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if key in WHOLE_CONFIG:
            chosen = value if isinstance(value, list) else [value]
            bases[key] = [] if override.is_delete() else [f"/{key}/{name}" for name in chosen]
        elif _is_group(override, configs):
            place = f"/{key}" if override.package is None else f"/{key}@{override.package}"
            if override.is_add():
                added.append({place: value})
            else:
                changed.append({f"override {place}": None if override.is_delete() else value})
        elif override.is_delete() or any(part.isdecimal() for part in key.split(".")):
            comments.append(f"Only the command line can say this, after experiment=...: {override.input_line}")
        elif key not in OF_EACH_TRIAL:
            OmegaConf.update(config, key, value, force_add=True)
    config.defaults = [*(name for names in bases.values() for name in names), *added, "_self_", *changed]
    return "".join(f"# {line}\n" for line in ["@package _global_", *comments]) + OmegaConf.to_yaml(config)


def _is_group(override: Override, configs: Path) -> bool:
    """Whether an override chooses a file, as Hydra sees it: trainer={max_images: 1000} does not."""
    key, is_known = override.key_or_group, override.package is not None
    return not isinstance(override.value(), dict) and (is_known or "/" in key or (configs / key).is_dir())


def plot(study: optuna.Study, folder: Path) -> None:
    """Write `history.png` and, of two trials or more, `importance.png`."""
    import warnings

    try:
        import matplotlib
    except ImportError:
        return print('no plots: pip install -e ".[plot]"')
    import optuna
    from optuna.visualization import matplotlib as plots

    matplotlib.use("Agg")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    drawings: dict[str, Callable[[optuna.Study], Any]] = {"history": plots.plot_optimization_history}
    if sum(trial.state.name == "COMPLETE" for trial in study.trials) >= 2:
        drawings["importance"] = plots.plot_param_importances
    for name, draw in drawings.items():
        figure = draw(study).figure
        figure.set_layout_engine("tight")
        figure.savefig(folder / f"{name}.png", dpi=120)
    return None
