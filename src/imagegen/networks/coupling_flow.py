"""An invertible network that gives latents a prior of any shape (Dinh et al. 2017, arXiv:1605.08803)."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from imagegen.networks.mlp import mlp


class CouplingFlow(nn.Module):
    """Map standard normal vectors u (N, D) to vectors z of another distribution, and back.

    Each of `num_layers` affine couplings scales and shifts one half of the vector by what the other half says; the
    halves take turns. It begins as the identity. It computes in float32, whatever the autocast: what one way rounds,
    the way back would not undo.
    """

    def __init__(self, dim: PositiveInt, num_layers: PositiveInt, hidden: PositiveInt = 128) -> None:
        super().__init__()
        self.num_low = dim // 2
        sizes = [
            (self.num_low, dim - self.num_low) if i % 2 else (dim - self.num_low, self.num_low)
            for i in range(num_layers)
        ]
        self.layers = nn.ModuleList(mlp([seen, hidden, hidden, 2 * moved], nn.SiLU) for seen, moved in sizes)
        for layer in self.layers:
            nn.init.zeros_(layer[-1].weight)  # type: ignore[index]
            nn.init.zeros_(layer[-1].bias)  # type: ignore[index]

    def forward(self, u: Tensor) -> Tensor:
        """Vectors z (N, D) of u."""
        with torch.autocast(u.device.type, enabled=False):
            low, high = u[:, : self.num_low], u[:, self.num_low :]
            for i, layer in enumerate(self.layers):
                if i % 2:
                    log_scale, shift = _moments(layer(low))
                    high = high * log_scale.exp() + shift
                else:
                    log_scale, shift = _moments(layer(high))
                    low = low * log_scale.exp() + shift
            return torch.cat([low, high], 1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors u (N, D) of z, and log |det dz/du| (N,) there."""
        with torch.autocast(z.device.type, enabled=False):
            low, high = z[:, : self.num_low], z[:, self.num_low :]
            log_det = z.new_zeros(len(z))
            for i, layer in reversed(list(enumerate(self.layers))):
                if i % 2:
                    log_scale, shift = _moments(layer(low))
                    high = (high - shift) * torch.exp(-log_scale)
                else:
                    log_scale, shift = _moments(layer(high))
                    low = (low - shift) * torch.exp(-log_scale)
                log_det = log_det + log_scale.sum(1)
            return torch.cat([low, high], 1), log_det


def _moments(out: Tensor) -> tuple[Tensor, Tensor]:
    log_scale, shift = out.chunk(2, 1)
    return 2 * torch.tanh(log_scale / 2), shift  # a factor between e^-2 and e^2, or a step may overflow
