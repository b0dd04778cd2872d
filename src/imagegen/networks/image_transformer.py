"""The Image Transformer: a decoder-only transformer whose words are pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import CausalNetwork, Memory
from imagegen.networks.causal_layers import CausalAttention, LabelBias, PixelConv, RowConv


class ImageTransformer(CausalNetwork):
    """Parmar et al. 2018 (arXiv:1802.05751), with attention to all pixels before instead of to a neighbourhood.

    A place begins as what two small convolutions see of the pixels before it, a learned bias of its position and one of
    its label. Normalisation comes first in each block (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 4,
        num_heads: PositiveInt = 2,
        head_dim: PositiveInt = 32,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes, width, num_groups, num_parameters, is_softmax)
        channels, height, columns = image_shape
        self.position_bias = nn.Parameter(0.02 * torch.randn(height, columns, width))
        self.above = RowConv(channels, width, 2, 5)
        self.before = PixelConv(channels, width, 1, 3)
        self.label_bias = LabelBias(num_classes, width) if num_classes else None
        places = height * columns
        self.blocks = nn.ModuleList(Block(width, num_heads, head_dim, places) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """What a place gets from the rows above, its position and its label."""
        position_bias = self.position_bias if memory is None else self.position_bias[memory.row]
        x = self.above(above, memory)
        x = x + position_bias.to(x.dtype)
        if self.label_bias is not None and labels is not None:
            x = x + self.label_bias(labels, x)
        return [x]

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        x: Tensor = self.before(before, memory) + contexts[0]
        for block in self.blocks:
            x = block(x, memory)
        return self.norm(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a hidden layer, each added to its input."""

    def __init__(self, width: int, num_heads: int, head_dim: int, num_places: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, (num_heads + 2) * head_dim)
        self.attention = CausalAttention(num_heads, num_places)
        self.merge = nn.Linear(num_heads * head_dim, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)
        for layer in (self.merge, self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        x = x + self.merge(self.attention(self.query_key_value(self.attention_norm(x)), memory))
        return x + self.output(F.silu(self.hidden(self.hidden_norm(x))))  # type: ignore[no-any-return]
