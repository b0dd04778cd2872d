"""Feed-forward layers of which each token passes only a few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Routing(NamedTuple):
    """Where the M tokens of a pass went: the router's probabilities (M, E) and the experts chosen (M, top_k)."""

    probabilities: Tensor
    chosen: Tensor


class MixtureOfExperts(nn.Module):
    """Tokens (N, T, width) through the `top_k` of `num_experts` feed-forward layers that a router finds most probable.

    Shazeer et al. 2017 (arXiv:1701.06538), without noise and without a limit to what an expert takes, so that a token
    depends on no other; what experts say is weighted by their probabilities (Fedus et al. 2021, arXiv:2101.03961).
    `routing` is that of the last pass.
    """

    def __init__(self, width: int, hidden: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must lie in 1..{num_experts}, the number of experts, got {top_k}")
        self.top_k = top_k
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(feed_forward(width, hidden) for _ in range(num_experts))
        self.routing: Routing | None = None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        with torch.autocast(x.device.type, enabled=False):  # in bf16 near ties would fall at random
            probabilities = self.router(tokens.float()).softmax(1)
        weights, chosen = probabilities.topk(self.top_k, dim=1)
        self.routing = Routing(probabilities, chosen)
        out = torch.zeros_like(tokens, dtype=torch.float32)
        for i, expert in enumerate(self.experts):
            rows, places = (chosen == i).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(tokens[rows]).float() * weights[rows, places, None])
        return out.to(x.dtype).view_as(x)


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers around a smooth step."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
