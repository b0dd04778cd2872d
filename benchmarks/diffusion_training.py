"""Training of `model=diffusion` on MNIST: our Trainer against the plain loop of a tutorial over the same network.

python benchmarks/diffusion_training.py [--turns 5]

The plain loop is float32 in PyTorch's usual memory layout, with AdamW as it comes and a `DataLoader` over a data set
that makes a tensor of each image, in the steps of torchvision. Ours is what `train.py` runs, but with AdamW too:
batches from memory, bf16 where the hardware has it, channels last, a fused optimizer, no denormal numbers, and an
average of the weights, which the plain loop does not even keep. Both take turns, a few steps each, so that whatever
else the machine does slows both.
First the losses of both are compared in float32 on the same batch and noise.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback
from loader import SinglePictures
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from imagegen.callbacks import Budget, Progress
from imagegen.config import build
from imagegen.data import ImageDataModule
from imagegen.data.module import from_uint8
from imagegen.models import Diffusion
from imagegen.run import quiet_lightning

CONFIGS = Path(__file__).parents[1] / "configs"
TURN = 10  # steps


class Turns(Callback):
    """Lets the plain loop have a turn after each of the Trainer's, and notes the seconds of a step in both."""

    def __init__(self, plain: Iterator[None], num_turns: int) -> None:
        self.plain = plain
        self.num_turns = num_turns
        self.seen = 0
        self.start = 0.0
        self.seconds: dict[str, list[float]] = {"plain": [], "ours": []}  # of each turn; the first warms up

    def on_train_batch_start(self, trainer: Any, *_: object) -> None:
        self.seen += 1
        if self.seen % TURN:
            return
        now = time.perf_counter()
        if self.start:
            self.seconds["ours"].append((now - self.start) / TURN)
        torch.set_flush_denormal(False)
        for _ in range(TURN):
            next(self.plain)
        torch.set_flush_denormal(True)
        self.start = time.perf_counter()
        self.seconds["plain"].append((self.start - now) / TURN)
        trainer.should_stop = len(self.seconds["ours"]) > self.num_turns


def config() -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        adam = ["model.optimizer._target_=torch.optim.AdamW", "+model.optimizer.fused=true"]
        return compose("train", overrides=["model=diffusion", "data=mnist", "run_dir=unused", *adam])


def plain_copy(model: Diffusion) -> Diffusion:
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def plain_loop(model: Diffusion, data: ImageDataModule, lr: float) -> Iterator[None]:
    """Steps without end."""
    dataset = SinglePictures(*data.splits["train"])
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=lr)
    while True:
        for images, labels in DataLoader(dataset, data.batch_size, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            model.losses(images, labels)["loss"].backward()
            optimizer.step()
            yield


def gap(model: Diffusion, other: Diffusion, data: ImageDataModule) -> float:
    """The relative difference of the losses of both."""
    images, labels = (part[:64] for part in data.splits["train"])
    losses = []
    for each in (model, other):
        torch.manual_seed(0)
        losses.append(float(each.losses(from_uint8(images), labels)["loss"].detach()))
    return abs(losses[1] / losses[0] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help=f"of {TURN} steps, of each")
    arguments = parser.parse_args()
    quiet_lightning()
    cfg = config()
    data: ImageDataModule = build(cfg.data, "data")
    data.prepare_data()
    data.setup("fit")
    model: Diffusion = build(cfg.model, "model")
    plain = plain_copy(model)
    print(f"losses differ by {gap(model, plain, data):.0e} of their value")
    turns = Turns(plain_loop(plain, data, cfg.model.lr), arguments.turns)
    with tempfile.TemporaryDirectory() as folder:
        cfg.trainer.max_images = 10**9
        trainer = build(
            cfg.trainer,
            "trainer",
            callbacks=[Budget(val_every_images=10**9, seed=0), Progress(), turns],
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            default_root_dir=folder,
        )
        torch.set_flush_denormal(True)  # as every run of ours does
        trainer.fit(model, data)
    speeds = {name: data.batch_size / statistics.median(found[1:]) for name, found in turns.seconds.items()}
    print(f"{torch.get_num_threads()} threads, ours in {trainer.precision}, batches of {data.batch_size}, images/s:")
    print(f"plain {speeds['plain']:.0f}, ours {speeds['ours']:.0f}: {speeds['ours'] / speeds['plain']:.2f} times")


if __name__ == "__main__":
    main()
