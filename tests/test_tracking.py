from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import loggers
from PIL import Image

from imagegen.callbacks.sample_grid import SampleGrid
from imagegen.tracking import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger, has_api_key

VARIABLES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_SILENT", "WANDB_DIR", "WANDB_PROJECT")
KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable and no file of the user's; nothing that W&B sets stays behind."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in VARIABLES:  # so that monkeypatch also undoes what the code under test sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.finish()


def write_netrc(path: Path, host: str = "api.wandb.ai") -> None:
    path.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)


def test_nobody_has_a_key_by_default() -> None:
    assert not has_api_key()


def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_api_key()
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert not has_api_key()


def test_a_key_in_the_netrc_file(tmp_path: Path) -> None:
    write_netrc(tmp_path / "netrc")
    assert has_api_key()


def test_a_key_in_the_netrc_file_of_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETRC")
    write_netrc(tmp_path / ".netrc")
    assert has_api_key()


def test_a_key_of_another_host_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(tmp_path / "netrc", "example.org")
    assert not has_api_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org/path")
    assert has_api_key()


def test_a_netrc_file_that_cannot_be_read_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine\nnonsense nonsense\n")
    assert not has_api_key()


def test_a_netrc_file_that_is_no_text_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_bytes(b"\xff\xfe\x00\x80")
    assert not has_api_key()


@pytest.mark.parametrize("mode", ["of", "ONLINE", ""])
def test_an_unknown_mode_is_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="mode must be auto, online, offline or disabled") as error:
        WandbLogger("imagegen", str(tmp_path / "run"), mode)
    assert repr(mode) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_in_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="'sometimes'"):
        WandbLogger("imagegen", str(tmp_path), "auto")


def offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def test_the_old_name_for_offline_that_lightning_leaves_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    WandbLogger("imagegen", str(tmp_path), "auto")


def test_each_job_without_a_key_is_an_offline_run_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_prompt(*_: object) -> str:
        raise AssertionError("asked for something")

    monkeypatch.setattr("builtins.input", no_prompt)
    monkeypatch.setattr("getpass.getpass", no_prompt)
    folders = [tmp_path / "first", tmp_path / "second"]
    names = []
    for folder in folders:
        logger = WandbLogger("imagegen", str(folder), "offline")
        logger.log_config({"model": {"lr": 0.1}})
        logger.log_metrics({"train/loss": 1.5}, step=64)
        names.append(logger.experiment.id)
        assert logger.experiment.offline
        assert logger.experiment.config["model"] == {"lr": 0.1}
        logger.finish({"test/fid": 12.5})
        assert wandb.run is None, "the next job gets a run of its own"
    assert len(set(names)) == 2
    for folder in folders:
        [run] = offline_runs(folder)
        [record] = run.glob("*.wandb")
        deadline = time.monotonic() + 60  # W&B's own process writes; on a busy machine it may lag behind
        while b"test/fid" not in record.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert b"test/fid" in record.read_bytes(), "closed: the scores are on disk"
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out.count("offline, kept in") == 2
    assert len(printed.out.splitlines()) == 2


def test_the_words_of_the_doctor_reach_the_run(tmp_path: Path) -> None:
    logger = WandbLogger("imagegen", str(tmp_path / "run"), "offline")
    logger.log_warnings(["first ailment"])
    logger.log_warnings(["first ailment", "second ailment"])
    assert list(logger.experiment.summary["warnings"]) == ["first ailment", "second ailment"]
    logger.finish({})
    [record] = offline_runs(tmp_path / "run")[0].glob("*.wandb")
    assert b"second ailment" in record.read_bytes()


def test_a_disabled_logger_writes_nothing(tmp_path: Path) -> None:
    logger = WandbLogger("imagegen", str(tmp_path / "run"), "disabled")
    logger.log_config({"seed": 0})
    logger.log_metrics({"train/loss": 1.5}, step=64)
    logger.finish({"test/fid": 12.5})
    assert offline_runs(tmp_path / "run") == []
    assert wandb.run is None


def read_back(run: Path, *options: str) -> list[dict[str, Any]]:
    """What W&B's own reader finds in an offline run."""
    [record] = run.glob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", *options, "--json", str(record)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(text)] if "--summary" in options else [json.loads(line) for line in text.splitlines()]


