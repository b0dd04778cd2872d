"""What the Trainer costs per step: our training loop against a bare loop over the same step of the MLP VAE.

python benchmarks/trainer_loop.py [--steps 2000] [--precision 32-true] [--data mnist-sized|digits]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
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


class Clock(Callback):
    """Wall-clock seconds between the starts of two steps, `warmup` steps after the beginning and at the end."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps, self.seen = warmup, steps, 0
        self.start = self.stop = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        if self.seen == self.warmup:
            self.start = time.perf_counter()
        if self.seen == self.warmup + self.steps:
            self.stop = time.perf_counter()
        self.seen += 1


def config(data: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=["model=vae", f"data={data}", "run_dir=unused"])


def bare_loop(cfg: DictConfig, steps: int, warmup: int, autocast: bool) -> float:
    """Microseconds per step: batch, loss, backward, optimizer, running mean of the losses, averaged weights."""
    model: VAE = build(cfg.model, "model")
    data = build(cfg.data, "data")
    data.setup("fit")
    loader = data.train_dataloader()
    optimizer = model.configure_optimizers()
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    seen, epoch, start = 0, 0, 0.0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            if seen == warmup:
                start = time.perf_counter()
            if seen == warmup + steps:
                return (time.perf_counter() - start) / steps * 1e6
            images, labels = data.on_after_batch_transfer(batch, 0)
            with context:
                losses = model.losses(images, labels)
            model.record(losses)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
            model.images_seen += len(images)
            model.update_average()
            seen += 1
        epoch += 1


def our_loop(cfg: DictConfig, steps: int, warmup: int, precision: str) -> float:
    """Microseconds per step of the Trainer with the callbacks that run in every step."""
    clock = Clock(warmup, steps)
    budget = Budget(val_every_images=10**9, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            precision=precision,
            devices=1,
            max_images=(steps + warmup + 2) * cfg.data.batch_size,
            callbacks=[budget, Progress(), clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=folder,
        )
        trainer.fit(build(cfg.model, "model"), build(cfg.data, "data"))
    return (clock.stop - clock.start) / steps * 1e6


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
    print("step of the MLP VAE, microseconds")
    print(f"{'bare':>8} {'Trainer':>8} {'more':>6} {'ratio':>6}")
    for _ in range(arguments.repeats):
        bare = bare_loop(cfg, arguments.steps, 100, arguments.precision != "32-true")
        ours = our_loop(cfg, arguments.steps, 100, arguments.precision)
        print(f"{bare:8.0f} {ours:8.0f} {ours - bare:6.0f} {ours / bare:6.2f}")


if __name__ == "__main__":
    main()
