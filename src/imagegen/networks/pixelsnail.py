"""PixelSNAIL: causal convolutions, and attention to everything before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import CausalNetwork, Memory
from imagegen.networks.causal_layers import CausalAttention, GatedResidual, LabelBias, PixelConv, RowConv

KERNEL_SIZE = 2


class PixelSNAIL(CausalNetwork):
    """Chen et al. 2017 (arXiv:1712.09763), fig. 2: blocks of gated convolutions and attention.

    A place attends to itself and all before; as its key and value are made of the pixel before it, no place is shut
    out, and none sees itself. The positions, which the paper gives to the attention, are here a learned bias of the
    first features; labels add a bias to every block.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 48,
        num_blocks: PositiveInt = 2,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 1,
        head_dim: PositiveInt = 32,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes, width, num_groups, num_parameters, is_softmax)
        channels, height, image_width = image_shape
        self.position_bias = nn.Parameter(torch.zeros(height, image_width, width))
        self.above = RowConv(channels, width, 3, 7)
        self.before = PixelConv(channels, width, 1, 3)
        self.label_biases = nn.ModuleList(LabelBias(num_classes, width) for _ in range(num_blocks) if num_classes)
        self.blocks = nn.ModuleList(
            Block(width, num_layers, num_heads, head_dim, channels, height * image_width) for _ in range(num_blocks)
        )

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """The first features of the rows above and, with labels, the bias of each block."""
        position_bias = self.position_bias if memory is None else self.position_bias[memory.row]
        x = self.above(above, memory)
        x = x + position_bias.to(x.dtype)
        return [x, *(bias(labels, x).expand_as(x) for bias in self.label_biases)]

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        x: Tensor = self.before(before, memory) + contexts[0]
        for i, block in enumerate(self.blocks):
            x = block(x, before, contexts[1 + i] if self.label_biases else None, memory)
        return x


class Block(nn.Module):
    """Gated residual convolutions, attention, and a gated layer that takes up what it found."""

    def __init__(
        self, width: int, num_layers: int, num_heads: int, head_dim: int, channels: int, num_places: int
    ) -> None:
        super().__init__()
        conv = partial(PixelConv, rows=KERNEL_SIZE, columns=KERNEL_SIZE)
        self.layers = nn.ModuleList(GatedResidual(conv, width) for _ in range(num_layers))
        inner = num_heads * head_dim
        self.query_key_value = nn.Linear(width + channels, inner + 2 * head_dim)
        self.attention = CausalAttention(num_heads, num_places)
        self.merge = nn.Linear(inner + width, 2 * width)
        nn.init.zeros_(self.merge.weight)
        nn.init.zeros_(self.merge.bias)

    def forward(self, x: Tensor, before: Tensor, context: Tensor | None, memory: Memory | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, context, memory)
        query_key_value = self.query_key_value(torch.cat([x, before.to(x.dtype)], -1))
        found = self.attention(query_key_value, memory)
        return x + F.glu(self.merge(torch.cat([F.silu(x), found], -1)), -1)
