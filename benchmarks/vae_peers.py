"""Training of pythae's VAEs on MNIST: by its own trainer, then the very same networks and loss by ours, then our own.

pip install --target peers --no-deps pythae imageio cloudpickle
PYTHONPATH=peers python benchmarks/vae_peers.py [--epochs 5 | --minutes 3] [--fid] [--images 5000] [--only mlp]

The peer is pythae 0.1.2: its default MLP, and the residual (`resnet`) and the plain convolutional network (`conv`, 17
million parameters and over an hour for five epochs on one core, so only if asked for) that it has for MNIST, with the
settings of its own examples for MNIST: 16 latents, squared error, Adam at 1e-3, batches of 100, all else its defaults.
Its `BaseTrainer` (by itself at `--lr 1e-4 --batch-size 64`) reads its `BaseDataset` through a `DataLoader` in fp32.

Beside it stand copies of the same networks inside `imagegen.models.VAE`, with the same loss, batch size, optimizer and
learning rate, in our Trainer and data module: batches indexed in memory, bf16 where the processor has it, channels
last, a fused optimizer, no denormal numbers, and averaged weights, which are those that are scored. The first `--check`
steps of both are run in fp32 on the same batches and noise; their losses must be equal. The third row is one of our
configs as it stands. Nothing is evaluated while the clock runs, which it does for the whole call that trains.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from imagegen.callbacks import Budget, Progress
from imagegen.config import build
from imagegen.data import ImageDataModule
from imagegen.data.module import from_uint8, to_uint8
from imagegen.metrics.features import FeatureSource
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder
from imagegen.models import VAE
from imagegen.networks.autoencoder import Posterior, gaussian_posterior
from imagegen.objectives.lr_schedules import constant
from imagegen.run import quiet_lightning
from imagegen.trainer import has_bf16

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGE_SHAPE = (1, 28, 28)
OURS = {"mlp": "vae", "resnet": "conv_vae", "conv": "conv_vae"}  # the config beside each network of pythae
NUM_SCORED = 2000  # test images in the loss, and samples in the FID
SEED = 1_000_000
MAX_GAP = 1e-3  # relative, of two losses that are equal but for the order of sums


class PeerNetwork(nn.Module):
    """The networks of a VAE of pythae, which knows pixels in [0, 1], called as ours are (`networks.autoencoder`)."""

    def __init__(self, peer: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = peer.encoder, peer.decoder
        self.latent_dim: int = peer.latent_dim

    def infer(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[tuple[Tensor], Posterior]:
        out = self.encoder(0.5 * (images + 1))
        posterior = gaussian_posterior(out.embedding.float(), out.log_covariance.float(), noise)
        return self.decode(posterior.latents), posterior

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        return (self.decoder(latents).reconstruction.float(),)


@dataclass(frozen=True)
class HalfSquaredError:
    """The reconstruction term of pythae: a normal log density of pixels in [0, 1], deviation 1, less its constant."""

    num_levels: int = 256

    def log_prob(self, images: Tensor, *parameters: Tensor) -> Tensor:
        (location,) = parameters
        return -0.5 * (0.5 * (images + 1) - location).square().flatten(1).sum(1)

    def mean(self, *parameters: Tensor) -> Tensor:
        (location,) = parameters
        return 2 * location - 1


def peer_model(name: str) -> Any:
    from pythae import models
    from pythae.models.nn.benchmarks import mnist

    config = models.VAEConfig(input_dim=IMAGE_SHAPE, latent_dim=16)
    if name == "mlp":
        return models.VAE(config)
    encoder, decoder = {
        "resnet": (mnist.Encoder_ResNet_VAE_MNIST, mnist.Decoder_ResNet_AE_MNIST),
        "conv": (mnist.Encoder_Conv_VAE_MNIST, mnist.Decoder_Conv_AE_MNIST),
    }[name]
    return models.VAE(config, encoder=encoder(config), decoder=decoder(config))


def our_model(peer: Any, lr: float) -> VAE:
    """A copy of its networks in our VAE, with its loss, which ours divides to get bits per dimension.

    So are the gradients, and so must be the little number that Adam adds to them.
    """
    network = PeerNetwork(copy.deepcopy(peer)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    eps = 1e-8 / (math.prod(IMAGE_SHAPE) * math.log(2))
    return VAE(
        network=network,
        image_shape=IMAGE_SHAPE,
        num_classes=None,
        latent_dim=None,
        likelihood=HalfSquaredError(),
        beta=1.0,
        free_bits=0.0,
        input_noise=0.0,
        num_train_samples=1,
        lr=lr,
        optimizer=partial(torch.optim.Adam, eps=eps, fused=True),
        lr_schedule=constant,
        ema_half_life=50_000,
    )


def largest_gap(peer: Any, model: VAE, data: ImageDataModule, lr: float, steps: int) -> float:
    """The largest relative difference of the losses of copies of both, in steps on the same batches and noise."""
    peer, model = copy.deepcopy(peer), copy.deepcopy(model)
    optimizers = torch.optim.Adam(peer.parameters(), lr), model.configure_optimizers()
    gap = 0.0
    for step, (pixels, labels) in zip(range(steps), data.train_dataloader(), strict=False):
        images = from_uint8(pixels)
        torch.manual_seed(step)
        its_loss = peer({"data": 0.5 * (images + 1)}).loss
        torch.manual_seed(step)
        losses = model.losses(images, labels)
        gap = max(gap, abs(float((losses["reconstruction"] + losses["kl"]).detach() / its_loss.detach()) - 1))
        for loss, optimizer in zip((its_loss, losses["loss"]), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return gap


def train_peer(peer: Any, data: ImageDataModule, lr: float, epochs: int, minutes: float | None) -> tuple[int, float]:
    """Train with pythae's trainer: images seen, seconds. What it writes to a terminal goes nowhere, and takes less."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    images, labels = data.splits["train"]
    size, steps = data.batch_size, 0
    deadline = math.inf

    class Clock(TrainingCallback):  # type: ignore[misc]
        def on_train_step_end(self, training_config: Any, **_: Any) -> None:
            nonlocal steps
            steps += 1
            if time.perf_counter() > deadline:
                raise StopIteration

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=10**6 if minutes else epochs,
            per_device_train_batch_size=size,
            learning_rate=lr,
        )
        trainer = BaseTrainer(peer, BaseDataset(images / 255, labels), training_config=config, callbacks=[Clock()])
        start = time.perf_counter()
        deadline = start + 60 * (minutes or math.inf)
        with contextlib.suppress(StopIteration):
            trainer.train()
        seconds = time.perf_counter() - start
    logging.disable(logging.NOTSET)
    whole, left = divmod(steps, math.ceil(len(images) / size))  # epochs, steps of the last one
    return whole * len(images) + left * size, seconds


