"""Every score beside an independent implementation of it, on the same inputs: ours, theirs, difference.

python benchmarks/reference_checks.py
"""

from __future__ import annotations

import math

import numpy as np
import prdc
import scipy.linalg
import scipy.stats
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from imagegen.metrics import FrechetDistance, KernelDistance, PrecisionRecall
from imagegen.metrics.frechet import Identity
from imagegen.objectives.likelihoods import DiscretizedLogistic, bits_per_dim, kl_standard_normal

Rows = list[tuple[str, float, float]]


def features(num: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)) / dim**0.5
    return shift + torch.randn(num, dim, generator=generator) @ mix


def distances() -> Rows:
    real, fake = features(1500, 64, 1), features(1200, 64, 2, 0.1)
    rows: Rows = []
    ours, theirs = FrechetDistance(64), FrechetInceptionDistance(Identity(64)).set_dtype(torch.float64)
    for metric in (ours, theirs):
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
    rows.append(("FID, torchmetrics", float(ours.compute()), float(theirs.compute())))
    covs = [np.cov(x.double().numpy(), rowvar=False) for x in (real, fake)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    offset = (real.double().mean(0) - fake.double().mean(0)).numpy()
    expected = float(offset @ offset + np.trace(covs[0] + covs[1] - 2 * root))
    rows.append(("FID, scipy sqrtm", float(ours.compute()), expected))

    kernel, reference = KernelDistance(), KernelInceptionDistance(Identity(64), subsets=1, subset_size=1200)
    for metric in (kernel, reference):
        metric.update(real[:1200].double(), real=True)
        metric.update(fake.double(), real=False)
    rows.append(("KID, torchmetrics (one subset of all)", kernel.compute()["kid"], float(reference.compute()[0])))

    manifold = PrecisionRecall()
    manifold.update(real, real=True)
    manifold.update(fake, real=False)
    found = manifold.compute()
    theirs_prdc = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
    rows += [(f"{name}, prdc", found[name], float(value)) for name, value in theirs_prdc.items()]

    logits = 3 * features(1000, 10, 3)
    score = InceptionScore(Identity(10), splits=1)
    score.update(logits)
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=1)
    by_hand = np.exp(scipy.special.rel_entr(probabilities, probabilities.mean(0)).sum(1).mean())
    rows.append(("Inception Score (torchmetrics), by hand", float(score.compute()[0]), float(by_hand)))
    return rows


def likelihoods() -> Rows:
    uniform = torch.full((1,), 784 * math.log(256.0))
    rows: Rows = [("bits/dim of uniform 8-bit pixels", float(bits_per_dim(uniform, (1, 28, 28))), 8.0)]
    levels = torch.arange(256).double().view(256, 1, 1, 1) / 127.5 - 1
    location, log_scale = torch.tensor(0.1, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    log_probs = DiscretizedLogistic().log_prob(levels, location.expand(256, 1, 1, 1), log_scale)
    edges = scipy.stats.logistic(0.1, math.exp(-2.0)).cdf((np.arange(257) - 0.5) / 127.5 - 1)
    edges[0], edges[-1] = 0.0, 1.0
    expected = scipy.stats.entropy(np.diff(edges))
    rows.append(
        ("entropy of a discretised logistic, scipy", float(-(log_probs.exp() * log_probs).sum()), float(expected))
    )
    kl = kl_standard_normal(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, math.log(4.0)]]).double())
    rows.append(("KL of N((1, 0), (1, 4)) to the standard one", float(kl), 0.5 + 0.5 * (4 - 1 - math.log(4.0))))
    return rows


def main() -> None:
    print(f"{'score, reference':<46}{'ours':>14}{'reference':>14}{'difference':>12}")
    for name, ours, reference in [*distances(), *likelihoods()]:
        print(f"{name:<46}{ours:14.8f}{reference:14.8f}{ours - reference:12.1e}")


if __name__ == "__main__":
    main()
