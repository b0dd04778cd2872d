"""The gated PixelCNN: a vertical and a horizontal stack, which together see the whole past of a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from imagegen.networks.causal import CausalNetwork, Memory
from imagegen.networks.causal_layers import LabelBias, PixelConv, RowConv

FIRST_KERNEL_SIZE = 7


class GatedPixelCNN(CausalNetwork):
    """van den Oord et al. 2016 (arXiv:1606.05328), fig. 2 and eq. 4.

    The vertical stack sees all rows above, one row after the other, the horizontal stack what is on the left in the own
    row and, through the vertical stack, everything above: no blind spot. Kernels are cropped to `kernel_size // 2 + 1`
    rows or columns. Labels add a bias to every gate. As in `PixelCNN`, a bias for every position and dilations 1, 2, 4
    in turn are added to the paper's layers.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 32,
        num_layers: PositiveInt = 6,
        kernel_size: PositiveInt = 3,
        num_dilations: PositiveInt = 3,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes, width, num_groups, num_parameters, is_softmax)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        channels, height, image_width = image_shape
        reach = FIRST_KERNEL_SIZE // 2
        self.position_bias = nn.Parameter(torch.zeros(height, image_width, width))
        self.first_vertical = RowConv(channels, width, reach, FIRST_KERNEL_SIZE)
        self.first_horizontal = PixelConv(channels, width, 1, reach)
        self.layers = nn.ModuleList(
            GatedLayer(width, kernel_size, 2 ** (i % num_dilations), num_classes) for i in range(num_layers)
        )

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """For the first layer a position's bias, for each other layer what its gate gets from the vertical stack."""
        position_bias = self.position_bias if memory is None else self.position_bias[memory.row]
        v = self.first_vertical(above, memory)
        v = v + position_bias.to(v.dtype)
        contexts = [v]
        for layer in self.layers:
            v, context = layer.vertical(v, labels, memory)  # type: ignore[operator]
            contexts.append(context)
        return contexts

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        x: Tensor = self.first_horizontal(before, memory) + contexts[0]
        for layer, context in zip(self.layers, contexts[1:], strict=True):
            x = layer.horizontal(x, context, memory)  # type: ignore[operator]
        return x


class GatedLayer(nn.Module):
    """One layer of both stacks; only the horizontal one has a residual connection."""

    def __init__(self, width: int, kernel_size: int, dilation: int, num_classes: int | None) -> None:
        super().__init__()
        reach = kernel_size // 2 + 1
        self.vertical_conv = RowConv(width, 2 * width, reach, kernel_size, dilation=dilation)
        self.label_bias = LabelBias(num_classes, 4 * width) if num_classes else None
        self.to_horizontal = nn.Linear(2 * width, 2 * width)
        self.horizontal_conv = PixelConv(width, 2 * width, 1, reach, dilation=dilation)
        self.merge = nn.Linear(width, width)

    def vertical(self, v: Tensor, labels: Tensor | None, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """The vertical stack's features (..., width), and its share (..., 2 * width) in the horizontal stack's gate."""
        x = self.vertical_conv(v, memory)
        context = self.to_horizontal(x)
        if self.label_bias is not None and labels is not None:
            vertical_bias, horizontal_bias = self.label_bias(labels, x).chunk(2, dim=-1)
            x, context = x + vertical_bias, context + horizontal_bias
        return gate(x), context

    def horizontal(self, x: Tensor, context: Tensor, memory: Memory | None) -> Tensor:
        """The horizontal stack's features (..., width)."""
        merged: Tensor = x + self.merge(gate(self.horizontal_conv(x, memory) + context))
        return merged


def gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of (..., 2 * width): eq. 2."""
    a, b = x.chunk(2, dim=-1)
    # tanh(a) = 2 sigmoid(2 a) - 1, which a processor computes several times faster
    return torch.sigmoid(2 * a).mul(2).sub(1) * torch.sigmoid(b)
