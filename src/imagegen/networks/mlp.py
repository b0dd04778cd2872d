"""Multilayer perceptrons between flattened images and vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn


def mlp(
    sizes: Sequence[int], activation: type[nn.Module], dropout: float = 0.0, layer_norm: bool = False
) -> nn.Sequential:
    """Linear layers of the given sizes with `activation` (and normalisation, dropout) between them."""
    layers: list[nn.Module] = []
    for i, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(size_in, size_out))
        if i < len(sizes) - 2:
            if layer_norm:
                layers.append(nn.LayerNorm(size_out))
            layers.append(activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class MLPGenerator(nn.Module):
    """Latents (N, latent_dim), beside one-hot labels (N,) if there are classes, to images (N, C, H, W) in (-1, 1).

    Without normalisation this generator collapses to a few digits; layer normalisation, unlike that over the batch,
    keeps an image independent of the others and leaves no running statistics to average.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: PositiveInt,
        hidden: Sequence[PositiveInt],
        num_classes: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        inputs = latent_dim + (num_classes or 0)
        self.layers = mlp([inputs, *hidden, math.prod(image_shape)], LeakyReLU, layer_norm=True)
        self.image_shape = tuple(image_shape)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.tanh(self.layers(with_labels(latents, labels, self.num_classes))).view(-1, *self.image_shape)


class MLPDiscriminator(nn.Module):
    """Images (N, C, H, W), beside one-hot labels (N,) if there are classes, to logits (N,), positive for "real"."""

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[PositiveInt],
        dropout: NonNegativeFloat = 0.0,
        num_classes: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.layers = mlp([math.prod(image_shape) + (num_classes or 0), *hidden, 1], LeakyReLU, dropout)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        inputs = with_labels(images.flatten(1), labels, self.num_classes)
        return self.layers(inputs).squeeze(1)  # type: ignore[no-any-return]


def with_labels(rows: Tensor, labels: Tensor | None, num_classes: int | None) -> Tensor:
    """Rows (N, D), beside the one-hot labels (N,) of a network that has classes (Mirza & Osindero 2014)."""
    if num_classes is None:
        return rows
    return torch.cat([rows, nn.functional.one_hot(given(labels), num_classes).to(rows.dtype)], 1)


def given(labels: Tensor | None) -> Tensor:
    """The labels (N,) of a conditional network. Raises ValueError if there are none."""
    if labels is None:
        raise ValueError("this network is conditional and needs labels")
    return labels


class LeakyReLU(nn.LeakyReLU):
    """Slope 0.2 below zero, as in every GAN since DCGAN."""

    def __init__(self) -> None:
        super().__init__(0.2)
