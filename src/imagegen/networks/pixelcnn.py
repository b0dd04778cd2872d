"""PixelCNN: masked convolutions predict each pixel from those before it; a cache draws them a few at a time."""

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

    `start` opens a cache that computes the same numbers for a few pixels at a time, at the price of one forward pass in
    all.
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
        """All layers but the first, for whole images or for some pixels: `apply` evaluates a convolution."""
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
    """What the layers of a PixelCNN must remember of images that are drawn a slanting line of pixels at a time.

    Of the rows above, a pixel sees only few columns to its right. So each row can be drawn a little behind the one
    above, all at once: 28x28 pixels take 136 steps instead of 784.
    """

    def __init__(self, network: PixelCNN, num_images: int, labels: Tensor | None) -> None:
        self.network = network
        height, width = network.position_bias.shape[:2]
        device = network.position_bias.device
        convs = [conv for conv in network.modules() if isinstance(conv, MaskedConv2d)]
        lag = 1 + max(conv.reach for conv in convs)  # columns: what is seen of rows above is whole, all groups of it
        time = lag * torch.arange(height, device=device)[:, None] + torch.arange(width, device=device)
        # rows (K,) and columns (K,) of the pixels of each step
        self.places = [(time == step).nonzero(as_tuple=True) for step in torch.unique(time)]
        geometries = {(conv.reach, conv.dilation[0]) for conv in convs}
        num_active = math.ceil(width / lag)  # rows of a step
        self.windows = {key: Window(*key, num_active, height, width, device) for key in geometries}
        self.convs = {conv: ConvCache(conv, self.windows[conv.reach, conv.dilation[0]], num_images) for conv in convs}
        biases = [
            [None] * network.num_groups if bias is None else bias.T.chunk(network.num_groups)
            for bias in network.label_biases(labels)
        ]
        self.biases = list(zip(*biases, strict=True))  # by group, then by block
        self.position_biases = network.position_bias[..., None].chunk(network.num_groups, dim=2)

    @torch.no_grad()
    def parameters(self, rows: Tensor, cols: Tensor, group: int) -> Tensor:
        """Parameters (N, K, P) of the next group of K pixels; everything before it must have been written."""
        if group == 0:
            for window in self.windows.values():
                window.move(rows, cols)

        def apply(conv: MaskedConv2d, inputs: Tensor) -> Tensor:
            return self.convs[conv].advance(group, inputs)

        hidden = self.convs[self.network.first].output(group) + self.position_biases[group][rows, cols]
        return self.network.after_first(hidden, self.biases[group], apply).permute(2, 0, 1)

    def write(self, rows: Tensor, cols: Tensor, group: int, values: Tensor) -> None:
        """Tell the values (N, K, C / G) in [-1, 1] that were drawn."""
        self.convs[self.network.first].write(group, values.permute(1, 2, 0).to(self.network.position_bias.dtype))


class Window:
    """Where the layers of one kernel size and dilation find what they see of K pixels in their memory of some rows.

    The rows that are still needed lie in slots that they give up to later ones, behind a slot for all that lies outside
    the image.
    """

    def __init__(
        self, reach: int, dilation: int, num_active: int, height: int, width: int, device: torch.device
    ) -> None:
        num_rows = num_active + reach * dilation
        self.num_slots = 1 + num_rows * width
        self.num_taps = reach * (2 * reach + 1) + reach + 1  # those before the pixel in raster order, and its own
        steps = torch.arange(-reach, reach + 1) * dilation
        row_steps, col_steps = torch.meshgrid(steps, steps, indexing="ij")
        row = torch.arange(height)[:, None, None] + row_steps.flatten()[: self.num_taps]
        col = torch.arange(width)[None, :, None] + col_steps.flatten()[: self.num_taps]
        is_inside = (row >= 0) & (col >= 0) & (col < width)
        self.table = torch.where(is_inside, 1 + row % num_rows * width + col, 0).to(device)  # (H, W, taps)

    def move(self, rows: Tensor, cols: Tensor) -> None:
        """Look at other pixels, (K,) and (K,)."""
        slots = self.table[rows, cols]
        self.taps, self.own = slots.flatten(), slots[:, -1]


class ConvCache:
    """What one masked convolution remembers of its inputs, (slots, groups, channels / groups, N)."""

    def __init__(self, conv: MaskedConv2d, window: Window, num_images: int) -> None:
        assert conv.bias is not None
        self.window = window
        weight = (conv.weight * conv.mask).flatten(2)[:, :, : window.num_taps].transpose(1, 2).flatten(1)
        self.weights = weight.chunk(conv.num_groups)  # (O / G, taps * C), with zeros for later groups of the pixel
        self.biases = conv.bias[:, None].chunk(conv.num_groups)
        group_size = conv.in_channels // conv.num_groups
        self.sees_only_inputs = window.num_taps == conv.num_groups == 1
        num_slots = 1 if self.sees_only_inputs else window.num_slots
        self.inputs = weight.new_zeros(num_slots, conv.num_groups, group_size, num_images)

    def advance(self, group: int, inputs: Tensor) -> Tensor:
        """Output (K, O / G, N) of a group at K pixels, of which this is the input (K, C / G, N)."""
        if self.sees_only_inputs:
            return self._product(group, inputs)
        self.write(group, inputs)
        return self.output(group)

    def write(self, group: int, inputs: Tensor) -> None:
        """Remember the inputs (K, C / G, N) of a group."""
        self.inputs[:, group].index_copy_(0, self.window.own, inputs)

    def output(self, group: int) -> Tensor:
        """Compute the output (K, O / G, N) of a group."""
        seen = self.inputs.index_select(0, self.window.taps)
        return self._product(group, seen.view(len(self.window.own), self.weights[group].shape[1], -1))

    def _product(self, group: int, seen: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[group], self.weights[group].expand(len(seen), -1, -1), seen)
