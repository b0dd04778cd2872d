"""Training speed of the gated PixelCNN: cropped kernels in bf16 against masked kernels in float32, side by side.

python benchmarks/gated_pixelcnn_training.py

The masked network has the same weights in kernels that are twice as high, or wide, and multiplies them by a mask, as
public versions do. First both train 50 steps in float32 on the same pictures: their losses must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.data.digits import read
from imagegen.networks.causal import Memory
from imagegen.networks.causal_layers import PixelConv, RowConv
from imagegen.networks.gated_pixelcnn import GatedPixelCNN
from imagegen.objectives.pixel_distributions import Categorical
from imagegen.trainer import has_bf16

IMAGE_SHAPE = (1, 28, 28)


class Masked(nn.Conv2d):
    """A cropped convolution again with all of its kernel, in which a mask hides what lies below or on the right."""

    mask: Tensor

    def __init__(self, cropped: RowConv | PixelConv) -> None:
        rows, columns = cropped.kernel_size
        full = 2 * rows - 1, columns if isinstance(cropped, RowConv) else 2 * columns - 1
        super().__init__(cropped.in_channels, cropped.out_channels, full, padding=(full[0] // 2, full[1] // 2))
        mask = torch.zeros(full)
        mask[:rows, :columns] = 1
        self.register_buffer("mask", mask)
        with torch.no_grad():
            self.weight[:, :, :rows, :columns] = cropped.weight
            self.bias.copy_(cropped.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight * self.mask, self.bias, padding=self.padding)
        return y.permute(0, 2, 3, 1)


def masked(network: nn.Module) -> nn.Module:
    """The same network with masked kernels."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, RowConv | PixelConv):
                setattr(module, name, Masked(child))
    return network


class Training:
    """Steps of AdamW on batches of pictures, and the CPU seconds they took."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.network, self.dtype = network, dtype
        self.distribution = Categorical(2)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
        self.seconds = 0.0

    def step(self, images: Tensor) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = -self.distribution.log_prob(images, self.network(images)).mean() / images[0].numel()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds += time.process_time() - start
        return loss.item()


def pictures(num: int, size: int) -> Tensor:
    """Black and white digits, enlarged."""
    images = read(None)["train"][0][:num].float()
    return (F.interpolate(images, size=(size, size)) > 127).float() * 2 - 1


def main() -> None:
    """Print losses and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    small = GatedPixelCNN((1, 14, 14), width=32, num_layers=5, num_dilations=1, num_parameters=2)
    pair = Training(small, torch.float32), Training(masked(small), torch.float32)
    images = pictures(50 * 8, 14)
    losses = [[training.step(images[8 * i : 8 * i + 8]) for training in pair] for i in range(50)]
    largest = max(abs(a - b) for a, b in losses)
    print(f"50 steps in float32: loss {losses[0][0]:.4f} to {losses[-1][0]:.4f} nats, difference at most {largest:.1e}")

    network = GatedPixelCNN(IMAGE_SHAPE, width=128, num_layers=10, num_dilations=1, num_parameters=2)
    images = pictures(arguments.batch, 28)
    kinds = {
        "masked, float32": Training(masked(network), torch.float32),
        "cropped, float32": Training(copy.deepcopy(network), torch.float32),
    }
    if has_bf16("cpu"):
        kinds["masked, bf16"] = Training(masked(network), torch.bfloat16)
        kinds["cropped, bf16"] = Training(copy.deepcopy(network), torch.bfloat16)
    else:
        print("bf16 is left out: this processor only imitates it, many times slower")
    for i in range(1 + arguments.steps):  # in turn, so that other load falls on all alike; the first step warms up
        for training in kinds.values():
            training.step(images)
            training.seconds *= i > 0
    print(f"128 channels, 10 layers, 28x28, batches of {arguments.batch}, {arguments.threads} threads, CPU time")
    for name, training in kinds.items():
        per_second = arguments.batch * arguments.steps * arguments.threads / training.seconds
        print(f"{name:<17} {per_second:6.1f} images/s, {kinds['masked, float32'].seconds / training.seconds:4.2f}x")


if __name__ == "__main__":
    main()
