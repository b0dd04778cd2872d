"""DiT: a transformer over patches of a noisy picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.mixture_of_experts import MixtureOfExperts, Routing, feed_forward
from imagegen.networks.time_embedding import TimeEmbedding


class DiT(nn.Module):
    """Map noisy images (N, C, H, W), times (N,) of about [0, 1] and labels (N,) to (N, num_outputs * C, H, W).

    Peebles & Xie 2022 (arXiv:2212.09748) with adaLN-Zero blocks, which begin as the identity. Patches have 4x4 pixels,
    in pictures of less than 16 pixels 2x2 and of less than 8 one. With `num_experts` the feed-forward layers are
    mixtures, of whose experts each token passes `top_k`; `hidden` is then that of an expert. `labels` of `num_classes`
    mean "no label".
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 128,
        num_blocks: PositiveInt = 6,
        num_heads: PositiveInt = 4,
        hidden: PositiveInt = 512,
        num_experts: PositiveInt | None = None,
        top_k: PositiveInt = 2,
        num_outputs: PositiveInt = 1,
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        if width % (4 * num_heads):
            raise ValueError(f"width must be a multiple of 4 num_heads = {4 * num_heads}, got {width}")
        self.num_outputs = num_outputs
        self.patch_size = 4 if min(sides) >= 16 else 2 if min(sides) >= 8 else 1
        if any(side % self.patch_size for side in sides):
            raise ValueError(f"DiT cuts images into patches: {sides} must divide by {self.patch_size}")
        rows, columns = (side // self.patch_size for side in sides)
        folded = channels * self.patch_size**2
        self.embedding = TimeEmbedding(width // 2, width, num_classes)
        self.stem = nn.Linear(folded, width)
        self.positions: Tensor
        self.register_buffer("positions", positions(rows, columns, width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, _feed_forward(width, hidden, num_experts, top_k)) for _ in range(num_blocks)
        )
        self.head_modulation = _zero(nn.Linear(width, 2 * width))
        self.head = _zero(nn.Linear(width, num_outputs * folded))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.embedding(t, labels)
        x = F.pixel_unshuffle(x, self.patch_size)
        size = x.shape[2:]
        tokens = self.stem(x.flatten(2).transpose(1, 2)) + self.positions  # (N, T, width)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.head_modulation(embedding)[:, None].chunk(2, dim=2)
        out = self.head(_modulated(tokens, shift, scale))
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, size), self.patch_size)

    def routings(self) -> list[Routing]:
        """Where the tokens of the last pass went, block by block; empty without experts."""
        layers = [block.feed_forward for block in self.blocks]
        found = [layer.routing for layer in layers if isinstance(layer, MixtureOfExperts)]
        return [routing for routing in found if routing is not None]


class Block(nn.Module):
    """Attention and a feed-forward layer, both shifted, scaled and gated by the embedding (N, width): adaLN-Zero."""

    def __init__(self, width: int, num_heads: int, feed_forward: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = _zero(nn.Linear(width, 6 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        first, second = self.modulation(embedding)[:, None].chunk(2, dim=2)
        shift, scale, gate = first.chunk(3, dim=2)
        x = x + gate * self._attention(_modulated(x, shift, scale))
        shift, scale, gate = second.chunk(3, dim=2)
        return x + gate * self.feed_forward(_modulated(x, shift, scale))  # type: ignore[no-any-return]

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (N, heads, T, d)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.project(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of the row and of the column of each patch: (rows * columns, width)."""
    frequencies = torch.exp(torch.linspace(0, -math.log(1e4), width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.stack([row.flatten(), column.flatten()], 1)[:, :, None] * frequencies  # (T, 2, width / 4)
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)


def _feed_forward(width: int, hidden: int, num_experts: int | None, top_k: int) -> nn.Module:
    if num_experts is None:
        return feed_forward(width, hidden)
    return MixtureOfExperts(width, hidden, num_experts, top_k)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