def train_ours(model: VAE, data: ImageDataModule, epochs: int, minutes: float | None) -> tuple[int, float]:
    """Train with our Trainer as `train.py` builds it, less evaluations and checkpoints: images seen, seconds."""
    cfg = config("vae")
    if minutes is None:
        cfg.trainer.max_epochs = epochs
    else:
        cfg.trainer.max_time = f"00:00:{int(minutes):02d}:{round(minutes % 1 * 60):02d}"
    trainer = build(
        cfg.trainer,
        "trainer",
        callbacks=[Budget(val_every_images=10**9, seed=0), Progress()],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )
    torch.set_flush_denormal(True)  # as every run of ours does
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(model, data)
    seconds = time.perf_counter() - start
    torch.set_flush_denormal(False)
    return model.images_seen, seconds


def config(model: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=[f"model={model}", "data=mnist", "run_dir=unused"])


@torch.no_grad()
def test_loss(model: Any, data: ImageDataModule) -> float:
    """Mean loss of test images in fp32: that of pythae's own forward pass, or of our averaged weights."""
    images, labels = (part[:NUM_SCORED] for part in data.splits["test"])
    model.eval()
    torch.manual_seed(0)
    total = 0.0
    for pixels, classes in zip(images.split(500), labels.split(500), strict=True):
        x = from_uint8(pixels)
        is_ours = isinstance(model, VAE)
        loss = model.evaluation_losses(x, classes)["nll"] if is_ours else model({"data": 0.5 * (x + 1)}).loss
        total += float(loss) * len(x)
    return total / len(images)


