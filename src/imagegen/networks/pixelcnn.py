"""PixelCNN: masked convolutions predict each pixel from those before it; a cache draws images pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import centre

FIRST_KERNEL_SIZE = 7


class PixelCNN(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to parameters (N, P, G, H, W), such as the logits of levels (arXiv:1601.06759).

    What is said of a group of channels depends on the pixels before in raster order and, within its own, on the groups
    before (by default each channel is one: red, green, blue), on nothing else. A plain stack of masked convolutions has
    a blind spot: of the rows above, a pixel does not see what lies on the right of a diagonal (arXiv:1606.05328).

    Two additions to the paper pay for themselves in short runs: a learned bias for every position, and `num_dilations`
    dilations 1, 2, 4, ... in turn, with which six blocks see 17 pixels far instead of 9 at the same cost. Labels (N,)
    add a learned bias in every block. `width` is rounded up to a multiple of twice the number of groups.

    `start` opens a cache that computes the same numbers pixel by pixel, at the price of one forward pass in all.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 6,
        kernel_size: PositiveInt = 3,
        num_dilations: PositiveInt = 3,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__()
        channels, height, self.image_width = image_shape
        self.num_groups = num_groups = num_groups or channels
        width = math.ceil(width / (2 * num_groups)) * 2 * num_groups
        self.num_parameters = num_parameters
        self.first = MaskedConv2d(channels, width, FIRST_KERNEL_SIZE, num_groups, sees_own_group=False)
        self.position_bias = nn.Parameter(torch.zeros(height, self.image_width, width))
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel_size, num_groups, dilation=2 ** (i % num_dilations)) for i in range(num_blocks)
        )
        self.head = MaskedConv2d(width, num_parameters * num_groups, 1, num_groups)
        if is_softmax:
            centre(self.head, num_parameters)
        self.label_bias = nn.Embedding(num_classes, num_blocks * (width // 2)) if num_classes else None
        if self.label_bias is not None:
            nn.init.zeros_(self.label_bias.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        biases = [bias if bias is None else bias[:, :, None, None] for bias in self.label_biases(labels)]
        hidden = self.first(images)
        hidden = hidden + self.position_bias.permute(2, 0, 1).to(hidden.dtype)
        parameters = self.after_first(hidden, biases, lambda conv, inputs: conv(inputs))  # (N, G * P, H, W)
        by_group = parameters.unflatten(1, (self.num_groups, self.num_parameters))  # type: ignore[no-untyped-call]
        return by_group.transpose(1, 2)  # type: ignore[no-any-return]

    def after_first(self, hidden: Tensor, biases: Sequence[Tensor | None], apply: Apply) -> Tensor:
        """All layers but the first, for whole images or for one pixel: `apply` evaluates a convolution."""
        for block, bias in zip(self.blocks, biases, strict=True):
            hidden = block(hidden, bias, apply)
        return apply(self.head, F.relu(hidden))

    def label_biases(self, labels: Tensor | None) -> Sequence[Tensor | None]:
        """Biases (N, width / 2) of the blocks, each None in a network without classes."""
        if self.label_bias is None:
            return [None] * len(self.blocks)
        if labels is None:
            raise ValueError("a class-conditional PixelCNN needs labels")
        biases: Tensor = self.label_bias(labels)
        return biases.chunk(len(self.blocks), dim=1)

    @torch.no_grad()
    def start(self, num_images: int, labels: Tensor | None = None) -> PixelCNNCache:
        """Open a cache for `num_images` images of which no pixel is known yet, with labels (N,)."""
        return PixelCNNCache(self, num_images, labels)


class ResidualBlock(nn.Module):
    """A masked convolution to half the width and a 1x1 convolution back."""

    def __init__(self, width: int, kernel_size: int, num_groups: int, dilation: int) -> None:
        super().__init__()
        self.conv = MaskedConv2d(width, width // 2, kernel_size, num_groups, dilation)
        self.expand = MaskedConv2d(width // 2, width, 1, num_groups)

    def forward(self, x: Tensor, bias: Tensor | None, apply: Apply) -> Tensor:
        hidden = apply(self.conv, F.relu(x))
        if bias is not None:
            hidden = hidden + bias.to(hidden.dtype)  # under autocast the sum stays in bf16
        return x + apply(self.expand, F.relu(hidden))


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the pixels before its own in raster order, and of its own only some channel groups.

    Inputs and outputs are divided into `num_groups` equal runs of channels, one for each channel of the image. An
    output of group c sees the input groups before c (mask A) and, if `sees_own_group`, also group c (mask B).
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_groups: int,
        dilation: int = 1,
        sees_own_group: bool = True,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        reach = kernel_size // 2  # taps on each side of the centre
        super().__init__(in_channels, out_channels, kernel_size, padding=reach * dilation, dilation=dilation)
        self.reach = reach
        self.num_groups = num_groups
        self.sees_own_group = sees_own_group
        in_group = torch.arange(in_channels) // (in_channels // num_groups)
        out_group = torch.arange(out_channels)[:, None] // (out_channels // num_groups)
        mask = torch.ones_like(self.weight)
        mask[:, :, reach + 1 :] = 0
        mask[:, :, reach, reach + 1 :] = 0
        mask[:, :, reach, reach] = (in_group <= out_group if sees_own_group else in_group < out_group).float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.mask
        if self.sees_own_group:  # cropping the zero rows away measures slower: the output would have to be cropped too
            return F.conv2d(x, weight, self.bias, padding=self.padding, dilation=self.dilation)
        # The first layer has so few channels that gathering patches for a 1x1 convolution is faster.
        num_images, _, height, width = x.shape
        weight = weight[:, :, : self.reach + 1]  # the rows below are masked
        patches = F.unfold(x, weight.shape[2:], self.dilation, self.reach * self.dilation[0])[:, :, : height * width]
        patches = patches.reshape(num_images, -1, height, width).contiguous(memory_format=torch.channels_last)
        return F.conv2d(patches, weight.flatten(1)[:, :, None, None], self.bias)


Apply = Callable[[MaskedConv2d, Tensor], Tensor]


class PixelCNNCache:
    """Everything the layers of a PixelCNN must remember of images that are drawn pixel by pixel in raster order."""

    def __init__(self, network: PixelCNN, num_images: int, labels: Tensor | None) -> None:
        self.network = network
        self.convs = {
            conv: ConvCache(conv, num_images, network.image_width)
            for conv in network.modules()
            if isinstance(conv, MaskedConv2d)
        }
        biases = [
            [None] * network.num_groups if bias is None else bias.chunk(network.num_groups, dim=1)
            for bias in network.label_biases(labels)
        ]
        self.biases = list(zip(*biases, strict=True))  # by group, then by block
        self.position_biases = network.position_bias.chunk(network.num_groups, dim=2)

    @torch.no_grad()
    def parameters(self, row: int, col: int, group: int) -> Tensor:
        """Parameters (N, P) of the next group; everything before it must have been written."""

        def apply(conv: MaskedConv2d, inputs: Tensor) -> Tensor:
            cache = self.convs[conv]
            cache.write(row, col, group, inputs)
            return cache.output(row, col, group)

        hidden = self.convs[self.network.first].output(row, col, group) + self.position_biases[group][row, col]
        return self.network.after_first(hidden, self.biases[group], apply)

    def write(self, row: int, col: int, group: int, values: Tensor) -> None:
        """Tell the values (N, C / G) in [-1, 1] that were drawn."""
        self.convs[self.network.first].write(row, col, group, values)


class ConvCache:
    """The last input rows of one masked convolution, which yields its output one pixel and channel group at a time.

    What the finished rows give is computed for a whole row at once, when it begins. The own row is a matrix
    (N, columns * channels) with zeros around the image, in which the columns that a dilated kernel sees together stand
    together: its taps are then a run of the matrix's columns and enter one matrix product without being copied. Masked
    taps are left out.
    """

    def __init__(self, conv: MaskedConv2d, num_images: int, image_width: int) -> None:
        self.conv = conv
        self.image_width = image_width
        self.dilation = conv.dilation[0]
        self.in_channels = conv.in_channels
        self.group_size = conv.in_channels // conv.num_groups
        self.out_size = conv.out_channels // conv.num_groups
        self.offset = conv.reach * conv.in_channels  # from the first tap of a row to the centre
        self.num_columns = math.ceil(image_width / self.dilation) + 2 * conv.reach  # of each residue of the dilation
        weight = (conv.weight * conv.mask)[:, :, : conv.reach + 1]
        self.weight_above = weight[:, :, :-1]
        own = weight[:, :, -1].permute(2, 1, 0).flatten(0, 1).contiguous()  # (columns * channels, outputs)
        by_group = enumerate(own.chunk(conv.num_groups, dim=1))
        self.weights = [w[: self.offset + (g + conv.sees_own_group) * self.group_size] for g, w in by_group]
        self.own = weight.new_zeros(num_images, self.dilation * self.num_columns * conv.in_channels)
        finished = num_images, conv.reach * self.dilation, self.dilation * self.num_columns, conv.in_channels
        self.finished = weight.new_zeros(finished)
        self.row = -1

    def write(self, row: int, col: int, group: int, inputs: Tensor) -> None:
        """Remember the inputs (N, channels / groups) of one group of a pixel."""
        self._enter(row)
        start = self._first_tap(col) + self.offset + group * self.group_size
        self.own[:, start : start + self.group_size] = inputs

    def output(self, row: int, col: int, group: int) -> Tensor:
        """Compute the output (N, channels / groups) of one group at a pixel."""
        self._enter(row)
        start, weight = self._first_tap(col), self.weights[group]
        return torch.addmm(self.from_rows[col][group], self.own[:, start : start + len(weight)], weight)

    def _enter(self, row: int) -> None:
        """Begin a row, unless it has begun."""
        if row == self.row:
            return
        conv = self.conv
        assert conv.bias is not None
        if conv.reach == 0:
            from_rows = (conv.bias,) * self.image_width
        else:
            columns = self.own.view(len(self.own), self.dilation, self.num_columns, -1).transpose(1, 2).flatten(1, 2)
            if row:  # in their natural order
                self.finished = torch.cat([self.finished[:, 1:], columns[:, None]], 1)
            above = F.conv2d(self.finished.permute(0, 3, 1, 2), self.weight_above, conv.bias, dilation=self.dilation)
            from_rows = above[:, :, 0].permute(2, 0, 1).unbind(0)[: self.image_width]
        self.from_rows = [torch.split(values, self.out_size, -1) for values in from_rows]
        self.row = row

    def _first_tap(self, col: int) -> int:
        return (col % self.dilation * self.num_columns + col // self.dilation) * self.in_channels
