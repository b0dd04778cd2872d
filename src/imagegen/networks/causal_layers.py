"""Layers that see only the past of an image in raster order: whole images at once, or one row or pixel after the other.

Features lie as (N, H, W, C), the channels last. A layer that mixes places takes `memory`: None for whole images, else
what the layers remember of images that are drawn pixel by pixel. Then it is given one row (N, W, C) or one pixel (N, C)
at a time, in order, and returns the same numbers as for whole images; together this costs about one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import Memory


class RowConv(nn.Conv2d):
    """A convolution over the own row and those above, on both sides alike: one row after the other.

    Its kernel is cropped: a kernel with masked rows below would compute the same and as many zeros.
    """

    def __init__(
        self, in_channels: int, out_channels: int, rows: int, columns: int, stride: int = 1, dilation: int = 1
    ) -> None:
        if columns % 2 == 0:
            raise ValueError(f"columns must be odd, got {columns}")
        padding = 0, columns // 2 * dilation
        super().__init__(in_channels, out_channels, (rows, columns), stride, padding, dilation)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        num_above = (self.kernel_size[0] - 1) * self.dilation[0]
        if memory is None:
            return convolved(self, F.pad(x, (0, 0, 0, 0, num_above, 0)))
        above = memory.recall(self, lambda: x.new_zeros(len(x), num_above, *x.shape[1:]))
        window = torch.cat([above, x[:, None]], 1)
        memory.states[self] = window[:, 1:]
        return convolved(self, window)[:, 0]


class PixelConv(nn.Conv2d):
    """A convolution over the own pixel, the columns left of it and the rows above those: one pixel after the other."""

    def __init__(
        self, in_channels: int, out_channels: int, rows: int, columns: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, (rows, columns), stride, 0, dilation)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        if memory is None:
            above, left = ((size - 1) * self.dilation[0] for size in self.kernel_size)
            return convolved(self, F.pad(x, (0, 0, left, 0, above, 0)))
        state = memory.recall(self, lambda: PixelConvState(self, memory.num_images, memory.width))
        return state.advance(x)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of features (N, H, W, C), already padded above and on the left."""
    padding = (0, conv.padding[1])
    x = x.permute(0, 3, 1, 2)
    y = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation)  # type: ignore[arg-type]
    return y.permute(0, 2, 3, 1)


class PixelConvState:
    """The inputs that one `PixelConv` still needs, as it advances by one pixel in each call.

    What the finished rows give is computed for a whole row at once, when it begins. The taps in the own row are, if the
    kernel is not dilated, a run of numbers, which enters one matrix product without being copied.
    """

    def __init__(self, conv: PixelConv, num_images: int, width: int) -> None:
        self.conv = conv
        self.width = width
        self.dilation = conv.dilation[0]
        above, self.left = ((size - 1) * self.dilation for size in conv.kernel_size)
        self.rows = conv.weight.new_zeros(num_images, above, width + self.left, conv.in_channels)
        self.own = conv.weight.new_zeros(num_images, width + self.left, conv.in_channels)
        self.weight = conv.weight[:, :, -1].permute(2, 1, 0).flatten(0, 1).contiguous()  # (columns * channels, outputs)
        self.col = 0

    def advance(self, x: Tensor) -> Tensor:
        """The output (N, outputs) at the next pixel, of which x (N, channels) is the input."""
        if self.col == 0:
            self.from_rows = self._begin_row()
        self.own[:, self.col + self.left] = x
        taps = self.own[:, self.col : self.col + self.left + 1 : self.dilation].flatten(1)
        output = torch.addmm(self.from_rows[self.col], taps, self.weight)
        self.col = (self.col + 1) % self.width
        return output

    def _begin_row(self) -> Sequence[Tensor]:
        conv = self.conv
        assert conv.bias is not None
        if self.rows.shape[1] == 0:
            return [conv.bias] * self.width
        self.rows = torch.cat([self.rows[:, 1:], self.own[:, None]], 1)  # before the first row, zeros
        above = F.conv2d(self.rows.permute(0, 3, 1, 2), conv.weight[:, :, :-1], conv.bias, dilation=conv.dilation)
        return above[:, :, 0].permute(0, 2, 1).unbind(1)


class GatedResidual(nn.Module):
    """x + a * sigmoid(b), with a and b from two causal convolutions (Salimans et al. 2017, sec. 2.4; Chen et al. 2017).

    SiLU stands in for the papers' concatenated ELU, which doubles the cost of a convolution. The context is added
    between them. The block begins as the identity.
    """

    def __init__(self, conv: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, 2 * width)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None, memory: Memory | None) -> Tensor:
        hidden = self.first(F.silu(x), memory)
        if context is not None:
            hidden = hidden + context.to(hidden.dtype)  # under autocast the sum stays in bf16
        gated: Tensor = x + F.glu(self.second(F.silu(hidden), memory), -1)
        return gated


class LabelBias(nn.Module):
    """A bias (N, ..., width) for features (N, ..., width) of labels (N,).

    It begins large: from zeros, a short run learns all of neighbouring pixels before it cares for the class.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, width)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, labels: Tensor, like: Tensor) -> Tensor:
        """Biases that broadcast to the features `like`."""
        biases: Tensor = self.embedding(labels).to(like.dtype)
        return biases.view(len(like), *[1] * (like.dim() - 2), -1)


class CausalAttention(nn.Module):
    """Scaled dot products with the own place and all before it in raster order (Vaswani et al. 2017, sec. 3.2).

    All heads share their keys and values (Shazeer 2019, arXiv:1911.02150): in sampling, every pixel reads those of all
    pixels before. Takes queries, a key and a value side by side (..., (heads + 2) * dim); returns (..., heads * dim).
    """

    def __init__(self, num_heads: int, num_places: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_places = num_places

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        if memory is not None:
            state = memory.recall(self, lambda: AttentionState(x, self.num_heads, self.num_places))
            return state.advance(x)
        by_head = x.view(len(x), self.num_places, self.num_heads + 2, -1).transpose(1, 2)  # (N, heads + 2, H * W, dim)
        query, key, value = torch.split(by_head, [self.num_heads, 1, 1], 1)
        key, value = key.expand_as(query), value.expand_as(query)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).reshape(*x.shape[:-1], -1)


class AttentionState:
    """The keys and values of all places so far, 2 * dim * places numbers for each image.

    Keys lie as (N, dim, places), in which order a few queries are multiplied with them in half the time.
    """

    def __init__(self, like: Tensor, num_heads: int, num_places: int) -> None:
        self.num_heads = num_heads
        self.dim = like.shape[1] // (num_heads + 2)
        self.keys = like.new_zeros(len(like), self.dim, num_places)
        self.values = like.new_zeros(len(like), num_places, self.dim)
        self.num_known = 0

    def advance(self, x: Tensor) -> Tensor:
        """What the queries of a pixel find among all places so far and its own: (N, heads * dim)."""
        query, key, value = torch.split(x, [self.num_heads * self.dim, self.dim, self.dim], 1)
        self.keys[:, :, self.num_known] = key
        self.values[:, self.num_known] = value
        self.num_known += 1
        query = query.view(len(x), self.num_heads, self.dim) * self.dim**-0.5
        scores = torch.bmm(query, self.keys[:, :, : self.num_known])
        return torch.bmm(scores.softmax(-1), self.values[:, : self.num_known]).view(len(x), -1)
