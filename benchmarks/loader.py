"""Time an epoch of MNIST batches: our loader beside torch's DataLoader over single images.

All shuffle, make batches of 128 and turn uint8 into float32 in [-1, 1]. DataLoader is timed over two data sets: one
indexes a tensor, the least that a per-image data set can do; the other makes a PIL image first and converts it back, as
torchvision's MNIST with ToTensor and Normalize does. Without MNIST in the data folder, random images of the same number
and size are used; the time does not depend on the content.

    python benchmarks/loader.py [--data-dir DIR] [--repeats N]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imagegen.data import mnist
from imagegen.data.module import BatchLoader, from_uint8

BATCH_SIZE = 128


class SingleTensors(Dataset[tuple[Tensor, Tensor]]):
    """One image at a time, normalised in `__getitem__`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return from_uint8(self.images[index]), self.labels[index]


class SinglePictures(SingleTensors):
    """The same by way of a PIL image, in the steps of ToTensor and Normalize(0.5, 0.5)."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image (1, 28, 28) and its label."""
        picture = Image.fromarray(self.images[index, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, copy=True)).view(picture.height, picture.width, 1)
        image = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, deviation = torch.as_tensor([0.5]), torch.as_tensor([0.5])
        return image.sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1)), self.labels[index]


def load(data_dir: Path | None) -> tuple[Tensor, Tensor, str]:
    """Return the 55000 training images and labels of MNIST, or random ones, and which of the two."""
    if data_dir is not None and all((data_dir / "mnist" / name).exists() for name in mnist.SHA256):
        return *mnist.read(data_dir)["train"], "MNIST"
    images = torch.randint(256, (55_000, 1, 28, 28), dtype=torch.uint8)
    return images, torch.randint(10, (55_000,)), "random images"


def ours(images: Tensor, labels: Tensor) -> Callable[[], int]:
    """Return a function that goes through an epoch and counts its images."""
    loader = BatchLoader(images, labels, BATCH_SIZE, shuffle=True, seed=0, drop_last=True)
    return lambda: sum(len(from_uint8(batch)) for batch, _ in loader)


def theirs(dataset: SingleTensors, num_workers: int) -> Callable[[], int]:
    """Return the same for torch's DataLoader."""
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=num_workers)
    return lambda: sum(len(batch) for batch, _ in loader)


def best_time(epoch: Callable[[], int], repeats: int) -> tuple[float, int]:
    """Return the shortest time of an epoch in seconds, and the number of its images."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        num_images = epoch()
        times.append(time.perf_counter() - start)
    return min(times), num_images


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/")
    parser.add_argument("--repeats", type=int, default=3, help="epochs per loader, of which the fastest counts")
    arguments = parser.parse_args()
    images, labels, name = load(arguments.data_dir)
    loaders = {
        "BatchLoader": ours(images, labels),
        "DataLoader, tensors, 0 workers": theirs(SingleTensors(images, labels), 0),
        "DataLoader, tensors, 2 workers": theirs(SingleTensors(images, labels), 2),
        "DataLoader, PIL, 0 workers": theirs(SinglePictures(images, labels), 0),
        "DataLoader, PIL, 2 workers": theirs(SinglePictures(images, labels), 2),
    }
    print(f"{name}, {len(images)} images, batches of {BATCH_SIZE}, {torch.get_num_threads()} threads")
    print(f"{'loader':32}{'seconds/epoch':>15}{'images/s':>14}{'time ratio':>12}")
    first = None
    for label, epoch in loaders.items():
        seconds, num_images = best_time(epoch, arguments.repeats)
        first = first or seconds
        print(f"{label:32}{seconds:15.4f}{num_images / seconds:14.0f}{seconds / first:12.1f}")


if __name__ == "__main__":
    main()
