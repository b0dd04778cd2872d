"""Several processes train one model: as one would, for every family, and none waits for ever for another."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir

from imagegen.callbacks import BestAndLast, Budget, GenerationMetrics
from imagegen.config import UserError, build, to_plain
from imagegen.metrics.features import FeatureSource
from imagegen.run import one_line_errors, quiet_lightning
from imagegen.stop_signals import STOP
from imagegen.trainer import Trainer
from tests.forked import Ended, Process, script

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = {
    "vae": ["model.network.hidden=[16]"],
    "gan": ["model.network.hidden=[16]", "model.discriminator.hidden=[16]"],
    "sngan": ["model.network.width=8", "model.discriminator.width=8"],
    "progan": ["model.network.width=8", "model.discriminator.width=8", "model.growth.share=0.6"],
    "diffusion": ["model.network.width=16"],
    "pixelcnn": ["model.network.width=16", "model.network.num_blocks=1"],
    "vq_vae": ["model.network.width=8", "model.prior_network.network.width=16"],
    "gmm": ["model.network.num_components=4", "model.network.num_features=6"],
    "classifier": ["model.network.width=8"],
}


def train(
    overrides: Sequence[str],
    folder: Path,
    world_size: int = 1,
    timeout: int = 60,
    strategy: str = "ddp",
    **options: Any,
) -> None:
    """Fit one model and write its weights and scores to `<folder>/<model>_<world size>_<rank>.pt`."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    quiet_lightning()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=["data=digits", f"trainer={strategy}", "run_dir=unused", *overrides])
    checkpoints = BestAndLast(str(folder / "checkpoints"), None, "min")
    checkpoints.config = to_plain(cfg)
    last = checkpoints.last if checkpoints.last.exists() else None
    lightning.seed_everything(0 if last is None else 123, verbose=False)
    model = build(cfg.model, "model")
    metrics = GenerationMetrics(FeatureSource("digits"), num_val_samples=32, num_test_samples=32, seed=0)
    scores = [] if "model=classifier" in overrides else [metrics]
    cfg.trainer.strategy.timeout_seconds = timeout
    settings = {"max_images": 256, "logger": False, "num_sanity_val_steps": 0, "limit_val_batches": 2} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    trainer = Trainer(
        "cpu",
        "32-true",
        callbacks=[Budget(10**6, seed=0), *scores, checkpoints],
        strategy=build(cfg.trainer.strategy, "strategy") if world_size > 1 else "auto",
        devices=world_size,
        **settings,
        **quiet,
    )
    with one_line_errors(), STOP:
        trainer.fit(model, build(cfg.data, "data"), ckpt_path=last, weights_only=True)
    if strategy == "fsdp":  # each process has a part of the weights; all are in the checkpoint
        return
    found = {"weights": model.state_dict(), "scores": {k: float(v) for k, v in trainer.callback_metrics.items()}}
    name = next((text.removeprefix("model=") for text in overrides if text.startswith("model=")), "model")
    torch.save(found, folder / f"{name}_{world_size}_{rank}.pt")


def train_all(folder: Path, world_size: int) -> None:
    for name, overrides in SMALL.items():
        train([f"model={name}", "data.batch_size=16", *overrides], folder / name, world_size)
    torch.distributed.destroy_process_group()