@torch.no_grad()
def fid(model: Any, scores: GenerationScores) -> str:
    if isinstance(model, VAE):
        images, _ = scores.draw(model, NUM_SCORED)
    else:
        torch.manual_seed(SEED)
        latents = torch.randn(NUM_SCORED, model.latent_dim).split(500)
        images = torch.cat([to_uint8(2 * model.decoder(z).reconstruction - 1) for z in latents])
    values = scores.score(images)
    return f"{values['fid']:.2f} ± {values['fid_se']:.2f}"


def contenders(
    name: str, data: ImageDataModule, arguments: argparse.Namespace
) -> Iterator[tuple[str, Any, Callable[[], tuple[int, float]]]]:
    """One network of pythae, by its trainer and by ours, and our own config beside it: name, model, how to train it."""
    length = {"epochs": arguments.epochs, "minutes": arguments.minutes}
    data.batch_size, own_size = arguments.batch_size, data.batch_size
    torch.manual_seed(0)
    peer = peer_model(name)
    same = our_model(peer, arguments.lr)
    gap = largest_gap(peer, same, data, arguments.lr, arguments.check)
    print(f"{name}: losses of {arguments.check} steps differ by {gap:.0e} at most, relatively", file=sys.stderr)
    if gap > MAX_GAP:
        raise SystemExit(f"{name}: the networks or the losses are not the same")
    yield f"{name}, pythae", peer, partial(train_peer, peer, data, arguments.lr, **length)
    yield f"{name}, imagegen", same, partial(train_ours, same, data, **length)
    data.batch_size = own_size
    own = build(config(OURS[name]).model, "model")
    yield f"`model={OURS[name]}` *", own, partial(train_ours, own, data, **length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="train each for so long, instead of epochs")
    parser.add_argument("--images", type=int, help="so many training images instead of all 55,000")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--check", type=int, default=20, help="steps whose losses must be equal")
    parser.add_argument("--fid", action="store_true", help=f"score {NUM_SCORED} samples of each, too")
    parser.add_argument("--only", nargs="+", default=["mlp", "resnet"], choices=[*OURS])
    arguments = parser.parse_args()
    quiet_lightning()
    data: ImageDataModule = build(config("vae").data, "data")
    data.prepare_data()
    scores = None
    if arguments.fid:
        features = FeatureSource().load("mnist", 10)
        assert features is not None
        reference = Reference(features, dict(data.splits), "test", default_folder())
        scores = GenerationScores(reference, SEED, is_full=False)
    images, labels = data.splits["train"]
    data.splits["train"] = images[: arguments.images], labels[: arguments.images]
    print(f"{torch.get_num_threads()} threads, ours in {'bf16' if has_bf16('cpu') else 'fp32'}\n")
    print("| networks, trainer | images seen | images/s | ratio | test loss " + ("| FID |" if scores else "|"))
    print("|---" * (5 + bool(scores)) + "|")
    for name in arguments.only:
        its_speed = None
        for label, model, train in contenders(name, data, arguments):
            seen, seconds = train()
            its_speed = its_speed or seen / seconds
            row = f"| {label} | {seen:,} | {seen / seconds:,.0f} | {seen / seconds / its_speed:.2f} "
            row += f"| {test_loss(model, data):.2f} "
            print(row + (f"| {fid(model, scores)} |" if scores else "|"), flush=True)
    print(f"\nTest loss of {NUM_SCORED} images: half the squared error of pixels in [0, 1], summed, and the KL term;")
    print("* by another measure: a bound in nats of 8-bit pixels.")


if __name__ == "__main__":
    main()
