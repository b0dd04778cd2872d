"""Training speed of the diffusion network on MNIST-sized images: images per second and share of the convolution peak.

python benchmarks/diffusion_speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from imagegen.networks.unet import UNet
from imagegen.trainer import has_bf16

BATCH = 128


def seconds(step: Callable[[], object], repeats: int = 15) -> float:
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some 3x3 convolutions at 14x14, best of many rounds: the layers' upper limit."""
    best = 0.0
    for channels in (64, 96, 128, 256):
        convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        x = torch.randn(BATCH, channels, 14, 14).to(dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            fastest = min(seconds(partial(convolution, x), 3) for _ in range(15))
        best = max(best, 2 * channels**2 * 9 * 14 * 14 * BATCH / fastest)
    return best


def main() -> None:
    dtype = torch.bfloat16 if has_bf16("cpu") else torch.float32
    limit = peak(dtype)
    print(f"{torch.get_num_threads()} threads, {dtype}, convolution peak {limit / 1e9:,.0f} GFLOP/s, batch {BATCH}")
    print(f"{'width':>5} {'blocks':>6} {'parameters':>10} {'GFLOP/image':>11} {'images/s':>8} {'of peak':>7}")
    for width, num_blocks in ((32, 1), (48, 1), (64, 1), (64, 2), (96, 1)):
        network = UNet((1, 28, 28), 10, width, num_blocks)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        images, t, labels = torch.randn(BATCH, 1, 28, 28), torch.rand(BATCH), torch.randint(0, 10, (BATCH,))
        with FlopCounterMode(display=False) as counter:
            network(images, t, labels)
        flops = counter.get_total_flops() / BATCH

        def step(
            network: UNet = network,
            optimizer: torch.optim.Optimizer = optimizer,
            images: torch.Tensor = images,
            t: torch.Tensor = t,
            labels: torch.Tensor = labels,
        ) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = (network(images, t, labels).float() - images).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        speed = BATCH / seconds(step)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        share = 3 * flops * speed / limit  # a backward pass costs two forward passes
        print(f"{width:5} {num_blocks:6} {parameters:10,} {flops / 1e9:11.3f} {speed:8,.0f} {share:7.1%}")


if __name__ == "__main__":
    main()
