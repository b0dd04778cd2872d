"""Causal networks of codes: indices without an order, which enter as vectors instead of grey levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn


class CodeNetwork(nn.Module):
    """Any causal network, which sees a learned vector of `dim` numbers in place of each code.

    Like the network itself it maps pictures of one channel (N, 1, H, W), whose values in [-1, 1] stand for the codes 0
    to `num_parameters - 1`, to logits (N, P, 1, H, W), and `start` opens a cache. Neighbouring indices have nothing in
    common, so from their values alone a network would have to tell all of them apart on one axis.
    """

    def __init__(
        self,
        network: Callable[..., nn.Module],
        image_shape: Sequence[int],
        dim: PositiveInt = 32,
        num_groups: PositiveInt = 1,
        num_parameters: PositiveInt = 256,
        is_softmax: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_parameters, dim)
        self.network = network(
            image_shape=(dim, *image_shape[1:]),
            num_groups=num_groups,
            num_parameters=num_parameters,
            is_softmax=is_softmax,
        )

    def vectors(self, values: Tensor) -> Tensor:
        """The vectors (..., D) of codes given as values in [-1, 1] (...)."""
        codes = ((values + 1) * ((self.embedding.num_embeddings - 1) / 2)).round().long()
        return self.embedding(codes)  # type: ignore[no-any-return]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        vectors = self.vectors(images[:, 0]).permute(0, 3, 1, 2)
        return self.network(vectors, labels)  # type: ignore[no-any-return]

    def start(self, num_images: int, labels: Tensor | None = None) -> CodeCache:
        """Open a cache for `num_images` pictures of which no code is known yet, with labels (N,)."""
        return CodeCache(self, self.network.start(num_images, labels))  # type: ignore[operator]


class CodeCache:
    """The cache of the network, to which codes are written as vectors."""

    def __init__(self, network: CodeNetwork, cache: Any) -> None:
        self.network = network
        self.cache = cache
        self.places = cache.places

    def parameters(self, row: Any, col: Any, group: int) -> Tensor:
        """Logits (N, ..., P) of the next codes; everything before them must have been written."""
        logits: Tensor = self.cache.parameters(row, col, group)
        return logits

    @torch.no_grad()
    def write(self, row: Any, col: Any, group: int, values: Tensor) -> None:
        """Set the codes (N, ..., 1), as values in [-1, 1], that the next ones depend on."""
        self.cache.write(row, col, group, self.network.vectors(values[..., 0]))
