"""Which classes a generator draws, by the word of the feature network's classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from imagegen.metrics.frechet import jackknife_error, jackknife_groups
from imagegen.metrics.manifold import standard_error


class ClassCoverage(Metric):
    """Missing classes, and how far the classes of samples are from those of real images in total variation.

    A class is missing if it has less than a tenth of its share of the real images. Where samples were drawn for given
    labels, `label_accuracy` is the share that the classifier finds in the class asked for.
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]
    agrees: list[Tensor]

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        for name in ("real", "fake", "agrees"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, real: bool, labels: Tensor | None = None) -> None:
        """Count logits (N, num_classes), and the labels (N,) that the samples were drawn for."""
        found = logits.argmax(1)
        (self.real if real else self.fake).append(found)
        if labels is not None and not real:
            self.agrees.append(found == labels.to(found.device))

    def compute(self) -> dict[str, float]:
        """`missing_classes`, `class_tv` and, with labels, `label_accuracy`; standard errors as `<name>_se`."""
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        expected, share = self._shares(real), self._shares(fake)
        left_out = [float(_total_variation(self._shares(fake[rows]), expected)) for rows in jackknife_groups(len(fake))]
        values = {
            "missing_classes": float((share < 0.1 * expected).sum()),
            "class_tv": float(_total_variation(share, expected)),
            "class_tv_se": jackknife_error(left_out),
        }
        if len(self.agrees):
            agrees = dim_zero_cat(self.agrees)
            values |= {"label_accuracy": float(agrees.double().mean()), "label_accuracy_se": standard_error(agrees)}
        return values

    def _shares(self, found: Tensor) -> Tensor:
        return torch.bincount(found, minlength=self.num_classes).double() / max(len(found), 1)


def _total_variation(shares: Tensor, others: Tensor) -> Tensor:
    return 0.5 * (shares - others).abs().sum()


def class_spread(features: Tensor, logits: Tensor) -> float:
    """Root of the mean squared distance of features (N, D) from the mean of their class, as the logits (N, K) find it.

    Divided by that of real images it says whether a generator varies within classes: 0 is one picture per class.
    """
    found = logits.argmax(1)
    num_classes = logits.shape[1]
    counts = torch.bincount(found, minlength=num_classes).clamp(min=1)
    sums = torch.zeros(num_classes, features.shape[1], device=features.device).index_add_(0, found, features.float())
    return float((features.float() - (sums / counts[:, None])[found]).square().sum(1).mean().sqrt())
