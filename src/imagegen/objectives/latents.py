"""Where to look in a space of standard normal latents."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Latents (N, ...) at a share in [0, 1] of the way from start to end, along the arc between them.

    Spherical interpolation (White 2016, arXiv:1609.04468): a straight line would pass through latents much shorter than
    any that a generator has seen. Directions follow the arc, lengths change linearly.
    """
    a, b = start.flatten(1), end.flatten(1)
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b = (x / length.clamp(min=1e-30) for x, length in zip((a, b), lengths, strict=True))
    angle = torch.acos((a * b).sum(1, keepdim=True).clamp(-1, 1))
    # Two latents in the same or in opposite directions have no one arc: the straight line will do.
    is_arc = angle.sin() > 1e-4
    first = torch.where(is_arc, ((1 - share) * angle).sin() / angle.sin(), 1 - share)
    second = torch.where(is_arc, (share * angle).sin() / angle.sin(), share)
    latents: Tensor = ((first * a + second * b) * torch.lerp(*lengths, share)).view_as(start)
    return latents


def truncate(latents: Tensor, bound: float) -> Tensor:
    """Standard normal numbers mapped, in order, onto the normal distribution truncated to [-bound, bound].

    The truncation trick of Brock et al. 2018 (arXiv:1809.11096, sec. 3.1) with the same distribution, but one formula
    in place of drawing anew: the latent of a seed moves continuously as the bound does, and a large bound changes
    nothing.

    Raises:
        ValueError: the bound is not positive.

    """
    if bound <= 0:
        raise ValueError(f"truncation must be positive, got {bound}")
    low = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64, device=latents.device))
    probability = low + (1 - 2 * low) * torch.special.ndtr(latents.double())
    truncated: Tensor = torch.special.ndtri(probability).clamp(-bound, bound).to(latents.dtype)
    return truncated
