"""Classification accuracy score: how well real images are classified by what was learned from samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.data.module import from_uint8
from imagegen.networks.convolutional_classifier import ConvolutionalClassifier

VERSION = 2  # of the recipe: what was measured by another is not to be compared
NUM_STEPS, BATCH_SIZE, WIDTH, LR = 400, 64, 32, 4e-3


def classification_accuracy(
    images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, num_classes: int, seed: int
) -> tuple[float, float]:
    """Accuracy on test images of a small classifier trained on images (N, C, H, W) and labels (N,), and its error.

    Ravuri & Vinyals 2019 (arXiv:1905.10887) with a network that takes a processor seconds: convolutions of width 32,
    400 steps of AdamW on batches of 64, in float32 everywhere. All images are uint8. The global random state is left
    alone, and it does not matter whether gradients are switched off, as in an evaluation.
    """
    device = images.device
    labels = labels.to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        network = ConvolutionalClassifier(images.shape[1:], num_classes, WIDTH, dropout=0.2).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05, fused=True)
        for step in range(NUM_STEPS):
            rows = torch.randint(len(images), (BATCH_SIZE,)).to(device)
            optimizer.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))
            loss = F.cross_entropy(network(from_uint8(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(from_uint8(batch.to(device))).argmax(1) for batch in torch.split(test_images, 1000)])
    accuracy = float((found == test_labels.to(device)).double().mean())
    return accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test_labels))


def joined(images: Tensor, labels: Tensor, more_images: Tensor, more_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of images and labels in one, the smaller repeated until it has as many rows as the other."""
    size = max(len(images), len(more_images))
    parts = [(images, labels), (more_images.to(images.device), more_labels.to(labels.device))]
    rows = [torch.arange(size, device=images.device) % len(part[0]) for part in parts]
    return (
        torch.cat([part[0][chosen] for part, chosen in zip(parts, rows, strict=True)]),
        torch.cat([part[1][chosen] for part, chosen in zip(parts, rows, strict=True)]),
    )
