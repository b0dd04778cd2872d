"""What the Trainer costs per step: our training loop against a bare loop over the same step of the MLP VAE.

The two take turns, a few steps each, so that whatever else the machine does slows both.

python benchmarks/trainer_loop.py [--steps 2000] [--precision 32-true] [--data digits]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback
from omegaconf import DictConfig

from imagegen.callbacks import Budget, Progress
from imagegen.config import build
from imagegen.models import VAE
from imagegen.run import quiet_lightning
from imagegen.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
TURN = 50  # steps
WARMUP = 100


class Turns(Callback):
    """Measures turns of the Trainer between the starts of two steps, and turns of the bare loop in between."""

    def __init__(self, bare: Iterator[None]) -> None:
        self.bare = bare
        self.seen = 0
        self.start = 0.0
        self.microseconds: dict[str, list[float]] = {"bare": [], "ours": []}  # per step, of each turn

    def on_train_batch_start(self, *_: object) -> None:
        self.seen += 1
        if self.seen < WARMUP or self.seen % TURN:
            return
        now = time.perf_counter()
        if self.start:
            self.microseconds["ours"].append((now - self.start) / TURN * 1e6)
        now = time.perf_counter()
        for _ in range(TURN):
            next(self.bare)
        self.start = time.perf_counter()
        self.microseconds["bare"].append((self.start - now) / TURN * 1e6)


def config(data: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=["model=vae", f"data={data}", "run_dir=unused"])


def bare_loop(cfg: DictConfig, autocast: bool) -> Iterator[None]:
    """Steps without end: batch, loss, backward, optimizer, running mean of the losses, averaged weights."""
    model: VAE = build(cfg.model, "model")
    data = build(cfg.data, "data")
    data.setup("fit")
    loader = data.train_dataloader()
    optimizer = model.configure_optimizers()
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            images, labels = data.on_after_batch_transfer(batch, 0)
            with context:
                losses = model.losses(images, labels)
            model.record(losses)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
            model.images_seen += len(images)
            model.update_average()
            yield
        epoch += 1


def measure(cfg: DictConfig, steps: int, precision: str) -> dict[str, list[float]]:
    """Microseconds per step, of each turn of the bare loop and of the Trainer with the callbacks of every step."""
    turns = Turns(bare_loop(cfg, precision != "32-true"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            precision=precision,
            devices=1,
            max_images=(steps + WARMUP) * cfg.data.batch_size,
            callbacks=[Budget(val_every_images=10**9, seed=0), Progress(), turns],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=folder,
        )
        trainer.fit(build(cfg.model, "model"), build(cfg.data, "data"))
    return turns.microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--data", default="digits")
    arguments = parser.parse_args()
    quiet_lightning()
    torch.set_flush_denormal(True)  # as every run does
    cfg = config(arguments.data)
    print(f"step of the MLP VAE, microseconds, {torch.get_num_threads()} threads")
    print(f"{'':<8}{'bare':>8}{'Trainer':>9}{'more':>7}{'ratio':>7}")
    for _ in range(arguments.repeats):
        found = measure(cfg, arguments.steps, arguments.precision)
        for name, average in (("mean", statistics.mean), ("median", statistics.median)):
            bare, ours = average(found["bare"]), average(found["ours"])
            print(f"{name:<8}{bare:8.0f}{ours:9.0f}{ours - bare:7.0f}{ours / bare:7.2f}")


if __name__ == "__main__":
    main()
