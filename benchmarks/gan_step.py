"""Training steps of GANs against public code: the same networks, first checked to give the same losses, then timed.

Run `python benchmarks/gan_step.py`. The peers, on 32x32 colour pictures:

- SNGAN-32 of torch-mimicry 0.1.16, its own networks and training steps, five discriminator steps for one of the
  generator. `pip install --no-deps --target DIR torch-mimicry` and `--mimicry DIR`; its TensorFlow is not needed.
- a plain loop over DCGAN, as tutorials write it: binary cross entropies, images generated once for both networks.

Ours is the same pair of networks inside `imagegen.models.GAN`. The first `--check` steps of both run in fp64 on the
same noise; their losses must be equal. (In fp32 the last bit grows a millionfold in 50 steps of such a game.) Then both
are timed in turn, the peer as published (fp32), ours as it trains (bf16 where the processor has it, channels last,
fused optimizers).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.models import GAN
from imagegen.networks.convolutional import ConvolutionalDiscriminator, ConvolutionalGenerator
from imagegen.objectives.adversarial import Hinge, NonSaturating
from imagegen.objectives.lr_schedules import constant
from imagegen.trainer import has_bf16

IMAGE_SHAPE = (3, 32, 32)
Step = Callable[[Tensor], tuple[float, float | None]]  # a batch -> losses of the discriminator and the generator


class Peer(nn.Module):
    """A network of public code under our call: no labels, logits (N,)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        out: Tensor = self.network(x)
        return out if out.dim() == 4 else out.flatten()


def ours(
    generator: nn.Module,
    discriminator: nn.Module,
    objective: Any,
    latent_dim: int,
    num_steps: int,
    lr: float,
    bf16: bool,
) -> Step:
    """The training step of `GAN` over these networks, without a Trainer."""
    gan = GAN(
        network=generator,
        discriminator=discriminator,
        image_shape=IMAGE_SHAPE,
        num_classes=None,
        latent_dim=latent_dim,
        objective=objective,
        penalty=None,
        weight_clip=None,
        regularization=None,
        augmentation=None,
        growth=None,
        num_discriminator_steps=num_steps,
        lr=lr,
        discriminator_lr=lr,
        optimizer=partial(torch.optim.Adam, betas=(0.0, 0.9), fused=True),
        lr_schedule=constant,
        ema_half_life=50_000,
    )
    optimizers = gan.configure_optimizers()
    gan.optimizers = lambda *_: optimizers  # type: ignore[method-assign]
    gan.manual_backward = lambda loss, *_, **__: loss.backward()  # type: ignore[method-assign]
    gan._trainer = SimpleNamespace(world_size=1)  # type: ignore[assignment]
    terms: dict[str, Tensor] = {}
    gan.record = terms.update  # type: ignore[assignment, method-assign]

    def step(images: Tensor) -> tuple[float, float | None]:
        terms.clear()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            gan.training_step((images, torch.zeros(len(images), dtype=torch.long)), 0)
        loss = terms.get("generator_loss")
        return float(terms["discriminator_loss"]), None if loss is None else float(loss)

    return step


def mimicry(folder: Path) -> tuple[nn.Module, nn.Module]:
    """torch-mimicry's SNGAN-32, imported without its package's `__init__`, which wants TensorFlow."""
    for name in ("torch_mimicry", "torch_mimicry.nets", "torch_mimicry.nets.sngan", "torch_mimicry.nets.gan"):
        package = ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.path.insert(0, str(folder))
    from torch_mimicry.nets.sngan.sngan_32 import (  # type: ignore[import-not-found]
        SNGANDiscriminator32,
        SNGANGenerator32,
    )

    return SNGANGenerator32(), SNGANDiscriminator32()


def mimicry_step(generator: Any, discriminator: Any, lr: float) -> Step:
    """Its training steps; the generator's comes after the fifth discriminator step, as in ours."""
    optimizers = [torch.optim.Adam(n.parameters(), lr, (0.0, 0.9)) for n in (generator, discriminator)]
    log = SimpleNamespace(add_metric=lambda name, value, **_: losses.update({name: float(value)}))
    losses: dict[str, float] = {}
    count = 0

    def step(images: Tensor) -> tuple[float, float | None]:
        nonlocal count
        count += 1
        losses.clear()
        batch = images, torch.zeros(len(images))
        discriminator.train_step(batch, generator, optimizers[1], log, device="cpu")
        if count % 5 == 0:
            generator.train_step(batch, discriminator, optimizers[0], log, device="cpu")
        return losses["errD"], losses.get("errG")

    return step


