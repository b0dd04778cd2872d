"""All scores of generated images against a split of real ones, in one feature pass."""

from __future__ import annotations

import math
import warnings
from functools import cached_property, partial
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.image.inception import InceptionScore

from imagegen.data.module import to_uint8
from imagegen.metrics.accuracy import classification_accuracy, joined
from imagegen.metrics.classes import ClassCoverage, class_spread
from imagegen.metrics.features import extract
from imagegen.metrics.frechet import (
    FrechetDistance,
    Identity,
    frechet_standard_error,
    jackknife_error,
    jackknife_groups,
)
from imagegen.metrics.kernel import KernelDistance
from imagegen.metrics.manifold import PrecisionRecall
from imagegen.metrics.memorization import Memorization
from imagegen.metrics.reference import Reference
from imagegen.models.base import GenerativeModel

MIN_SAMPLES = 10


class SampleError(ValueError):
    """Samples that cannot be scored: too few, of another shape, not 8-bit pictures."""


class GenerationScores:
    """FID, Inception Score, classes and diversity and, if `is_full`, everything else that this package measures.

    `has_accuracy` adds the classification accuracy score, which trains a classifier on the samples. Each score `x` that
    has one comes with its standard error `x_se`.
    """

    NUM_SPLITS = 10  # of the Inception Score

    def __init__(self, reference: Reference, seed: int, is_full: bool = True, has_accuracy: bool = False) -> None:
        self.reference = reference
        self.network = reference.network
        self.seed = seed
        self.is_full = is_full
        self.has_accuracy = has_accuracy
        self.neighbours: tuple[Tensor, Tensor] | None = None

    def draw(
        self, model: GenerativeModel, num_samples: int, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """uint8 images (N, C, H, W) and labels (N,) or None; image i has seed `seed + i`. Ranks draw equal shares."""
        start, stop = (num_samples * i // world_size for i in (rank, rank + 1))
        images = to_uint8(model.sample(stop - start, seed=self.seed + start))
        seeds = range(self.seed, self.seed + num_samples)
        return gather(images, num_samples, rank, world_size), model.sample_labels(seeds, None)

    def score(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """Every score of uint8 images (N, C, H, W), drawn for labels (N,) if there were any.

        Raises:
            SampleError: fewer than ten images, or not uint8, or not of the shape of the real ones.

        """
        check_samples(images, tuple(self.reference.images.shape[1:]))
        if labels is not None:
            check_labels(labels, self.reference.num_classes)
        features, logits = extract(self.network, images)
        values = self._frechet(features) | self._inception_score(logits)
        if self.network.num_classes == self.reference.num_classes:  # those of Inception are other ones
            values |= self._classes(logits, labels) | self._diversity(features, logits)
        if self.is_full:
            values |= self._kernel(features) | self._precision_recall(features) | self._memorization(images, features)
        if self.has_accuracy and labels is not None:
            values |= self._accuracy(images, labels)
        return values

    @cached_property
    def _real_spread(self) -> float:
        return class_spread(self.reference.features(), self.reference.logits())

    def _diversity(self, features: Tensor, logits: Tensor) -> dict[str, float]:
        groups = jackknife_groups(len(features))
        left_out = [class_spread(features[rows], logits[rows]) / self._real_spread for rows in groups]
        return {
            "diversity": class_spread(features, logits) / self._real_spread,
            "diversity_se": jackknife_error(left_out),
        }

    def _frechet(self, features: Tensor) -> dict[str, float]:
        mean, factor = self.reference.moments()
        num_real, dim = len(self.reference.images), self.network.feature_dim
        if min(len(features), num_real) <= dim:
            warnings.warn(
                f"FID of {len(features)} samples against {num_real} in {dim} dimensions is mostly bias: use more",
                stacklevel=2,
            )
        fid = FrechetDistance(dim, reference=(mean, factor), sync_on_compute=False).to(features.device)
        fid.update(features, real=False)
        return {"fid": float(fid.compute()), "fid_se": frechet_standard_error(mean, factor, features)}

    def _inception_score(self, logits: Tensor) -> dict[str, float]:
        metric = InceptionScore(Identity(logits.shape[1]), splits=self.NUM_SPLITS, sync_on_compute=False)
        metric.to(logits.device).update(logits)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # the score shuffles before it splits
            mean, std = metric.compute()
        return {"inception_score": float(mean), "inception_score_se": float(std) / math.sqrt(self.NUM_SPLITS)}

    def _kernel(self, features: Tensor) -> dict[str, float]:
        metric = KernelDistance(sync_on_compute=False)
        metric.update(self.reference.features(), real=True)
        metric.update(features, real=False)
        return dict(metric.compute())

    def _precision_recall(self, features: Tensor) -> dict[str, float]:
        metric = PrecisionRecall(real_radii=self.reference.radii(PrecisionRecall.K), sync_on_compute=False)
        metric.update(self.reference.features(), real=True)
        metric.update(features, real=False)
        return dict(metric.compute())

    def _classes(self, logits: Tensor, labels: Tensor | None) -> dict[str, float]:
        metric = ClassCoverage(self.network.num_classes, sync_on_compute=False)
        metric.update(self.reference.logits(), real=True)
        metric.update(logits, real=False, labels=labels)
        return dict(metric.compute())

    def _memorization(self, images: Tensor, features: Tensor) -> dict[str, float]:
        train_images = self.reference.splits["train"][0].to(images.device)
        rows = {"pixels": (images, train_images), "features": (features, self.reference.features("train"))}
        values: dict[str, float] = {}
        for space, (samples, train) in rows.items():
            metric = Memorization(train, self.reference.held_out_distances(space), sync_on_compute=False)
            metric.update(samples)
            values |= {name.replace("copy_rate", f"copy_rate_{space}"): v for name, v in metric.compute().items()}
            if space == "pixels":
                distances, indices = metric.neighbours()
                closest = distances.argsort()[:32]
                self.neighbours = images[closest], train_images[indices[closest]]
        return values

    def _accuracy(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        reference = self.reference
        learned = partial(
            classification_accuracy,
            test_images=reference.images,
            test_labels=reference.labels,
            num_classes=reference.num_classes,
            seed=self.seed,
        )
        accuracy, error = learned(images, labels)
        both = joined(*reference.some_of_train(len(images), self.seed), images, labels)
        together, together_error = learned(*both)
        return {
            "classification_accuracy": accuracy,
            "classification_accuracy_se": error,
            "classification_accuracy_real": self.reference.classification_accuracy(len(images), self.seed),
            "classification_accuracy_both": together,
            "classification_accuracy_both_se": together_error,
        }

    def protocol(self, num_samples: int) -> dict[str, Any]:
        """What a reader must know to compare these scores with others."""
        return {
            "features": self.network.name,
            "features_sha256": self.network.sha256,
            "feature_dim": self.network.feature_dim,
            "reference": f"{self.reference.split} split",
            "reference_sha256": self.reference.digest(self.reference.split),
            "num_real": len(self.reference.images),
            "num_generated": num_samples,
            "resize": self.network.preprocessing,
            "seed": self.seed,
            "torch": torch.__version__,
            "torchmetrics": torchmetrics.__version__,
        }


def check_samples(images: Tensor, image_shape: tuple[int, ...]) -> None:
    """Refuse what would be scored silently and wrongly. Raises SampleError."""
    if images.dtype != torch.uint8:
        raise SampleError(f"samples must be uint8, got {images.dtype}")
    if tuple(images.shape[1:]) != image_shape:
        raise SampleError(f"samples have the shape {tuple(images.shape[1:])}, the real images {image_shape}")
    if len(images) < MIN_SAMPLES:
        raise SampleError(f"scores need at least {MIN_SAMPLES} samples, got {len(images)}")


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels (N,) that are no classes of the data. Raises SampleError."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise SampleError(f"labels must be whole numbers, got {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise SampleError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the data have the classes 0 to"
            f" {num_classes - 1}"
        )


def gather(rows: Tensor, num_rows: int, rank: int, world_size: int) -> Tensor:
    """The shares of all ranks in order: (num_rows, ...) everywhere. Shares differ by one row at most."""
    if world_size == 1:
        return rows
    counts = [num_rows * (i + 1) // world_size - num_rows * i // world_size for i in range(world_size)]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: counts[rank]] = rows
    shares = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(shares, padded)
    return torch.cat([share[:count] for share, count in zip(shares, counts, strict=True)])
