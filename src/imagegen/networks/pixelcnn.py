"""PixelCNN: masked convolutions predict each pixel from those before it; a cache draws images pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

NUM_LEVELS = 256
FIRST_KERNEL_SIZE = 7


class PixelCNN(nn.Module):
    """Map images (N, C, H, W) in [-1, 1] to logits (N, 256, C, H, W) of their grey levels (arXiv:1601.06759).

    The logits of a pixel depend on the pixels before it in raster order and, within it, on the channels before (red,
    green, blue), on nothing else. A plain stack of masked convolutions has a blind spot: of the rows above, a pixel
    does not see what lies to the right of a diagonal (arXiv:1606.05328, fig. 1).

    Two additions to the paper pay for themselves in short runs: a learned bias for every position, and `num_dilations`
    dilations 1, 2, 4, ... in turn, with which six blocks see 17 pixels far instead of 9 at the same cost. Labels (N,)
    add a learned bias in every block. `width` is rounded up to a multiple of twice the number of image channels.

    `start` opens a cache that computes the same logits pixel by pixel, at the price of one forward pass in all.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 6,
        kernel_size: PositiveInt = 3,
        num_dilations: PositiveInt = 3,
    ) -> None:
        super().__init__()
        channels, height, self.image_width = image_shape
        width = math.ceil(width / (2 * channels)) * 2 * channels
        self.num_channels = channels
        self.first = MaskedConv2d(channels, width, FIRST_KERNEL_SIZE, channels, sees_own_group=False)
        self.position_bias = nn.Parameter(torch.zeros(height, self.image_width, width))
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel_size, channels, dilation=2 ** (i % num_dilations)) for i in range(num_blocks)
        )
        self.head = MaskedConv2d(width, NUM_LEVELS * channels, 1, channels)
        for name in ("weight", "bias"):
            register_parametrization(self.head, name, Centred())
        self.label_bias = nn.Embedding(num_classes, num_blocks * (width // 2)) if num_classes else None
        if self.label_bias is not None:
            nn.init.zeros_(self.label_bias.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        biases = [bias if bias is None else bias[:, :, None, None] for bias in self.label_biases(labels)]
        hidden = self.first(images)
        hidden = hidden + self.position_bias.permute(2, 0, 1).to(hidden.dtype)
        logits = self.after_first(hidden, biases, lambda conv, inputs: conv(inputs))  # (N, C * 256, H, W)
        num_images, _, height, width = logits.shape
        return logits.view(num_images, self.num_channels, NUM_LEVELS, height, width).transpose(1, 2)

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


class Centred(nn.Module):
    """Weights or biases (C * 256, ...) less their mean over the 256 levels of each channel.

    A softmax does not see a number that is added to all of its logits, so nothing holds their mean; rounding to bf16
    then pushes it a little further in each step, to thousands, where bf16 no longer tells two logits apart.
    """

    def forward(self, values: Tensor) -> Tensor:
        levels = values.unflatten(0, (-1, NUM_LEVELS))  # type: ignore[no-untyped-call]
        centred: Tensor = (levels - levels.mean(1, keepdim=True)).flatten(0, 1)
        return centred


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
            [None] * network.num_channels if bias is None else bias.chunk(network.num_channels, dim=1)
            for bias in network.label_biases(labels)
        ]
        self.biases = list(zip(*biases, strict=True))  # by channel, then by block
        self.position_biases = network.position_bias.chunk(network.num_channels, dim=2)

    @torch.no_grad()
    def logits(self, row: int, col: int, channel: int) -> Tensor:
        """Logits (N, 256) of the next value; everything before it must have been written."""

        def apply(conv: MaskedConv2d, inputs: Tensor) -> Tensor:
            cache = self.convs[conv]
            cache.write(row, col, channel, inputs)
            return cache.output(row, col, channel)

        hidden = self.convs[self.network.first].output(row, col, channel) + self.position_biases[channel][row, col]
        return self.network.after_first(hidden, self.biases[channel], apply)

    def write(self, row: int, col: int, channel: int, values: Tensor) -> None:
        """Tell the values (N,) in [-1, 1] that were drawn."""
        self.convs[self.network.first].write(row, col, channel, values[:, None])


class ConvCache:
    """The last input rows of one masked convolution, which yields its output one pixel and channel group at a time.

    A row is a matrix (N, columns * channels) with zeros around the image, in which the columns that a dilated kernel
    sees together stand together: the taps of a kernel row are then a run of the matrix's columns and enter one matrix
    product without being copied. Masked taps are left out.
    """

    def __init__(self, conv: MaskedConv2d, num_images: int, image_width: int) -> None:
        self.dilation = conv.dilation[0]
        self.in_channels = conv.in_channels
        self.group_size = conv.in_channels // conv.num_groups
        self.offset = conv.reach * conv.in_channels  # from the first tap of a row to the centre
        self.num_columns = math.ceil(image_width / self.dilation) + 2 * conv.reach  # of each residue of the dilation
        self.num_rows = conv.reach * self.dilation + 1
        size = self.dilation * self.num_columns * conv.in_channels
        self.rows = [conv.weight.new_zeros(num_images, size) for _ in range(self.num_rows)]  # row i is at i % num_rows
        assert conv.bias is not None
        self.biases = conv.bias.chunk(conv.num_groups)
        weight = (conv.weight * conv.mask)[:, :, : conv.reach + 1].permute(2, 3, 1, 0).flatten(1, 2).contiguous()
        self.weights = []  # by group, then by kernel row: (taps * channels, outputs of the group)
        for group, (*above, own) in enumerate(weight.chunk(conv.num_groups, dim=2)):
            num_seen = self.offset + (group + conv.sees_own_group) * self.group_size
            self.weights.append([*above, own[:num_seen]])

    def write(self, row: int, col: int, group: int, inputs: Tensor) -> None:
        """Remember the inputs (N, channels / groups) of one group of a pixel."""
        start = self._first_tap(col) + self.offset + group * self.group_size
        self.rows[row % self.num_rows][:, start : start + self.group_size] = inputs

    def output(self, row: int, col: int, group: int) -> Tensor:
        """Compute the output (N, channels / groups) of one group at a pixel."""
        output = self.biases[group]
        start = self._first_tap(col)
        weights = self.weights[group]
        for age, weight in zip(range(len(weights) - 1, -1, -1), weights, strict=True):
            inputs = self.rows[(row - age * self.dilation) % self.num_rows][:, start : start + len(weight)]
            output = torch.addmm(output, inputs, weight)
        return output

    def _first_tap(self, col: int) -> int:
        return (col % self.dilation * self.num_columns + col // self.dilation) * self.in_channels
