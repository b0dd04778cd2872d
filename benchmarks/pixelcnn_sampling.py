"""Speed of PixelCNN sampling: the cache against one full pass per pixel, with the same weights and random numbers.

Run `python benchmarks/pixelcnn_sampling.py`; `--images 16 64` sets the numbers of images, `--threads` the cores.
A full pass costs the same for every pixel, so the naive loop draws only the first `--naive-pixels` (784: all) and its
time is scaled up. The last column says how many of those pixels both ways draw alike.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial

import torch
from imagegen.models.pixelcnn import inverse_cdf
from torch import Tensor

from imagegen.networks.pixelcnn import PixelCNN

IMAGE_SHAPE = (1, 28, 28)
STEPS = list(itertools.product(range(28), range(28)))


@torch.no_grad()
def naive(network: PixelCNN, uniforms: Tensor, num_pixels: int) -> Tensor:
    """Evaluate whole images for each of the first pixels."""
    images = torch.zeros_like(uniforms)
    for row, col in STEPS[:num_pixels]:
        logits = network(images)[:, :, 0, row, col]
        images[:, 0, row, col] = inverse_cdf(logits, uniforms[:, 0, row, col]) / 127.5 - 1
    return images


def cached(network: PixelCNN, uniforms: Tensor) -> Tensor:
    """Evaluate every layer once per pixel."""
    images = torch.zeros_like(uniforms)
    cache = network.start(len(uniforms))
    for row, col in STEPS:
        values = inverse_cdf(cache.logits(row, col, 0), uniforms[:, 0, row, col]) / 127.5 - 1
        cache.write(row, col, 0, values)
        images[:, 0, row, col] = values
    return images


def timed(draw: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return the images of `draw` and the seconds it took."""
    start = time.perf_counter()
    images = draw()
    return images, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--naive-pixels", type=int, default=84)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = PixelCNN(IMAGE_SHAPE).eval()
    cached(network, torch.rand(2, *IMAGE_SHAPE))  # warm up
    naive(network, torch.rand(2, *IMAGE_SHAPE), 2)
    print(f"PixelCNN of default size, {IMAGE_SHAPE} images, float32, {arguments.threads} threads")
    print(f"{'images':>7} {'naive s':>9} {'cached s':>9} {'ratio':>7} {'cached images/s':>16} {'same pixels':>12}")
    for num_images in arguments.images:
        uniforms = torch.rand(num_images, *IMAGE_SHAPE)
        num_pixels = arguments.naive_pixels
        by_cache, cached_seconds = timed(partial(cached, network, uniforms))
        by_passes, naive_seconds = timed(partial(naive, network, uniforms, num_pixels))
        naive_seconds *= len(STEPS) / num_pixels
        same = (by_cache - by_passes).flatten(1)[:, :num_pixels].abs().lt(1e-6).float().mean().item()
        print(
            f"{num_images:7d} {naive_seconds:9.1f} {cached_seconds:9.2f} {naive_seconds / cached_seconds:6.0f}x"
            f" {num_images / cached_seconds:16.0f} {same:11.2%}"
        )


if __name__ == "__main__":
    main()