def tutorial_step(generator: nn.Module, discriminator: nn.Module, latent_dim: int, lr: float) -> Step:
    """The loop of many tutorials: real batch, fake batch, generator."""
    optimizers = [torch.optim.Adam(n.parameters(), lr, (0.0, 0.9)) for n in (generator, discriminator)]

    def step(images: Tensor) -> tuple[float, float | None]:
        ones, zeros = torch.ones(len(images)), torch.zeros(len(images))
        discriminator.zero_grad()
        real_loss = F.binary_cross_entropy_with_logits(discriminator(images), ones)
        real_loss.backward()
        fakes = generator(torch.randn(len(images), latent_dim))
        fake_loss = F.binary_cross_entropy_with_logits(discriminator(fakes.detach()), zeros)
        fake_loss.backward()
        optimizers[1].step()
        generator.zero_grad()
        loss = F.binary_cross_entropy_with_logits(discriminator(fakes), ones)
        loss.backward()
        optimizers[0].step()
        return real_loss.item() + fake_loss.item(), loss.item()

    return step


def gap(steps: tuple[Step, Step], batches: Tensor) -> float:
    """The largest relative difference of the losses of two steps on the same batches and noise, in fp64."""
    found: list[list[tuple[float, float | None]]] = []
    torch.set_default_dtype(torch.float64)
    for step in steps:
        found.append([])
        for i, images in enumerate(batches.double()):
            torch.manual_seed(i)  # the same noise for both
            with fixed_noise(i):
                found[-1].append(step(images))
    torch.set_default_dtype(torch.float32)
    return max(
        abs(a - b) / max(abs(b), 1e-3)
        for losses, others in zip(*found, strict=True)
        for a, b in zip(losses, others, strict=True)
        if a is not None and b is not None
    )


def compare(
    name: str, same: tuple[Step, Step], peer: Step, fast: Step, batch_size: int, check: int, seconds: float
) -> None:
    """Check that the losses of two steps are the `same`, then time `peer` and `fast` in turn, and print a row."""
    batches = torch.rand(check, batch_size, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    worst = gap(same, batches)
    speeds = {"peer": 0.0, "ours": 0.0}
    for _ in range(3):  # the best of three turns
        for who, step in (("peer", peer), ("ours", fast)):
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < seconds or count % 5:
                step(batches[count % check])
                count += 1
            speeds[who] = max(speeds[who], count * batch_size / (time.perf_counter() - start))
    ratio = speeds["ours"] / speeds["peer"]
    print(f"{name:<16} {check:>5} {worst:>16.1e} {speeds['peer']:>12.1f} {speeds['ours']:>12.1f} {ratio:>8.2f}")


class fixed_noise:  # noqa: N801
    """Every `torch.randn` of a step returns the same numbers: a peer that draws anew for each network must agree."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.randn = torch.randn

        def randn(*shape: Any, **_: Any) -> Tensor:
            size = shape[0] if isinstance(shape[0], tuple) else shape
            return self.randn(*size, generator=torch.Generator().manual_seed(self.seed))

        torch.randn = randn  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        torch.randn = self.randn


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mimicry", type=Path, help="the folder that holds torch_mimicry/")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--check", type=int, default=50, help="steps whose losses must be equal")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    timing = (arguments.batch_size, arguments.check, arguments.seconds)
    bf16 = has_bf16("cpu")
    print(f"{torch.get_num_threads()} threads, batch {arguments.batch_size}, ours in {'bf16' if bf16 else 'fp32'}")
    print(f"{'networks':<16} {'steps':>5} {'largest rel. gap':>16} {'peer img/s':>12} {'ours img/s':>12} {'ratio':>8}")
    torch.manual_seed(0)
    pair = ConvolutionalGenerator(IMAGE_SHAPE, 100), ConvolutionalDiscriminator(IMAGE_SHAPE)
    plain = copies(pair, memory_format=torch.contiguous_format)
    doubles = [copies(pair, dtype=torch.float64) for _ in range(2)]
    objective = NonSaturating()
    compare(
        "DCGAN",
        (tutorial_step(*doubles[0], 100, 2e-4), ours(*doubles[1], objective, 100, 1, 2e-4, False)),
        tutorial_step(*plain, 100, 2e-4),
        ours(*pair, objective, 100, 1, 2e-4, bf16),
        *timing,
    )
    if arguments.mimicry is not None:
        networks = mimicry(arguments.mimicry)
        exact, same = copies(networks, dtype=torch.float64), copies(networks, dtype=torch.float64)
        fast = copies(networks, memory_format=torch.channels_last)
        compare(
            "SNGAN (mimicry)",
            (mimicry_step(*exact, 2e-4), ours(*map(Peer, same), Hinge(), 128, 5, 2e-4, False)),
            mimicry_step(*networks, 2e-4),
            ours(*map(Peer, fast), Hinge(), 128, 5, 2e-4, bf16),
            *timing,
        )


def copies(networks: tuple[nn.Module, nn.Module], **to: Any) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator once more, in another format or precision."""
    return copy.deepcopy(networks[0]).to(**to), copy.deepcopy(networks[1]).to(**to)


if __name__ == "__main__":
    main()
