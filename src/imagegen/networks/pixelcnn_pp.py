"""PixelCNN++: gated residual convolutions at three sizes, with connections past the small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import CausalNetwork, Memory
from imagegen.networks.causal_layers import GatedResidual, LabelBias, PixelConv, RowConv

MAX_HALVINGS = 2


class PixelCNNPP(CausalNetwork):
    """Salimans et al. 2017 (arXiv:1701.05517), fig. 2, without dropout.

    Two streams, as in the gated PixelCNN: one of whole rows above, and one that advances pixel by pixel and takes up
    the first in every block. Both are halved up to twice, as often as height and width are even, and doubled again; on
    the way up each block sees its counterpart on the way down. A pixel of half the size is computed when the first of
    its four pixels is drawn, and serves all of them. Below the full size features are twice as wide. A bias for every
    position and, with labels, for every block is added.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 32,
        num_blocks: PositiveInt = 1,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes, width, num_groups, num_parameters, is_softmax)
        channels, height, columns = image_shape
        self.position_bias = nn.Parameter(torch.zeros(height, columns, width))
        self.first_rows = RowConv(channels, width, 2, 5)
        self.first_pixels = PixelConv(channels, width, 1, 3)
        self.levels = nn.ModuleList()
        for level in range(MAX_HALVINGS + 1):
            is_last = level == MAX_HALVINGS or bool((height >> level) % 2 or (columns >> level) % 2)
            self.levels.append(Level(width * (1 if level == 0 else 2), 2 * width, num_blocks, num_classes, is_last))
            if is_last:
                break

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """The first features, and what each block of pixels gets from the one of rows."""
        position_bias = self.position_bias if memory is None else self.position_bias[memory.row]
        x = self.first_rows(above, memory)
        x = x + position_bias.to(x.dtype)
        _, contexts = self._rows(0, x, labels, memory)
        return [x, *contexts]

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        return self._pixels(0, self.first_pixels(before, memory) + contexts[0], list(contexts[1:]), memory)

    def _rows(self, index: int, x: Tensor, labels: Tensor | None, memory: Memory | None) -> tuple[Tensor, list[Tensor]]:
        """Features of whole rows at one level and all below, and the contexts of their blocks, from the top down."""
        level: Level = self.levels[index]  # type: ignore[assignment]
        skips, contexts = [], []
        for block in level.down:
            x, context = block.rows(x, None, labels, memory)  # type: ignore[operator]
            skips.append(x)
            contexts.append(context)
        if level.below is not None:
            x, inner = level.below.rows(x, memory, lambda half, place: self._rows(index + 1, half, labels, place))
            contexts += inner
        for block in level.up:
            x, context = block.rows(x, skips.pop(), labels, memory)  # type: ignore[operator]
            contexts.append(context)
        return x, contexts

    def _pixels(self, index: int, x: Tensor, contexts: list[Tensor], memory: Memory | None) -> Tensor:
        """Features of pixels at one level and all below."""
        level: Level = self.levels[index]  # type: ignore[assignment]
        skips = []
        for block, context in zip(level.down, contexts[: len(level.down)], strict=True):
            x = block.pixels(x, None, context, memory)  # type: ignore[operator]
            skips.append(x)
        inner = contexts[len(level.down) : -len(level.up)]
        if level.below is not None:
            x = level.below.pixels(x, memory, lambda half, place: self._pixels(index + 1, half, inner, place))
        for block, context in zip(level.up, contexts[-len(level.up) :], strict=True):
            x = block.pixels(x, skips.pop(), context, memory)  # type: ignore[operator]
        return x


class Level(nn.Module):
    """The blocks of one size, on the way down and up, and the way to the size below."""

    def __init__(self, width: int, width_below: int, num_blocks: int, num_classes: int | None, is_last: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(width, num_classes, is_up=False) for _ in range(num_blocks))
        self.up = nn.ModuleList(Block(width, num_classes, is_up=True) for _ in range(num_blocks))
        self.below = None if is_last else Below(width, width_below)


