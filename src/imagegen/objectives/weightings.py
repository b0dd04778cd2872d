"""Weightings: how much an error at time t counts, as functions of the signal-to-noise ratio and scale_t.

A loss is weight * (output - target)^2. As the denoised images are scale_t * output + ..., a weight w on the squared
error of the denoised images is the weight w * scale_t^2 here, whatever the parameterisation.
"""

import torch
from torch import Tensor


def uniform(snr: Tensor, scale: Tensor) -> Tensor:
    """Errors of the output count alike at all times."""
    return torch.ones_like(snr)


def min_snr(snr: Tensor, scale: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) on the denoised images: clean ones do not dominate (Hang et al. 2023, arXiv:2303.09556)."""
    return snr.clamp(max=gamma) * scale.square()


def edm(snr: Tensor, scale: Tensor, sigma_data: float = 0.5) -> Tensor:
    """Karras et al. 2022, table 1: (sigma^2 + s^2) / (sigma s)^2 on the denoised images, for sigma^2 = 1 / SNR."""
    return (snr + 1 / sigma_data**2) * scale.square()
