"""Networks that see only the past of an image in raster order, drawn from with a memory of what they computed.

The layers that look at other places (`causal_layers`) take `memory`: None for whole images, else what they remember of
images that are drawn pixel by pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

State = TypeVar("State")


class Memory:
    """What the layers of a network remember of `num_images` images of `width` columns, and the place now drawn."""

    def __init__(self, num_images: int, width: int) -> None:
        self.num_images = num_images
        self.width = width
        self.row = self.col = 0
        self.states: dict[Any, Any] = {}

    def recall(self, key: Any, begin: Callable[[], State]) -> State:
        """The state of a layer, which `begin` makes at its first use."""
        if key not in self.states:
            self.states[key] = begin()
        state: State = self.states[key]
        return state

    def halved(self) -> Memory:
        """What the layers at half the size remember."""
        half = self.recall("half", lambda: Memory(self.num_images, self.width // 2))
        half.row, half.col = self.row // 2, self.col // 2
        return half


class CausalNetwork(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to the parameters (N, P, G, H, W) of the distribution of each pixel.

    A pixel's channels are drawn in `num_groups` groups, by default each on its own, of `num_parameters` parameters each
    (`objectives.pixel_distributions`).
    A subclass writes `from_above`, which makes of the image moved down by one row whatever else a row needs to know,
    and `from_before`, which makes features of that and of the image moved on by one pixel. Neither can see the pixel
    itself, and both are used alike for whole images, rows and pixels. The `head` adds the groups before.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int | None,
        num_features: int,
        num_groups: int | None,
        num_parameters: int,
        is_softmax: bool,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        channels = image_shape[0]
        self.head = Head(num_features, channels, num_groups or channels, num_parameters, is_softmax)

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """Contexts (N, H, W, ...) of images moved down by a row (N, H, W, C), or those of one row (N, W, C)."""
        raise NotImplementedError

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        """Features of images moved on by a pixel (N, H, W, C), or of one pixel (N, C), and their contexts."""
        raise NotImplementedError

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        pixels = images.permute(0, 2, 3, 1)
        above = F.pad(pixels, (0, 0, 0, 0, 1, 0))[:, :-1]
        before = F.pad(pixels.flatten(1, 2), (0, 0, 1, 0))[:, :-1].view_as(above)  # in raster order
        contexts = self.from_above(above, self.checked(labels), None)
        features = self.from_before(before, contexts, None)
        parameters: Tensor = self.head(features, pixels)  # (N, H, W, G, P)
        return parameters.permute(0, 4, 3, 1, 2)

    def checked(self, labels: Tensor | None) -> Tensor | None:
        """The labels. Raises ValueError where a network with classes is given none."""
        if self.num_classes is None:
            return None
        if labels is None:
            raise ValueError(f"a class-conditional {type(self).__name__} needs labels")
        return labels

    @torch.no_grad()
    def start(self, num_images: int, labels: Tensor | None = None) -> Cache:
        """Open a cache for `num_images` images of which no pixel is known yet, with labels (N,)."""
        return Cache(self, num_images, self.checked(labels))


class Cache:
    """Images drawn pixel by pixel in raster order: parameters of the next group, then the values that were drawn."""

    def __init__(self, network: CausalNetwork, num_images: int, labels: Tensor | None) -> None:
        self.network = network
        self.labels = labels
        channels, height, width = network.image_shape
        self.group_size = channels // network.head.num_groups
        parameter = next(network.parameters())
        self.pixels = parameter.new_zeros(num_images, height * width + 1, channels)  # the first one stands for none
        self.above = parameter.new_zeros(num_images, width, channels)
        self.memory = Memory(num_images, width)
        self.places = list(itertools.product(range(height), range(width)))  # of each step: one pixel

    @torch.no_grad()
    def parameters(self, row: int, col: int, group: int) -> Tensor:
        """Parameters (N, P) of the next group; everything before it must have been written."""
        width = self.memory.width
        place = row * width + col  # of the pixel before, as there is one more in front
        if group == 0:
            self.memory.row, self.memory.col = row, col
            if col == 0:
                above = self.pixels[:, place + 1 - width : place + 1] if row else self.above
                contexts = self.network.from_above(above, self.labels, self.memory)
                self.contexts = list(zip(*(context.unbind(1) for context in contexts), strict=True))
            self.features = self.network.from_before(self.pixels[:, place], self.contexts[col], self.memory)
        return self.network.head.group(group, self.features, self.pixels[:, place + 1])

    def write(self, row: int, col: int, group: int, values: Tensor) -> None:
        """Tell the values (N, C / G) in [-1, 1] that were drawn."""
        start = group * self.group_size
        self.pixels[:, row * self.memory.width + col + 1, start : start + self.group_size] = values


class Head(nn.Module):
    """Features (N, H, W, F) to parameters (N, H, W, G, P) of each group, given the groups before in the same pixel.

    A group of channels sees those before through a hidden layer of its own, not in the body of the network, which is so
    evaluated once for each pixel and not for each channel.
    """

    def __init__(
        self, num_features: int, channels: int, num_groups: int, num_parameters: int, is_softmax: bool
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.group_size = channels // num_groups
        self.is_softmax = is_softmax
        hidden = nn.ModuleList(nn.Linear(num_features, num_features) for _ in range(num_groups))
        inputs = nn.ModuleList(
            nn.Linear(group * self.group_size, num_features, bias=False) for group in range(1, num_groups)
        )
        outputs = nn.ModuleList(nn.Linear(num_features, num_parameters) for _ in range(num_groups))
        self.hidden, self.inputs, self.outputs = hidden, inputs, outputs
        for output in outputs:
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]
            nn.init.normal_(output.weight, std=0.1 * num_features**-0.5)  # type: ignore[arg-type]
            if is_softmax:
                centre(output, num_parameters)

    def forward(self, features: Tensor, pixels: Tensor) -> Tensor:
        return torch.stack([self.group(group, features, pixels) for group in range(self.num_groups)], -2)

    def group(self, group: int, features: Tensor, pixels: Tensor) -> Tensor:
        """Parameters (..., P) of one group from features (..., F) and pixels (..., C)."""
        hidden = self.hidden[group](features)
        if group:
            before = self.inputs[group - 1](pixels[..., : group * self.group_size])
            hidden = hidden + before
        hidden = F.silu(hidden)
        if self.is_softmax:
            return self.outputs[group](hidden)  # type: ignore[no-any-return]
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 a mean would be off by a level
            return self.outputs[group](hidden.to(pixels.dtype))  # type: ignore[no-any-return]


class Centred(nn.Module):
    """Weights or biases (G * P, ...) less their mean over each run of P logits.

    A softmax does not see a number that is added to all of its logits, so nothing holds their mean; rounding to bf16
    then pushes it a little further in each step, to thousands, where bf16 no longer tells two logits apart.
    """

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.num_logits = num_logits

    def forward(self, values: Tensor) -> Tensor:
        logits = values.unflatten(0, (-1, self.num_logits))  # type: ignore[no-untyped-call]
        centred: Tensor = (logits - logits.mean(1, keepdim=True)).flatten(0, 1)
        return centred


def centre(layer: nn.Module, num_logits: int) -> None:
    """Keep the mean of each run of `num_logits` outputs of a layer at zero."""
    for name in ("weight", "bias"):
        register_parametrization(layer, name, Centred(num_logits))
