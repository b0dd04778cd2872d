"""FID's trace term for 2048 features: ours against torchmetrics and scipy, with the same covariances.

Beside it, what no direct method in float64 can beat here: the operations of the triangular product (4/3 D^3) and of the
reduction to tridiagonal form (4/3 D^3) at the speed of a plain matrix product (2 D^3).

python benchmarks/trace_term.py [--dim 2048] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from imagegen.metrics.frechet import covariance_factor, frechet_distance


def seconds(function: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The result and the least time of it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - start)
    return value, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    dim = arguments.dim
    torch.manual_seed(0)
    # Spectra that fall like those of Inception features.
    scales = torch.arange(1, dim + 1, dtype=torch.float64).pow(-0.5)
    mean, other_mean = torch.zeros(dim, dtype=torch.float64), 0.01 * torch.ones(dim, dtype=torch.float64)
    cov, other_cov = (torch.cov((torch.randn(3 * dim, dim, dtype=torch.float64) * scales).T) for _ in range(2))
    start = time.perf_counter()
    factor = covariance_factor(cov)
    once = time.perf_counter() - start

    def scipy_distance() -> float:
        root = scipy.linalg.sqrtm(cov.numpy() @ other_cov.numpy())
        traces = float(cov.trace() + other_cov.trace() - 2 * np.trace(root.real))
        return float((mean - other_mean).square().sum()) + traces

    methods = {
        "ours, factor of the reference cached": lambda: float(frechet_distance(mean, factor, other_mean, other_cov)),
        "torchmetrics": lambda: float(_compute_fid(mean, cov, other_mean, other_cov)),
        "scipy.linalg.sqrtm": scipy_distance,
    }
    results = {
        name: seconds(method, arguments.repeats if i == 0 else 1) for i, (name, method) in enumerate(methods.items())
    }
    ours = results["ours, factor of the reference cached"]
    print(f"Fréchet distance in {dim} dimensions; the factor took {once:.2f} s, once per reference")
    print(f"{'':<38}{'distance':>14}{'difference':>12}{'seconds':>9}{'ratio':>7}")
    bound = seconds(lambda: float((cov @ other_cov)[0, 0]), arguments.repeats)[1] * 4 / 3
    for name, (value, time_taken) in results.items():
        print(f"{name:<38}{value:14.8f}{value / ours[0] - 1:12.1e}{time_taken:9.2f}{time_taken / ours[1]:7.1f}")
    best = ", ".join(f"{name} {results[name][1] / bound:.1f}" for name in list(results)[1:])
    print(f"bound: {bound:.2f} s, so ratios are at most: {best} ({torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
