"""What keeps adversarial training stable: penalties on the discriminator's gradients and the generator's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Discriminator = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> logits (N,)


class Penalty(Protocol):
    """A penalty for real and generated images (N, C, H, W), weighted, added to the discriminator's loss."""

    @property
    def interval(self) -> int:
        """Steps from one evaluation to the next; its weight is multiplied by as much."""
        ...

    def __call__(self, discriminator: Discriminator, images: Tensor, fakes: Tensor) -> Tensor: ...


def squared_gradient_norms(discriminator: Discriminator, images: Tensor) -> Tensor:
    """||d D(x) / d x||^2 of each image (N,), in full precision and itself differentiable."""
    images = images.detach().float().requires_grad_(True)
    with torch.autocast(images.device.type, enabled=False):
        logits = discriminator(images)
        (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradients.square().flatten(1).sum(1)


@dataclass(frozen=True)
class GradientPenalty:
    """WGAN-GP: gradients of norm 1 between real and generated images (Gulrajani et al. 2017, eq. 3)."""

    weight: float = 10.0
    interval: int = 1

    def __call__(self, discriminator: Discriminator, images: Tensor, fakes: Tensor) -> Tensor:
        """Weight times the mean squared deviation of the norm from 1, at random points between pairs."""
        share = torch.rand(len(images), 1, 1, 1, device=images.device)
        norms = squared_gradient_norms(discriminator, torch.lerp(images, fakes.float(), share)).clamp(min=1e-12).sqrt()
        return self.weight * (norms - 1).square().mean()


@dataclass(frozen=True)
class R1:
    """Zero-centred penalty on real images (Mescheder et al. 2018, eq. 9), with half the weight as there."""

    weight: float = 1.0
    interval: int = 1

    def __call__(self, discriminator: Discriminator, images: Tensor, fakes: Tensor) -> Tensor:
        """Weight / 2 times the mean squared norm."""
        return 0.5 * self.weight * squared_gradient_norms(discriminator, images).mean()


@dataclass(frozen=True)
class R1R2:
    """Zero-centred penalties on real and on generated images, as in R3GAN (Huang et al. 2024, sec. 2.2)."""

    weight: float = 1.0
    interval: int = 1

    def __call__(self, discriminator: Discriminator, images: Tensor, fakes: Tensor) -> Tensor:
        """Weight / 2 times the sum of both mean squared norms."""
        norms = squared_gradient_norms(discriminator, torch.cat([images, fakes.float()]))
        return self.weight * norms.mean()  # the mean over both halves is half of their sum


@dataclass(frozen=True)
class Dragan:
    """Gradients of norm 1 around real images (Kodali et al. 2017, arXiv:1705.07215, sec. 3)."""

    weight: float = 10.0
    interval: int = 1

    def __call__(self, discriminator: Discriminator, images: Tensor, fakes: Tensor) -> Tensor:
        """Weight times the mean squared deviation of the norm from 1, half a deviation of the pixels away."""
        noise = 0.5 * images.std() * torch.rand_like(images)
        norms = squared_gradient_norms(discriminator, images + noise).clamp(min=1e-12).sqrt()
        return self.weight * (norms - 1).square().mean()


@dataclass(frozen=True)
class Orthogonal:
    """Rows of each weight matrix that are alike cost, their lengths do not (Brock et al. 2018, eq. 3).

    With it truncated latents are drawn well. The embedding of labels is left out, as there. Of a matrix with more rows
    than columns, whose rows cannot all be orthogonal, the columns are compared: a far smaller product.
    """

    weight: float = 1e-4

    def __call__(self, generator: nn.Module) -> Tensor:
        """Weight times the sum over layers of |W W^T * (1 - I)|^2, in full precision."""
        layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        total = torch.zeros((), device=next(generator.parameters()).device)
        with torch.autocast(total.device.type, enabled=False):
            for layer in generator.modules():
                if isinstance(layer, layers):
                    raw: Any = layer.parametrizations if hasattr(layer, "parametrizations") else None
                    weight: Tensor = layer.weight if raw is None else raw.weight.original
                    rows = weight.flatten(1)
                    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
                    total = total + (gram.square().sum() - gram.diagonal().square().sum())
        return self.weight * total
