"""The prior of latents in a network that may know labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imagegen.networks.mlp import given


class ClassPrior(nn.Module):
    """A normal prior of its own for each class, at first the standard one: the p(z | y) of Sohn et al. 2015, sec. 4.1.

    Without it a decoder that sees one-hot labels beside latents learns to ignore them: the latents say the class too.
    Nobody else has to know of it, as latents are standard normal before they are put in the place of their class. With
    `num_classes=None` they stay where they are.
    """

    GAIN = 10.0  # the means go far, and should be there early, at the small steps that suit a network

    def __init__(self, num_classes: int | None, latent_dim: int) -> None:
        super().__init__()
        self.moments = None if num_classes is None else nn.Embedding(num_classes, 2 * latent_dim)  # mean, log deviation
        if self.moments is not None:
            nn.init.zeros_(self.moments.weight)

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Standard normal latents (N, D) of classes (N,), in their place."""
        if self.moments is None:
            return latents
        mean, log_std = self.moments(given(labels)).chunk(2, 1)
        return self.GAIN * mean + torch.exp(log_std) * latents  # type: ignore[no-any-return]

    def standard(self, mean: Tensor, log_var: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (N, D), of what is drawn in its place, were it still before."""
        if self.moments is None:
            return mean, log_var
        centre, log_std = self.moments(given(labels)).chunk(2, 1)
        return (mean - self.GAIN * centre) * torch.exp(-log_std), log_var - 2 * log_std