def test_an_offline_run_is_read_back_with_its_own_reader_and_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for steps in ((64, 128), (192,)):
        logger = WandbLogger("imagegen", str(folder), "offline", name="a name", group="digits", tags=["tag"])
        logger.log_config({"model": {"lr": 0.1}})
        for step in steps:
            logger.log_metrics({"train/loss": 1 / step}, step=step)
        logger.log_files()
        logger.finish({"test/fid": 12.5, "protocol": {"num_real": 300}})
    first, second = offline_runs(folder)
    [found] = read_back(first, "--summary")
    assert (found["name"], found["project"], found["state"], found["tags"]) == (
        "a name",
        "imagegen",
        "finished",
        ["tag"],
    )
    assert found["config"]["model"] == {"lr": 0.1}
    assert found["summary"]["images_seen"] == 128
    assert found["summary"]["train/loss"] == 1 / 128
    assert (found["summary"]["test/fid"], found["summary"]["protocol"]) == (12.5, {"num_real": 300})
    [again] = read_back(second, "--summary")
    assert again["run_id"] == found["run_id"]
    assert again["summary"]["images_seen"] == 192
    metrics = [record for record in read_back(first) if record["type"] == "metric"]
    assert "images_seen" in json.dumps(metrics)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_a_csv_file_has_a_row_for_each_number_of_images(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    logger.log_metrics({"train/loss": 3.0}, step=64)
    logger.log_metrics({"train/loss": 2.0}, step=128)
    logger.log_metrics({"val/fid": 50.0}, step=128)
    logger.log_metrics({"train/loss": 1.0}, step=192)
    logger.log_metrics({"val/fid": 40.0}, step=192)
    logger.log_metrics({"val/fid": 40.0}, step=192)
    expected = [("64", "3.0", ""), ("128", "2.0", "50.0"), ("192", "1.0", "40.0")]
    assert [tuple(row.values()) for row in table(logger.path)] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("torn", ["", "192,0.5", "19"])
def test_a_csv_file_goes_on_behind_a_checkpoint(tmp_path: Path, torn: str) -> None:
    first = CSVLogger(str(tmp_path))
    for step in (64, 128, 192):
        first.log_metrics({"train/loss": step, "val/fid": 2 * step}, step=step)
    with first.path.open("a") as file:
        file.write(torn)  # cut short by a crash
    second = CSVLogger(str(tmp_path))
    second.resume(128)
    second.log_metrics({"val/fid": 256}, step=128)
    second.log_metrics({"train/loss": 0.25, "test/fid": 7}, step=192)
    rows = table(second.path)
    assert [row["step"] for row in rows] == ["64", "128", "192"]
    assert rows[1] == {"step": "128", "test/fid": "", "train/loss": "128", "val/fid": "256"}
    assert rows[2] == {"step": "192", "test/fid": "7", "train/loss": "0.25", "val/fid": ""}


# TensorBoard and MLflow, which need not be installed ------------------------------------------------------------------

CONFIG = {"seed": 0, "model": {"lr": 0.1, "betas": [0.9, 0.99]}}


@pytest.mark.parametrize("kind", [TensorBoardLogger, MLFlowLogger])
def test_other_loggers_get_the_config_as_hyper_parameters(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(kind.__base__, "log_hyperparams", lambda self, params: heard.append(params))
    kind.__new__(kind).log_config(CONFIG)
    assert heard == [CONFIG]


def test_other_loggers_get_the_pictures_of_the_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorboard, mlflow = Mock(), Mock()
    of_tensorboard = TensorBoardLogger.__new__(TensorBoardLogger)
    of_mlflow = MLFlowLogger.__new__(MLFlowLogger)
    monkeypatch.setattr(loggers.TensorBoardLogger, "experiment", tensorboard)
    monkeypatch.setattr(loggers.MLFlowLogger, "experiment", mlflow)
    monkeypatch.setattr(loggers.MLFlowLogger, "run_id", "the run")
    model = SimpleNamespace(
        images_seen=64,
        device="cpu",
        pictures=lambda num, seed: {"samples": torch.ones(num, 1, 8, 8)},
        pictures_of=lambda images, labels: {},
    )
    data = SimpleNamespace(splits={"val": (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2))})
    trainer = SimpleNamespace(
        sanity_checking=False, is_global_zero=True, loggers=[of_tensorboard, of_mlflow], datamodule=data
    )
    SampleGrid(str(tmp_path), 4, 0).on_validation_end(trainer, model)
    name, array, step = tensorboard.add_image.call_args.args
    assert (name, step, tensorboard.add_image.call_args.kwargs) == ("samples", 64, {"dataformats": "HWC"})
    run, image = mlflow.log_image.call_args.args
    assert (run, mlflow.log_image.call_args.kwargs) == ("the run", {"key": "samples", "step": 64})
    expected = np.asarray(Image.open(tmp_path / "samples_000000064.png").convert("RGB"))
    assert np.array_equal(array, expected)
    assert np.array_equal(np.asarray(image), expected)


def test_tensorboard_reads_back_the_config_and_the_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="", version="tensorboard")
    logger.log_config(CONFIG)
    logger.log_image("samples", [Image.new("L", (16, 16))], step=64)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("samples")] == [64]
    assert "model/lr" in str(events.SummaryMetadata("_hparams_/session_start_info"))
    assert "lr: 0.1" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_mlflow_reads_back_the_config_and_the_pictures(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = MLFlowLogger("digits", "a name", uri, artifact_location=str(tmp_path / "artifacts"))
    logger.log_config(CONFIG)
    logger.log_image("samples", [Image.new("L", (16, 16))], step=64)
    logger.finalize("success")
    assert logger.experiment.get_run(logger.run_id).data.params["model/lr"] == "0.1"
    assert any("samples" in path.name for path in (tmp_path / "artifacts").rglob("*.png"))