class Block(nn.Module):
    """A gated residual block of each stream (Salimans et al. 2017, sec. 2.3 and 2.4)."""

    def __init__(self, width: int, num_classes: int | None, is_up: bool) -> None:
        super().__init__()
        self.row_block = GatedResidual(partial(RowConv, rows=2, columns=3), width)
        self.pixel_block = GatedResidual(partial(PixelConv, rows=2, columns=2), width)
        self.to_pixels = nn.Linear(width, width)
        self.label_bias = LabelBias(num_classes, width) if num_classes else None
        self.row_skip = nn.Linear(width, width) if is_up else None
        self.pixel_skip = nn.Linear(width, width) if is_up else None

    def rows(
        self, x: Tensor, skip: Tensor | None, labels: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor]:
        """Features of rows, and what the block of pixels gets from them."""
        x = self.row_block(x, None if self.row_skip is None else self.row_skip(skip), memory)
        context = self.to_pixels(F.silu(x))
        if self.label_bias is not None and labels is not None:
            context = context + self.label_bias(labels, x)
        return x, context

    def pixels(self, x: Tensor, skip: Tensor | None, context: Tensor, memory: Memory | None) -> Tensor:
        """Features of pixels."""
        if self.pixel_skip is not None:
            context = context + self.pixel_skip(skip)
        return self.pixel_block(x, context, memory)  # type: ignore[no-any-return]


class Below(nn.Module):
    """The way to half the size and back, beside a skip connection."""

    def __init__(self, width: int, width_below: int) -> None:
        super().__init__()
        self.halve_rows = RowConv(width, width_below, 2, 3, stride=2)
        self.halve_pixels = PixelConv(width, width_below, 2, 2, stride=2)
        self.double_rows = nn.Linear(width_below, 4 * width)
        self.double_pixels = nn.Linear(width_below, 4 * width)

    def rows(
        self, x: Tensor, memory: Memory | None, inner: Callable[[Tensor, Memory | None], tuple[Tensor, list[Tensor]]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of rows that have been through `inner` at half the size, and its contexts."""
        half = self.halve_rows(x, memory)
        if memory is None:
            y, contexts = inner(half, None)
            return x + doubled(self.double_rows(y)), contexts
        if memory.row % 2 == 0:  # the first of two rows, which share what is below
            y, contexts = inner(half, memory.halved())
            contexts = [context.repeat_interleave(2, 1) for context in contexts]
            memory.states[self.double_rows] = doubled(self.double_rows(y)[:, None]), contexts
        two_rows, contexts = memory.states[self.double_rows]
        return x + two_rows[:, memory.row % 2], contexts

    def pixels(self, x: Tensor, memory: Memory | None, inner: Callable[[Tensor, Memory | None], Tensor]) -> Tensor:
        """Features of pixels that have been through `inner` at half the size."""
        half = self.halve_pixels(x, memory)
        if memory is None:
            return x + doubled(self.double_pixels(inner(half, None)))
        row, col = memory.row % 2, memory.col
        two_rows = memory.recall(self.double_pixels, lambda: x.new_zeros(2, memory.width, *x.shape))
        if row == 0 and col % 2 == 0:  # the first of four pixels
            four = self.double_pixels(inner(half, memory.halved())).view(len(x), 2, 2, -1)
            two_rows[:, col : col + 2] = four.permute(1, 2, 0, 3)
        return x + two_rows[row, col]


def doubled(x: Tensor) -> Tensor:
    """Features (N, H, W, 4 C) as (N, 2 H, 2 W, C)."""
    four = x.unflatten(-1, (2, 2, -1)).permute(0, 1, 3, 2, 4, 5)  # type: ignore[no-untyped-call]
    return four.flatten(3, 4).flatten(1, 2)  # type: ignore[no-any-return]
