"""Solvers of dx/dt = velocity(x, t) from noise (t=1) to images (t=0), as plain functions.

Each takes `velocity`, a function of x (N, C, H, W) and a scalar time, and `times`, a decreasing grid (num_steps + 1,).
"""

import itertools
from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """First order; `num_steps` function evaluations."""
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Second order, the last step by Euler; `2 * num_steps - 1` function evaluations (Karras et al. 2022, alg. 1)."""
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        slope = velocity(x, t)
        x_next = x + (t_next - t) * slope
        if i < len(times) - 2:
            x_next = x + (t_next - t) * 0.5 * (slope + velocity(x_next, t_next))
        x = x_next
    return x


euler.evaluations = lambda num_steps: num_steps  # type: ignore[attr-defined]
heun.evaluations = lambda num_steps: 2 * num_steps - 1  # type: ignore[attr-defined]
