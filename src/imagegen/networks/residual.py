"""Residual generators and discriminators for pictures of any small size: SNGAN's, with options SAGAN's and BigGAN's.

Both work at half the picture's size and less, on pixels folded 2x2 into channels, which saves three quarters of the
work. Labels reach the generator by scaling and shifting its normalisations, the discriminator by projection (Miyato &
Koyama 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from imagegen.networks.convolutional import Head, Normalization, make_normalization, sizes, unchanged
from imagegen.networks.mlp import given


class ResidualGenerator(nn.Module):
    """Residual blocks from the smallest size to half the picture's, whose channels are then unfolded into pixels.

    With labels, each normalisation is scaled and shifted by an embedding of the label and the latent (de Vries et al.
    2017; Brock et al. 2018). With `skip_latent` each block sees a part of the latent of its own beside the label, and
    the first layer only the first part (Brock et al. 2018, app. B). Without normalisation, the blocks begin as
    identities (Zhang et al. 2019, Fixup), and a `squash` by tanh can stick at the colour of a background: then better
    not. `attention` stands where the picture has a quarter of its size.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 128,
        normalization: Normalization = "layer",
        spectral: bool = False,
        attention: bool = False,
        skip_latent: bool = False,
        squash: bool = True,
    ) -> None:
        super().__init__()
        steps = sizes(image_shape)
        maybe_spectral = spectral_norm if spectral else unchanged
        self.smallest = steps[0]
        self.squash = squash
        num_blocks = len(steps) - 1
        part = latent_dim // (num_blocks + 1)
        if skip_latent and part == 0:
            raise ValueError(f"skip_latent splits the latent into {num_blocks + 1} parts: latent_dim {latent_dim}")
        self.parts = [latent_dim - num_blocks * part] + [part] * num_blocks if skip_latent else None
        embedding = (width if num_classes else 0) + part if skip_latent else width if num_classes else None
        self.embed_label = nn.Embedding(num_classes, width) if num_classes is not None else None
        self.embed_latent = None if skip_latent or num_classes is None else nn.Linear(latent_dim, width)
        first = latent_dim if self.parts is None else self.parts[0]
        self.project = maybe_spectral(nn.Linear(first, width * steps[0][0] * steps[0][1]))
        self.blocks = nn.ModuleList(
            GeneratorBlock(width, normalization, spectral, embedding, upsample=i > 0) for i in range(num_blocks)
        )
        self.attention = SelfAttention(width, spectral) if attention else None
        self.norm = make_normalization(normalization, width)
        self.head = maybe_spectral(nn.Conv2d(width, 4 * image_shape[0], 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        first, embeddings = self._embed(latents, labels)
        x = self.project(first).view(len(latents), -1, *self.smallest)
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (block, embedding) in enumerate(zip(self.blocks, embeddings, strict=True)):
            if self.attention is not None and i == len(self.blocks) - 1:
                x = self.attention(x)
            x = block(x, embedding)
        images = F.pixel_shuffle(self.head(F.relu(self.norm(x))), 2)
        return torch.tanh(images) if self.squash else images

    def _embed(self, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """What enters the first layer, and what modulates each block."""
        label = None if self.embed_label is None else self.embed_label(given(labels))
        if self.parts is not None:
            first, *rest = torch.split(latents, self.parts, dim=1)
            return first, rest if label is None else [torch.cat([label, part], 1) for part in rest]
        if label is None or self.embed_latent is None:
            return latents, [None] * len(self.blocks)
        return latents, [F.silu(label + self.embed_latent(latents))] * len(self.blocks)


class GeneratorBlock(nn.Module):
    """Two 3x3 convolutions beside a skip connection; `upsample` doubles the size first."""

    def __init__(
        self, width: int, normalization: Normalization, spectral: bool, embedding: int | None, upsample: bool
    ) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else unchanged
        self.upsample = upsample
        self.norm1, self.norm2 = (make_normalization(normalization, width) for _ in range(2))
        self.conv1, self.conv2 = (maybe_spectral(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        self.modulate = None if embedding is None else nn.Linear(embedding, 4 * width)
        if self.modulate is not None:
            _zero(self.modulate)
        if normalization == "none" and not spectral:
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
    """Images (N, C, H, W), folded 2x2 into channels, through residual blocks to logits (N,).

    `attention` stands where the picture has a quarter of its size.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 128,
        spectral: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else unchanged
        num_blocks = len(sizes(image_shape)) - 1
        self.stem = maybe_spectral(nn.Conv2d(4 * image_shape[0], width, 3, padding=1))
        self.blocks = nn.ModuleList(DiscriminatorBlock(width, spectral, i < num_blocks - 1) for i in range(num_blocks))
        self.attention = SelfAttention(width, spectral) if attention else None
        self.head = Head(width, num_classes, maybe_spectral)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attention is not None and i == 0:
                x = self.attention(x)
        return self.head(F.leaky_relu(x, 0.2).mean((2, 3)), labels)  # type: ignore[no-any-return]


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions beside a skip connection; `downsample` halves the size last."""

    def __init__(self, width: int, spectral: bool, downsample: bool) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else unchanged
        self.downsample = downsample
        self.conv1, self.conv2 = (maybe_spectral(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        if not spectral:
            _zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return F.avg_pool2d(x, 2) if self.downsample else x


class SelfAttention(nn.Module):
    """Each pixel of (N, C, H, W) looks at all others; its part in the sum begins at zero (Zhang et al. 2018, eq. 3)."""

    def __init__(self, width: int, spectral: bool) -> None:
        super().__init__()
        maybe_spectral = spectral_norm if spectral else unchanged
        narrow, half = max(width // 8, 1), max(width // 2, 1)
        self.query, self.key = (maybe_spectral(nn.Conv2d(width, narrow, 1, bias=False)) for _ in range(2))
        self.value = maybe_spectral(nn.Conv2d(width, half, 1, bias=False))
        self.output = maybe_spectral(nn.Conv2d(half, width, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))  # (N, D, H W)
        # Written out: penalties differentiate twice, which fused attention cannot.
        weights = torch.softmax((query.transpose(1, 2) @ key).float(), dim=2).to(value.dtype)  # (N, H W, H W)
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return torch.addcmul(x, self.gain, self.output(attended.contiguous(memory_format=torch.channels_last)))


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
