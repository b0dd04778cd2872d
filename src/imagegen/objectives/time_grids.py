"""Where a sampler evaluates: times (num_steps + 1,) in float64 that fall from 1 (noise) to 0 (data)."""

import torch
from torch import Tensor


def uniform(num_steps: int) -> Tensor:
    """Steps of equal length."""
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def karras(num_steps: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """For the EDM schedule: equal steps of sigma^(1 / rho), the last one from sigma_min to 0 (Karras et al., eq. 5)."""
    shares = torch.linspace(1, 0, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    times = (low + shares * (high - low)) ** rho / sigma_max
    return torch.cat([times, times.new_zeros(1)])


def power(num_steps: int, exponent: float = 2.0) -> Tensor:
    """Steps that shorten towards the data: the exponent-th power of equal ones."""
    return uniform(num_steps) ** exponent
