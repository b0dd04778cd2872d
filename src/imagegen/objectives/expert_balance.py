"""How evenly a router uses its experts.

With f_i the share of choices that fell on expert i of E, and P_i the mean probability it was given,

    balance loss = E * sum_i f_i P_i - 1     (Fedus et al. 2021, arXiv:2101.03961, eq. 4, without its smallest value)

is 0 where all are used alike and E - 1 where one does everything; its gradient comes through P.
"""

import torch
from torch import Tensor


def usage(chosen: Tensor, num_experts: int) -> Tensor:
    """Shares (E,) of the choices (M, top_k) that fell on each expert; they add up to 1."""
    return torch.bincount(chosen.flatten(), minlength=num_experts) / chosen.numel()


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """The excess over even use, for probabilities (M, E) and the experts chosen (M, top_k)."""
    num_experts = probabilities.shape[1]
    return num_experts * (usage(chosen, num_experts) * probabilities.mean(0)).sum() - 1
