"""PixelRNN: long short-term memories that run along the diagonals of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.causal import CausalNetwork, Memory
from imagegen.networks.causal_layers import LabelBias, PixelConv, RowConv


class PixelRNN(CausalNetwork):
    """The diagonal BiLSTM of van den Oord et al. 2016 (arXiv:1601.06759), sec. 3.2.

    One direction sees all pixels above and on the left, the other all above and on the right, together the whole past.
    In the paper the second is moved down by one row in every layer; here it sees the rows above from the start and is a
    stack of its own, which every layer of the first takes up. Labels add a bias to the first features.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None = None,
        width: PositiveInt = 32,
        num_layers: PositiveInt = 2,
        num_groups: PositiveInt | None = None,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__(image_shape, num_classes, width, num_groups, num_parameters, is_softmax)
        channels, height, columns = image_shape
        self.position_bias = nn.Parameter(torch.zeros(height, columns, width))
        self.above = RowConv(channels, width, 3, 7)
        self.before = PixelConv(channels, width, 1, 3)
        self.label_bias = LabelBias(num_classes, width) if num_classes else None
        self.leftwards = nn.ModuleList(DiagonalLSTM(width) for _ in range(num_layers))
        self.rightwards = nn.ModuleList(DiagonalLSTM(width) for _ in range(num_layers))
        self.to_rightwards = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))

    def from_above(self, above: Tensor, labels: Tensor | None, memory: Memory | None) -> Sequence[Tensor]:
        """The first features, and what each layer gets from the one that runs from right to left."""
        position_bias = self.position_bias if memory is None else self.position_bias[memory.row]
        x = self.above(above, memory)
        x = x + position_bias.to(x.dtype)
        if self.label_bias is not None and labels is not None:
            x = x + self.label_bias(labels, x)
        contexts = [x]
        for lstm, linear in zip(self.leftwards, self.to_rightwards, strict=True):
            x = x + lstm(x.flip(-2), memory).flip(-2)
            contexts.append(linear(x))
        return contexts

    def from_before(self, before: Tensor, contexts: Sequence[Tensor], memory: Memory | None) -> Tensor:
        x: Tensor = self.before(before, memory) + contexts[0]
        for lstm, context in zip(self.rightwards, contexts[1:], strict=True):
            x = x + lstm(x + context, memory)
        return x


class DiagonalLSTM(nn.Module):
    """Hidden states (N, H, W, width), each made of its input, the state on its left and the one above.

    Whole images are computed a diagonal at a time. In sampling it takes the next pixel (N, width), or a row of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = nn.Linear(width, 4 * width)
        self.states = nn.Linear(2 * width, 4 * width, bias=False)
        with torch.no_grad():
            self.inputs.bias[width : 2 * width] = 1.0  # remember, at first

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        gates = self.inputs(x)
        if memory is not None:
            state = memory.recall(self, lambda: LSTMState(self, memory.num_images, memory.width))
            if x.dim() == 2:
                return state.advance(gates)
            return torch.stack([state.advance(column) for column in gates.unbind(1)], 1)
        num_images, height, columns, _ = gates.shape
        skewed = skew(gates)  # (N, H, H + W - 1, 4 width): a diagonal stands in a column
        row, step = torch.arange(height)[:, None], torch.arange(skewed.shape[2])
        is_inside = (step >= row).to(skewed)[..., None]
        hidden = cell = skewed.new_zeros(num_images, height, self.width)
        states = []
        for t, column in enumerate(skewed.unbind(2)):
            above = F.pad(hidden, (0, 0, 1, 0))[:, :-1]
            hidden, cell = self.update(column, torch.cat([hidden, above], -1), cell)
            if t < height:  # left of the image there are no states
                hidden, cell = hidden * is_inside[:, t], cell * is_inside[:, t]
            states.append(hidden)
        return unskew(torch.stack(states, 2), columns)

    def update(self, gates: Tensor, states: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and cell states (..., width) after a step: eq. 3."""
        opened, new = torch.split(gates + self.states(states), [3 * self.width, self.width], -1)
        give_out, keep, take_in = opened.sigmoid().chunk(3, -1)
        cell = keep * cell + take_in * new.tanh()
        return give_out * cell.tanh(), cell


class LSTMState:
    """The hidden states of the last row and the cell on the left, as one `DiagonalLSTM` advances pixel by pixel."""

    def __init__(self, lstm: DiagonalLSTM, num_images: int, columns: int) -> None:
        self.lstm = lstm
        self.nothing = lstm.inputs.weight.new_zeros(num_images, lstm.width)
        self.row = [self.nothing] * columns
        self.cell = self.nothing
        self.col = 0

    def advance(self, gates: Tensor) -> Tensor:
        """The hidden state (N, width) at the next pixel, of which `gates` (N, 4 width) are the inputs."""
        left = self.row[self.col - 1] if self.col else self.nothing
        cell = self.cell if self.col else self.nothing
        hidden, self.cell = self.lstm.update(gates, torch.cat([left, self.row[self.col]], -1), cell)
        self.row[self.col] = hidden
        self.col = (self.col + 1) % len(self.row)
        return hidden


def skew(x: Tensor) -> Tensor:
    """Move row i of (N, H, W, C) to the right by i, among zeros: (N, H, H + W - 1, C)."""
    num_images, height, columns, channels = x.shape
    padded = F.pad(x, (0, 0, 0, height)).flatten(1, 2)[:, : height * (height + columns - 1)]
    return padded.view(num_images, height, height + columns - 1, channels)


def unskew(x: Tensor, columns: int) -> Tensor:
    """Inverse of `skew`."""
    num_images, height, _, channels = x.shape
    padded = F.pad(x.flatten(1, 2), (0, 0, 0, height)).view(num_images, height, height + columns, channels)
    return padded[:, :, :columns]
