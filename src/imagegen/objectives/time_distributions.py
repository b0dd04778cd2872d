"""How training times t in (0, 1) are drawn: functions of a count and a device."""

import math

import torch
from torch import Tensor


def uniform(num: int, device: torch.device) -> Tensor:
    """Times (num,), one in each of `num` equal intervals in random order: uniform, with less variance."""
    strata = torch.arange(num, device=device) + torch.rand(num, device=device)
    return strata[torch.randperm(num, device=device)] / num


def logit_normal(num: int, device: torch.device, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times (num,) whose logit is normal: most effort in the middle of the path (Esser et al. 2024, eq. 19)."""
    return torch.sigmoid(mean + std * torch.randn(num, device=device))


def log_normal(num: int, device: torch.device, mean: float = -1.2, std: float = 1.2, sigma_max: float = 80.0) -> Tensor:
    """Times (num,) of the EDM schedule whose log sigma is normal (Karras et al. 2022, table 1), at most 1."""
    log_sigma = mean + std * torch.randn(num, device=device)
    return torch.exp(log_sigma - math.log(sigma_max)).clamp(max=1.0)