def start(function: Any, *arguments: Any, folder: Path, **variables: str) -> list[Process]:
    """Two processes that find each other as those of a launcher do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **variables}
    places = [folder / f"rank_{rank}" for rank in range(2)]
    return [
        Process(function, *arguments, folder=place, LOCAL_RANK=str(rank), **common) for rank, place in enumerate(places)
    ]


def end(processes: list[Process]) -> list[Ended]:
    return [process.wait() for process in processes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for name in SMALL:
        (folder / name).mkdir()
    for ended in end(start(train_all, folder, 2, folder=folder)):
        assert ended.returncode == 0, ended.output
    return folder


def load(folder: Path, name: str, world_size: int, rank: int) -> dict[str, Any]:
    return dict(torch.load(folder / name / f"{name}_{world_size}_{rank}.pt", weights_only=True))


@pytest.mark.parametrize("name", SMALL)
def test_two_processes_have_the_same_weights_and_scores(trained: Path, name: str) -> None:
    first, second = (load(trained, name, 2, rank) for rank in range(2))
    buffers = ("running_mean", "running_var", "spectral", "_u", "_v", "num_batches")  # each process sees other images
    for key, value in first["weights"].items():
        if not any(word in key for word in buffers):
            assert value.equal(second["weights"][key]), key
    assert first["scores"].keys() == second["scores"].keys()
    assert name == "classifier" or first["scores"]["val/fid"] == second["scores"]["val/fid"]
    saved = torch.load(trained / name / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["images_seen"] == 256


def test_two_processes_move_the_weights_as_one_with_their_batches_together(tmp_path: Path) -> None:
    """Of a model without noise in training: the order of images is that of one process, shared out."""
    plain = ["model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas", "~model.optimizer.fused"]
    overrides = ["model=pixelcnn", *SMALL["pixelcnn"], *plain, "model.lr=0.05"]
    (tmp_path / "two").mkdir()
    for ended in end(start(train, [*overrides, "data.batch_size=16"], tmp_path / "two", 2, folder=tmp_path)):
        assert ended.returncode == 0, ended.output
    (tmp_path / "one").mkdir()
    train([*overrides, "data.batch_size=32"], tmp_path / "one")
    one = torch.load(tmp_path / "one" / "pixelcnn_1_0.pt", weights_only=True)["weights"]
    two = torch.load(tmp_path / "two" / "pixelcnn_2_0.pt", weights_only=True)["weights"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        lightning.seed_everything(0, verbose=False)
        begun = build(compose("train", overrides=["data=digits", "run_dir=unused", *overrides]).model, "model")
    moved = [float((value - begun.state_dict()[key]).abs().max()) for key, value in one.items() if "network" in key]
    assert max(moved) > 1e-2
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-6, rtol=1e-5, msg=key)


SHARDED = {"dit": ["model.network.width=16"], "diffusion": SMALL["diffusion"]}


def train_in_shards(folder: Path, world_size: int) -> None:
    for name, overrides in SHARDED.items():
        for strategy in ("ddp", "fsdp"):
            shards = ["trainer.strategy.min_parameters=2000"] if strategy == "fsdp" else []
            adam = ["model.optimizer._target_=torch.optim.AdamW", "model.lr=2e-3"]
            arguments = [f"model={name}", "data.batch_size=16", *overrides, *adam, *shards]
            train(arguments, folder / f"{name}_{strategy}", world_size, strategy=strategy)
    torch.distributed.destroy_process_group()


def test_weights_in_shards_are_trained_as_whole_ones(tmp_path: Path) -> None:
    for ended in end(start(train_in_shards, tmp_path, 2, folder=tmp_path)):
        assert ended.returncode == 0, ended.output
    for name in SHARDED:
        whole, shards = (
            torch.load(tmp_path / f"{name}_{strategy}" / "checkpoints" / "last.ckpt", weights_only=True)
            for strategy in ("ddp", "fsdp")
        )
        assert whole["state_dict"].keys() == shards["state_dict"].keys()
        for key, value in whole["state_dict"].items():
            torch.testing.assert_close(shards["state_dict"][key], value, atol=1e-6, rtol=1e-5, msg=key)
        moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, shards)]
        assert moments[0].keys() == moments[1].keys()


def fail_in_shards(folder: Path, world_size: int) -> None:
    for name, refusal in REFUSED.items():
        with pytest.raises(UserError, match=refusal):
            train([f"model={name}", *SMALL[name]], folder / name, world_size, strategy="fsdp")


REFUSED = {
    "gan": "trainer=fsdp: GAN cannot be cut into shards.*take trainer=ddp",
    "diffusion": "Muon needs whole matrices.*add model.optimizer._target_=torch.optim.AdamW",
}


def test_what_shards_would_train_wrongly_is_refused(tmp_path: Path) -> None:
    for ended in end(start(fail_in_shards, tmp_path, 2, folder=tmp_path)):
        assert ended.returncode == 0, ended.output


def test_processes_with_different_configs_refuse_to_train(tmp_path: Path) -> None:
    both = [start_one(rank, tmp_path, lr) for rank, lr in enumerate(("1e-3", "2e-3"))]
    for ended in end(both):
        assert ended.returncode == 1
        assert "started with different configs" in ended.output


def start_one(rank: int, folder: Path, lr: str) -> Process:
    port = folder / "port"
    if not port.exists():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port.write_text(str(free.getsockname()[1]))
    variables = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port.read_text()}
    overrides = ["model=vae", f"model.lr={lr}", *SMALL["vae"]]
    return Process(train, overrides, folder, 2, folder=folder / f"rank_{rank}", LOCAL_RANK=str(rank), **variables)


def test_a_process_that_hangs_ends_the_others_after_a_while(tmp_path: Path) -> None:
    overrides = ["model=vae", *SMALL["vae"], "data.batch_size=16"]
    options = {"max_images": 10**7}
    first, second = start(_train_with, overrides, tmp_path, options, folder=tmp_path)
    first.wait_for((tmp_path / "begun").exists)
    second.send(signal.SIGSTOP)
    begun = time.monotonic()
    ended = first.wait()
    assert ended.returncode == 1
    assert "another process of this run has died or hangs" in ended.output
    assert time.monotonic() - begun < 60
    second.send(signal.SIGKILL)
    second.wait()


def test_sigterm_stops_two_processes_at_the_same_step_and_they_go_on_bit_for_bit(tmp_path: Path) -> None:
    overrides = ["model=vae", *SMALL["vae"], "data.batch_size=16"]
    options = {"max_images": 12_800}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    for ended in end(start(_train_with, overrides, tmp_path / "whole", options, folder=tmp_path / "whole")):
        assert ended.returncode == 0, ended.output
    processes = start(_train_with, overrides, tmp_path / "cut", options, folder=tmp_path / "cut")
    processes[0].wait_for((tmp_path / "cut" / "begun").exists)
    processes[0].send(signal.SIGTERM)
    assert [ended.returncode for ended in end(processes)] == [143, 0]
    seen = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["images_seen"]
    assert 0 < seen < 12_800
    for ended in end(start(_train_with, overrides, tmp_path / "cut", options, folder=tmp_path / "cut")):
        assert ended.returncode == 0, ended.output
    first, second = (torch.load(tmp_path / name / "vae_2_1.pt", weights_only=True) for name in ("whole", "cut"))
    for key, value in first["weights"].items():
        assert value.equal(second["weights"][key]), key


class SayBegun(lightning.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        if pl_module.images_seen == 640:
            self.path.touch()


def _train_with(overrides: Sequence[str], folder: Path, options: dict[str, Any]) -> None:
    original = Trainer.__init__

    def with_mark(self: Trainer, *arguments: Any, callbacks: list[Any], **keywords: Any) -> None:
        original(self, *arguments, callbacks=[SayBegun(folder / "begun"), *callbacks], **keywords)

    Trainer.__init__ = with_mark  # type: ignore[assignment]
    train(overrides, folder, 2, timeout=3, **options)


def test_a_process_that_dies_ends_its_run_in_a_line_and_the_sweep_goes_on(tmp_path: Path) -> None:
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_images=10_000_000,500"]
    first = script("train.py", "--multirun", "model=vae", *SMALL["vae"], "debug=default", *ddp, folder=tmp_path)
    first.wait_for(lambda: bool(list(tmp_path.glob("logs/digits/vae/*/metrics.csv"))))
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    [child] = [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(child, signal.SIGKILL)
    ended = first.wait()
    assert ended.returncode == 1, ended.output
    assert "Traceback" not in ended.output
    assert "another process of this run has died or hangs" in ended.output
    states = [json.loads(path.read_text())["state"] for path in sorted(tmp_path.glob("logs/digits/vae/*/status.json"))]
    assert states == ["failed", "finished"]
