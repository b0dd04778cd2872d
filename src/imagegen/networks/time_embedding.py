"""What a denoising network is told beside the picture: the time and the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Times (N,) of about [0, 1] and, if there are classes, labels (N,) to (N, size). `num_classes` is "no label".

    Cosines and sines of `num_frequencies` frequencies (Vaswani et al. 2017, sec. 3.5) and two linear layers.
    """

    def __init__(self, num_frequencies: int, size: int, num_classes: int | None) -> None:
        super().__init__()
        self.labels = nn.Embedding(num_classes + 1, size) if num_classes else None
        self.times = nn.Sequential(nn.Linear(2 * num_frequencies, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU())
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), num_frequencies)), False)

    def forward(self, t: Tensor, labels: Tensor | None) -> Tensor:
        angles = t[:, None] * self.frequencies
        embedding: Tensor = self.times(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedding if self.labels is None else embedding + self.labels(labels)
