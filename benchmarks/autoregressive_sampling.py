"""Speed of autoregressive sampling: caches against one whole pass per pixel, with the same weights and random numbers.

Run `python benchmarks/autoregressive_sampling.py`; `--networks pixelsnail --images 16` picks some, `--threads` the
cores. A whole pass costs the same for every pixel, so the naive loop draws only some (`--naive-passes`) and its time is
scaled up. They are spread among the cached steps, so that other load falls on both alike. "same" says how many of those
pixels both ways draw alike; "limit" is the time of one whole pass at the measured peak, arithmetic that no cache saves,
and "of peak" what cached sampling reaches of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imagegen.networks.gated_pixelcnn import GatedPixelCNN
from imagegen.networks.image_transformer import ImageTransformer
from imagegen.networks.pixelcnn import PixelCNN
from imagegen.networks.pixelcnn_pp import PixelCNNPP
from imagegen.networks.pixelrnn import PixelRNN
from imagegen.networks.pixelsnail import PixelSNAIL
from imagegen.objectives.pixel_distributions import Categorical, LogisticMixture, PixelDistribution


class Case(NamedTuple):
    network: Callable[..., nn.Module]
    distribution: PixelDistribution
    image_shape: tuple[int, int, int]
    sizes: str


BINARY, GREY, COLOUR = Categorical(2), Categorical(), LogisticMixture()
CASES = {
    "pixelsnail": Case(partial(PixelSNAIL, width=64, num_blocks=8), BINARY, (1, 28, 28), "64 channels, 8 blocks"),
    "gated_pixelcnn": Case(
        partial(GatedPixelCNN, width=128, num_layers=10, num_dilations=1),
        BINARY,
        (1, 28, 28),
        "128 channels, 10 layers",
    ),
    "pixelcnn": Case(partial(PixelCNN, width=32, num_blocks=15), BINARY, (1, 28, 28), "16 channels, 15 layers"),
    "pixelcnn_default": Case(PixelCNN, GREY, (1, 28, 28), "32 channels, 6 layers, 8-bit"),
    "pixelcnn_pp": Case(PixelCNNPP, COLOUR, (3, 32, 32), "32 channels, 8-bit RGB"),
    "image_transformer": Case(ImageTransformer, BINARY, (1, 28, 28), "64 channels, 4 blocks"),
    "pixelrnn": Case(PixelRNN, BINARY, (1, 28, 28), "32 channels, 2 layers"),
}


def peak() -> float:
    """FLOP/s of the fastest of some matrix products and convolutions in float32."""
    best = 0.0
    for size in (256, 512, 1024):
        a, b = torch.randn(size, size), torch.randn(size, size)
        best = max(best, 2 * size**3 / min(seconds(partial(torch.mm, a, b)) for _ in range(10)))
    for channels in (64, 128, 256):
        convolution = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(16, channels, 14, 14).to(memory_format=torch.channels_last)
        fastest = min(seconds(partial(convolution, x)) for _ in range(10))
        best = max(best, 2 * channels**2 * 9 * 14 * 14 * 16 / fastest)
    return best


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def build(case: Case) -> nn.Module:
    torch.manual_seed(0)
    channels, distribution = case.image_shape[0], case.distribution
    network = case.network(
        case.image_shape,
        num_groups=distribution.num_groups(channels),
        num_parameters=distribution.num_parameters(channels),
        is_softmax=distribution.is_softmax,
    ).eval()
    for name, parameter in network.named_parameters():
        if parameter.abs().max() == 0 and "bias" not in name:  # a block that begins as the identity should do something
            nn.init.normal_(parameter, std=0.02)
    return network


@torch.inference_mode()
def compare(case: Case, network: nn.Module, num_images: int, num_passes: int) -> tuple[float, float, float]:
    """Seconds of the naive loop and of the cached one, share of equal pixels."""
    channels, height, width = case.image_shape
    distribution = case.distribution
    groups, size = distribution.num_groups(channels), channels // distribution.num_groups(channels)
    uniforms = torch.rand(num_images, height, width, groups, distribution.num_uniforms(channels))
    images = torch.zeros(num_images, height, width, channels)  # as pixels
    network(images.permute(0, 3, 1, 2))
    cache = network.start(num_images)  # type: ignore[operator]
    steps = [(row, col, group) for row, col in cache.places for group in range(groups)]
    check_at = {round((i + 0.5) * len(steps) / num_passes) for i in range(num_passes)}
    naive = cached = 0.0
    same: list[Tensor] = []
    for place, (row, col, group) in enumerate(steps):
        u, part = uniforms[:, row, col, group], slice(group * size, (group + 1) * size)
        if place in check_at:
            start = time.perf_counter()
            parameters = network(images.permute(0, 3, 1, 2)).permute(0, 3, 4, 2, 1)
            by_pass = distribution.draw(parameters[:, row, col, group], u, 1.0)
            naive += time.perf_counter() - start
        start = time.perf_counter()
        values = distribution.draw(cache.parameters(row, col, group), u, 1.0)
        cache.write(row, col, group, values)
        images[:, row, col, part] = values
        cached += time.perf_counter() - start
        if place in check_at:
            same.append(values.sub(by_pass).abs().lt(1e-6).all(-1).flatten())
    num_naive = height * width * groups
    return naive / len(check_at) * num_naive, cached, float(torch.cat(same).float().mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--images", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--naive-passes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    limit = peak()
    print(f"float32, {arguments.threads} threads, measured peak {limit / 1e9:.0f} GFLOP/s")
    print(f"naive: scaled up from {arguments.naive_passes} whole passes")
    print(f"{'images':>25} {'naive s':>8} {'cached s':>8} {'ratio':>6} {'limit s':>8} {'of peak':>7} {'same':>6}")
    for name in arguments.networks:
        case = CASES[name]
        network = build(case)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *case.image_shape))
        print(f"{name}: {case.sizes}, {'x'.join(map(str, case.image_shape))}")
        for num_images in arguments.images:
            naive, cached, same = compare(case, network, num_images, arguments.naive_passes)
            least = counter.get_total_flops() * num_images / limit
            print(
                f"{num_images:25d} {naive:8.0f} {cached:8.2f} {naive / cached:5.0f}x {least:8.3f}"
                f" {least / cached:7.1%} {same:6.1%}"
            )


if __name__ == "__main__":
    main()
