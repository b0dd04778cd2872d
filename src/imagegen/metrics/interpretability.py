"""What latents mean: how much each one says about each attribute of the images."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 20


def mutual_information(latents: Tensor, attributes: Tensor) -> Tensor:
    """Mutual information (D, F), in nats, of each of D latents (N, D) and each of F attributes (N, F).

    Both are cut into `NUM_BINS` bins of equally many images; attributes with fewer values keep them.
    """
    rows, columns = (torch.stack([_bins(x) for x in y.T], 1) for y in (latents, attributes))
    found = torch.zeros(rows.shape[1], columns.shape[1], dtype=torch.float64)
    for i, latent in enumerate(rows.T):
        for j, attribute in enumerate(columns.T):
            found[i, j] = _entropy(latent) + _entropy(attribute) - _entropy(latent * NUM_BINS + attribute)
    return found


def mutual_information_gap(information: Tensor, attributes: Tensor) -> Tensor:
    """The gap (F,) in [0, 1] between the latent that says most of an attribute and the next.

    Chen et al. 2018 (arXiv:1802.04942), eq. 6. `information` (D, F) is that of `mutual_information`; the gap is divided
    by the attribute's entropy. 1 means that one latent says all of it and no other says anything.
    """
    entropies = torch.stack([_entropy(_bins(x)) for x in attributes.T])
    first, second = information.topk(2, dim=0).values
    gap: Tensor = (first - second) / entropies
    return gap


def _bins(values: Tensor) -> Tensor:
    """Values (N,) as bins 0..NUM_BINS - 1 (int64)."""
    distinct, indices = torch.unique(values, return_inverse=True)
    if len(distinct) <= NUM_BINS:
        found: Tensor = indices
        return found
    ranks: Tensor = values.argsort().argsort()
    return ranks * NUM_BINS // len(values)


def _entropy(bins: Tensor) -> Tensor:
    share = torch.bincount(bins).double() / len(bins)
    return -torch.xlogy(share, share).sum()
