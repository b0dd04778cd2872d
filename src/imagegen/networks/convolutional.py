"""Convolutional generators and discriminators for pictures of any small size: plain (DCGAN) and residual (SNGAN).

Both begin at the smallest size to which the picture can be halved, about 4 pixels: 7, 14, 28 for MNIST, 4, 8, 16, 32
for CIFAR-10 and 2, 4, 8 for 8x8 digits. Labels, where there are any, reach the generator through its input (plain) or
its normalisations (residual), and the discriminator by concatenation (Mirza & Osindero 2014) or projection (Miyato &
Koyama 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from imagegen.networks.mlp import with_labels
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
        maybe_spectral = spectral_norm if spectral else _same
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
            planes = F.one_hot(_given(labels), self.num_classes).to(images.dtype)[:, :, None, None]
            images = torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], 1)
        return self.head(self.layers(images).flatten(1), labels)  # type: ignore[no-any-return]


class ResidualGenerator(nn.Module):
    """Residual blocks from the smallest size to half the picture's, whose channels are then unfolded into pixels.

    With labels, each normalisation is scaled and shifted by an embedding of the label and the latent (de Vries et al.
    2017; Brock et al. 2018); without normalisation, the blocks begin as identities (Zhang et al. 2019, Fixup).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 128,
        normalization: Normalization = "layer",
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        self.smallest = steps[0]
        embedding = width if num_classes is not None else None
        self.embed_label = nn.Embedding(num_classes, width) if num_classes is not None else None
        self.embed_latent = nn.Linear(latent_dim, width) if num_classes is not None else None
        self.project = nn.Linear(latent_dim, width * steps[0][0] * steps[0][1])
        self.blocks = nn.ModuleList(
            GeneratorBlock(width, normalization, embedding, upsample=i > 0) for i in range(len(steps) - 1)
        )
        self.norm = make_normalization(normalization, width)
        self.head = nn.Conv2d(width, 4 * image_shape[0], 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = None
        if self.embed_label is not None and self.embed_latent is not None:
            embedding = F.silu(self.embed_label(_given(labels)) + self.embed_latent(latents))
        x = self.project(latents).view(len(latents), -1, *self.smallest)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, embedding)
        return torch.tanh(F.pixel_shuffle(self.head(F.relu(self.norm(x))), 2))


class GeneratorBlock(nn.Module):
    """Two 3x3 convolutions beside a skip connection; `upsample` doubles the size first."""

    def __init__(self, width: int, normalization: Normalization, embedding: int | None, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1, self.norm2 = (make_normalization(normalization, width) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.modulate = None if embedding is None else nn.Linear(embedding, 4 * width)
        if self.modulate is not None:
            _zero(self.modulate)
        if normalization == "none":
            _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        hidden, second = self.norm1(x), None
        if self.modulate is not None:
            scale, shift, *second = self.modulate(embedding)[:, :, None, None].chunk(4, 1)
            hidden = torch.addcmul(shift, hidden, 1 + scale)
        hidden = self.norm2(self.conv1(F.relu(hidden)))
        if second is not None:
            hidden = torch.addcmul(second[1], hidden, 1 + second[0])
        return x + self.conv2(F.relu(hidden))  # type: ignore[no-any-return]


class ResidualDiscriminator(nn.Module):
    """Images (N, C, H, W), folded 2x2 into channels, through residual blocks to logits (N,)."""

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 128,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else _same
        num_blocks = len(sizes(image_shape)) - 1
        self.stem = maybe_spectral(nn.Conv2d(4 * image_shape[0], width, 3, padding=1))
        self.blocks = nn.ModuleList(DiscriminatorBlock(width, spectral, i < num_blocks - 1) for i in range(num_blocks))
        self.head = Head(width, num_classes, maybe_spectral)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return self.head(F.leaky_relu(x, 0.2).mean((2, 3)), labels)  # type: ignore[no-any-return]


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions beside a skip connection; `downsample` halves the size last."""

    def __init__(self, width: int, spectral: bool, downsample: bool) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else _same
        self.downsample = downsample
        self.conv1, self.conv2 = (maybe_spectral(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        if not spectral:
            _zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return F.avg_pool2d(x, 2) if self.downsample else x


class Head(nn.Module):
    """Features (N, D) to logits (N,): linear and, with labels, the inner product with an embedding of the label."""

    def __init__(self, num_features: int, num_classes: int | None, maybe_spectral: type[nn.Module] | object) -> None:
        super().__init__()
        self.linear = maybe_spectral(nn.Linear(num_features, 1))  # type: ignore[operator]
        self.embedding = None
        if num_classes is not None:
            self.embedding = maybe_spectral(nn.Embedding(num_classes, num_features))  # type: ignore[operator]

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        logits: Tensor = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(_given(labels)) * features).sum(1)
        return logits


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _same(layer: nn.Module) -> nn.Module:
    return layer


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this network is conditional and needs labels")
    return labels


def _normal_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), as in Radford et al. 2015, sec. 4."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not hasattr(module, "parametrizations"):
        nn.init.normal_(module.weight, std=0.02)
