"""The convolutional generator and discriminator of DCGAN, and what other adversarial networks share with them.

They begin at the smallest size to which the picture can be halved, about 4 pixels: 7, 14, 28 for MNIST, 4, 8, 16, 32
for CIFAR-10 and 2, 4, 8 for 8x8 digits. Labels, where there are any, reach the generator through its input, and the
discriminator by concatenation (Mirza & Osindero 2014) or projection (Miyato & Koyama 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from imagegen.networks.mlp import given, with_labels
from imagegen.networks.unet import ChannelNorm

Normalization = Literal["batch", "layer", "none"]
Conditioning = Literal["concatenation", "projection"]


def sizes(image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """Heights and widths from the smallest to the picture's own, each twice the one before: three if possible."""
    height, width = image_shape[1:]
    found = [(height, width)]
    while height % 2 == 0 and width % 2 == 0 and (min(height, width) >= 8 or len(found) < 3):
        height, width = height // 2, width // 2
        found.insert(0, (height, width))
    if len(found) == 1:
        raise ValueError(f"convolutional networks halve pictures: {height}x{width} must be even and at least 8 pixels")
    return found


def make_normalization(kind: Normalization, channels: int) -> nn.Module:
    """The layer of a name."""
    layers: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelNorm, "none": nn.Identity}
    return layers[kind](channels)


class ConvolutionalGenerator(nn.Module):
    """DCGAN (Radford et al. 2015): latents (N, latent_dim) and labels (N,) to images (N, C, H, W) in (-1, 1)."""

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        normalization: Normalization = "batch",
        kernel_size: Literal[4, 5] = 4,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.num_classes = num_classes
        self.smallest = steps[0]
        channels = [width * 2 ** (len(steps) - 2 - i) for i in range(len(steps) - 1)] + [image_shape[0]]
        self.project = nn.Linear(latent_dim + (num_classes or 0), channels[0] * steps[0][0] * steps[0][1])
        layers: list[nn.Module] = []
        for before, after in zip(channels[:-1], channels[1:], strict=True):
            layers += [make_normalization(normalization, before), nn.ReLU()]
            padding, extra = (1, 0) if kernel_size == 4 else (2, 1)
            layers.append(nn.ConvTranspose2d(before, after, kernel_size, 2, padding, extra))
        self.layers = nn.Sequential(*layers)
        self.apply(_normal_weights)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        latents = with_labels(latents, labels, self.num_classes)
        x = self.project(latents).view(len(latents), -1, *self.smallest)
        return torch.tanh(self.layers(x.contiguous(memory_format=torch.channels_last)))


class ConvolutionalDiscriminator(nn.Module):
    """DCGAN's strided convolutions: images (N, C, H, W) and labels (N,) to logits (N,)."""

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        normalization: Normalization = "batch",
        spectral: bool = False,
        conditioning: Conditioning = "concatenation",
        kernel_size: Literal[4, 5] = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.num_classes = num_classes if conditioning == "concatenation" else None
        maybe_spectral = spectral_norm if spectral else unchanged
        channels = [image_shape[0] + (self.num_classes or 0), *(width * 2**i for i in range(len(steps) - 1))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            layers.append(
                maybe_spectral(nn.Conv2d(before, after, kernel_size, 2, kernel_size // 2 - (kernel_size == 4)))
            )
            layers += [
                make_normalization(normalization if i else "none", after),
                nn.LeakyReLU(0.2),
                nn.Dropout(dropout),
            ]
        self.layers = nn.Sequential(*layers)
        features = channels[-1] * steps[0][0] * steps[0][1]
        self.head = Head(features, num_classes if conditioning == "projection" else None, maybe_spectral)
        self.apply(_normal_weights)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.num_classes is not None:
            planes = F.one_hot(given(labels), self.num_classes).to(images.dtype)[:, :, None, None]
            images = torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], 1)
        return self.head(self.layers(images).flatten(1), labels)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Features (N, D) to logits (N,): linear and, with labels, the inner product with an embedding of the label."""

    def __init__(
        self, num_features: int, num_classes: int | None, maybe_spectral: Callable[[nn.Module], nn.Module]
    ) -> None:
        super().__init__()
        self.linear = maybe_spectral(nn.Linear(num_features, 1))
        self.embedding = None
        if num_classes is not None:
            self.embedding = maybe_spectral(nn.Embedding(num_classes, num_features))

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        logits: Tensor = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(given(labels)) * features).sum(1)
        return logits


def unchanged(layer: nn.Module) -> nn.Module:
    """The layer itself, where another kind of network wraps it."""
    return layer


def _normal_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), as in Radford et al. 2015, sec. 4."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not hasattr(module, "parametrizations"):
        nn.init.normal_(module.weight, std=0.02)
