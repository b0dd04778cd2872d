"""What can happen to a run, and how it takes it: the rows of docs/faults.md."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pickle
import pty
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import Ended, Process, script

SMALL = ["model=vae", "model.network.hidden=[16]", "debug=default"]
LONG = [*SMALL, "trainer.max_images=400_000"]


def train(folder: Path, *arguments: str, **variables: str) -> Ended:
    return script("train.py", *arguments, folder=folder, **variables).wait()


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    return dict(torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open()))


def assert_one_line(ended: Ended, *words: str) -> None:
    assert ended.returncode == 1, ended.output
    assert "Traceback" not in ended.output, ended.output
    for word in words:
        assert word in ended.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("finished")
    ended = train(folder, *SMALL, "run_dir=run")
    assert ended.returncode == 0, ended.output
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "run"))


# Signals --------------------------------------------------------------------------------------------------------


def start_long(folder: Path, *arguments: str, **variables: str) -> Process:
    process = script("train.py", *LONG, "run_dir=run", *arguments, folder=folder, **variables)
    process.wait_for((folder / "run" / "checkpoints" / "last.ckpt").exists)
    return process


def test_sigterm_saves_and_the_folder_alone_is_enough_to_go_on_bit_for_bit(tmp_path: Path) -> None:
    budget = ["trainer.max_images=10_000", "val_every_images=3000", "trainer.precision=32-true", "logger=default"]
    ended = train(tmp_path / "whole", *SMALL, *budget, "run_dir=run")
    assert ended.returncode == 0, ended.output
    process = script("train.py", *SMALL, *budget, "run_dir=run", folder=tmp_path)
    run = tmp_path / "run"
    process.wait_for(lambda: (run / "metrics.csv").exists() and len(rows(run)) > 20)
    process.send(signal.SIGTERM)
    ended = process.wait()
    assert ended.returncode == 143
    assert "stopped by SIGTERM; python train.py resume=run goes on" in ended.output
    assert (status(run)["state"], status(run)["reason"]) == ("stopped", "SIGTERM")
    assert 0 < checkpoint(run)["images_seen"] < 10_000
    [name] = [path.name for path in run.glob("wandb/offline-run-*")]

    ended = train(tmp_path, "resume=run")
    assert ended.returncode == 0, ended.output
    first, second = checkpoint(tmp_path / "whole" / "run"), checkpoint(run)
    assert first["images_seen"] == second["images_seen"]
    for key, value in first["state_dict"].items():
        assert value.equal(second["state_dict"][key]), key
    assert rows(tmp_path / "whole" / "run") == rows(run)
    scores = [json.loads((path / "run" / "scores.json").read_text()) for path in (tmp_path / "whole", tmp_path)]
    for key in scores[0]:
        assert key in {"train_seconds", "sampling_ms_per_image", "peak_memory_mb"} or scores[0][key] == scores[1][key]
    ids = {path.name.rsplit("-", 1)[1] for path in run.glob("wandb/offline-run-*")}
    assert ids == {name.rsplit("-", 1)[1]}, "the same W&B run"


@pytest.mark.parametrize(("number", "returncode"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_other_signals_save_too_and_a_slurm_job_is_put_back(
    tmp_path: Path, number: signal.Signals, returncode: int
) -> None:
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    process = start_long(tmp_path, PATH=path, SLURM_JOB_ID="77")
    process.send(number)
    assert process.wait().returncode == returncode
    assert status(tmp_path / "run")["reason"] == number.name
    assert checkpoint(tmp_path / "run")["images_seen"] > 0
    is_requeued = (tmp_path / "requeued").exists()
    assert is_requeued == (number == signal.SIGUSR1)
    assert not is_requeued or (tmp_path / "requeued").read_text() == "requeue 77\n"


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    from imagegen.stop_signals import StopSignals

    with StopSignals() as stop:
        stop.is_held = True
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(SystemExit) as error:
            signal.raise_signal(signal.SIGTERM)
    assert error.value.code == 143


def test_a_signal_before_training_ends_at_once_and_handlers_are_restored() -> None:
    from imagegen.stop_signals import StopSignals

    before = signal.getsignal(signal.SIGINT)
    with StopSignals(), pytest.raises(SystemExit) as error:
        signal.raise_signal(signal.SIGINT)
    assert error.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_the_signal_of_submitit_reaches_its_own_handler_after_the_end() -> None:
    from imagegen.stop_signals import StopSignals

    received: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: received.append(number))
    try:
        with pytest.raises(SystemExit), StopSignals():
            signal.raise_signal(signal.SIGUSR2)
        assert received == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


# Resume ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_goes_on_with_what_the_command_line_changes(run: Path) -> None:
    seen = checkpoint(run)["images_seen"]
    ended = train(run.parent, "resume=run", "trainer.max_images=4000", "model.beta=2.5", "seed=3")
    assert ended.returncode == 0, ended.output
    assert f"goes on after {seen:,} images" in ended.output
    config = checkpoint(run)["config"]
    assert (config["model"]["beta"], config["trainer"]["max_images"]) == (2.5, 4000)
    assert config["seed"] == config["data"]["seed"] == config["callbacks"]["budget"]["seed"] == 3
    assert config["model"]["network"]["hidden"] == [16]
    assert json.loads((run / "scores.json").read_text())["model"] == "vae"
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == sorted(set(steps))
    assert steps[0] <= 64
    assert steps[-1] >= 4000


def test_a_run_goes_on_from_its_checkpoint_and_with_another_part(tmp_path: Path) -> None:
    budget = ["trainer.max_images=256", "val_every_images=256", "logger=csv", "metrics.num_test_samples=20"]
    small = ["model=diffusion", "model.network.width=16", "metrics.num_val_samples=20", *budget]
    ended = train(tmp_path, *small, "run_dir=run")
    assert ended.returncode == 0, ended.output
    changes = ["trainer.max_images=512", "model.num_steps=3", "sampler@model.sampler=heun"]
    ended = train(tmp_path, "resume=run/checkpoints/last.ckpt", *changes)
    assert ended.returncode == 0, ended.output
    config = checkpoint(tmp_path / "run")["config"]
    assert config["model"]["sampler"]["_target_"].endswith("samplers.heun")
    assert config["model"]["num_steps"] == 3
    assert config["model"]["network"]["width"] == 16


def test_resume_auto_begins_goes_on_and_leaves_a_finished_run_alone(tmp_path: Path) -> None:
    process = start_long(tmp_path, "resume=auto")
    process.send(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert status(tmp_path / "run")["state"] == "running"
    seen = checkpoint(tmp_path / "run")["images_seen"]
    command = [*LONG, "run_dir=run", "resume=auto", f"trainer.max_images={seen + 500}"]
    ended = train(tmp_path, *command)
    assert ended.returncode == 0, ended.output
    assert f"goes on after {seen:,} images" in ended.output
    ended = train(tmp_path, *command)
    assert ended.returncode == 0
    assert ended.output.splitlines() == ["run is finished already"]


def test_resume_auto_needs_a_folder(tmp_path: Path) -> None:
    assert_one_line(train(tmp_path, *SMALL, "resume=auto"), "resume: auto needs a folder", "run_dir=")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=run", "model=gan"], ["of another model", "VAE", "GAN"]),
        (["resume=run", "model.network.hidden=[8]"], ["of another model", "model.network"]),
        (["resume=run", "logger.csv._target_=os.system"], ["logger.csv", "os.system", "not allowed"]),
        (["resume=run", "experiment=shapes_diffusion"], ["experiment=shapes_diffusion cannot be added"]),
        (["resume=nowhere"], ["nowhere is no run folder with a checkpoint"]),
    ],
)
def test_what_cannot_go_on_is_refused_in_a_line(run: Path, arguments: list[str], words: list[str]) -> None:
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert_one_line(train(run.parent, *arguments), *words)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_code_in_a_checkpoint_is_not_run_by_resume(run: Path) -> None:
    content = checkpoint(run)
    torch.save(content | {"callbacks": Bomb()}, run / "alone.ckpt", pickle_module=pickle)
    assert_one_line(train(run.parent, "resume=run/alone.ckpt"), "refused as unsafe")
    harmful = content["origin"] | {"config": content["origin"]["config"] | {"logger": {"a": {"_target_": "os.getcwd"}}}}
    torch.save(content | {"origin": harmful}, run / "alone.ckpt")
    assert_one_line(train(run.parent, "resume=run/alone.ckpt", "run_dir=other"), "logger.a", "os.getcwd", "not allowed")
    assert not (run.parent / "exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_damaged_newest_checkpoint_is_put_aside(run: Path, share: float) -> None:
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    ended = train(run.parent, "resume=run", "trainer.max_images=3000")
    assert ended.returncode == 0, ended.output
    assert "last.ckpt.damaged" in ended.output
    assert "(run/checkpoints/best.ckpt)" in ended.output
    assert checkpoint(run)["images_seen"] >= 3000


def test_if_all_checkpoints_are_damaged_a_line_says_so(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"PK\x03\x04 damaged")
    assert_one_line(train(run.parent, "resume=run"), "last.ckpt.damaged", "best.ckpt.damaged")


def test_a_moved_run_folder_goes_on_where_it_is_now(run: Path) -> None:
    moved = run.rename(run.with_name("moved"))
    ended = train(moved.parent, "resume=moved", "trainer.max_images=3000")
    assert ended.returncode == 0, ended.output
    assert checkpoint(moved)["images_seen"] >= 3000
    assert not run.exists()


def test_two_processes_cannot_train_in_one_folder(run: Path) -> None:
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = train(run.parent, "resume=run", "trainer.max_images=3000")
    assert_one_line(ended, "another process is training in run")


# The disk -------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    ended = train(run.parent, "resume=run", "trainer.max_images=9000", FILE_SIZE=str(len(before) // 2))
    assert_one_line(ended, "cannot write", "ckpt", "File too large")
    assert last.read_bytes() == before
    assert not list((run / "checkpoints").glob(".*"))
    assert status(run)["state"] == "failed"


def test_curves_that_cannot_be_written_end_in_a_line(tmp_path: Path) -> None:
    ended = train(tmp_path, *SMALL, "run_dir=run", FILE_SIZE="16000")
    assert_one_line(ended, "cannot write", "File too large")


def test_a_missing_temporary_folder_does_not_matter(tmp_path: Path) -> None:
    ended = train(tmp_path, *SMALL, "run_dir=run", TMPDIR=str(tmp_path / "missing"))
    assert ended.returncode == 0, ended.output


# The numbers ----------------------------------------------------------------------------------------------------


def test_a_diverging_run_ends_in_a_line_and_a_sweep_goes_on(tmp_path: Path) -> None:
    sweep = ["--multirun", *SMALL, "model.lr=1e30,1e-3", "run_dir=sweep"]
    ended = train(tmp_path, *sweep)
    assert_one_line(ended, "training diverged after", "steps without finite gradients", "smaller model.lr")
    folders = sorted((tmp_path / "sweep").iterdir())
    assert [status(folder)["state"] for folder in folders] == ["finished", "failed"]
    assert "| 0 | model.lr=1e+30 | failed |" in ended.output
    assert "| 1 | model.lr=0.001 | finished |" in ended.output
    assert "sweep.md" in ended.output

    started = time.time()
    ended = train(tmp_path, *sweep)
    assert "model.lr=0.001 is finished already" in ended.output
    [done] = [folder for folder in folders if status(folder)["state"] == "finished"]
    assert (done / "status.json").stat().st_mtime < started


# Tracking -------------------------------------------------------------------------------------------------------


def _on_a_terminal(arguments: tuple[str, ...]) -> None:
    from tests.forked import _script

    _, terminal = pty.openpty()
    os.dup2(terminal, 0)
    import sys

    sys.stdin = os.fdopen(0)
    assert sys.stdin.isatty()
    _script("train.py", arguments)


def test_at_a_terminal_without_a_key_nobody_is_asked(tmp_path: Path) -> None:
    process = Process(_on_a_terminal, (*SMALL, "logger=default", "run_dir=run"), folder=tmp_path)
    ended = process.wait()
    assert ended.returncode == 0, ended.output
    assert "W&B: offline" in ended.output


def test_debug_without_wandb(tmp_path: Path) -> None:
    ended = train(tmp_path, *SMALL, "logger=csv", "run_dir=run")
    assert ended.returncode == 0, ended.output


def test_runs_that_start_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    both = [script("train.py", *SMALL, f"seed={seed}", folder=tmp_path) for seed in (0, 1)]
    assert [process.wait().returncode for process in both] == [0, 0]
    folders = [path.parent for path in tmp_path.glob("logs/digits/vae/*/scores.json")]
    assert sorted(checkpoint(folder)["config"]["seed"] for folder in folders) == [0, 1]
