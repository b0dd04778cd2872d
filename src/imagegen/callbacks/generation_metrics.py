"""Scores of generated images during validation and at the test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from pydantic import NonNegativeInt, PositiveInt

from imagegen.metrics.features import FeatureNetwork, FeatureSource
from imagegen.metrics.generation import MIN_SAMPLES, GenerationScores
from imagegen.metrics.reference import Reference, default_folder
from imagegen.pictures import save_png, with_neighbours


class GenerationMetrics(Callback):
    """Log scores of samples of the averaged weights against the split of that name: `val/fid`, `test/fid` and so on.

    Validation computes FID, Inception Score, class shares and diversity; the test computes everything, writes the
    samples that come closest to the training images beside their neighbours to `<dirpath>/neighbours.png`, and, with
    `classification_accuracy`, trains a classifier on the samples. The feature network lives here and not on the model,
    so it enters neither its checkpoints nor its gradients.
    """

    def __init__(
        self,
        features: FeatureSource,
        num_val_samples: PositiveInt,
        num_test_samples: PositiveInt,
        seed: NonNegativeInt,
        classification_accuracy: bool = False,
        dirpath: str | None = None,
    ) -> None:
        if min(num_val_samples, num_test_samples) < MIN_SAMPLES:
            raise ValueError(f"scores need at least {MIN_SAMPLES} samples: num_val_samples, num_test_samples")
        self.source = features
        self.num_samples = {"val": num_val_samples, "test": num_test_samples}
        self.seed = seed
        self.classification_accuracy = classification_accuracy
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.features: FeatureNetwork | None = None
        self.scores: dict[str, GenerationScores] = {}
        self.protocol: dict[str, Any] = {}
        self.costs: dict[str, float] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.features is None:
            data = trainer.datamodule
            self.features = self.source.load(data.name, data.num_classes, data.image_shape)
            if self.features is None and self.source.source and stage != "validate" and trainer.is_global_zero:
                print(
                    f"no feature network for data '{data.name}', so no FID: metrics/features=inception, or train one "
                    f"with model=classifier and give metrics.features.source=<run>/classifier.safetensors"
                )

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._score("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._score("test", trainer, pl_module)

    def _score(self, split: str, trainer: Any, pl_module: Any) -> None:
        if self.features is None:
            return
        if split not in self.scores:
            reference = Reference(
                self.features.to(pl_module.device), trainer.datamodule.splits, split, default_folder()
            )
            is_test = split == "test"
            self.scores[split] = GenerationScores(
                reference, self.seed, is_full=is_test, has_accuracy=is_test and self.classification_accuracy
            )
        scores, num_samples = self.scores[split], self.num_samples[split]
        is_told = split == "test" and trainer.is_global_zero  # which may take minutes
        if is_told:
            print(f"drawing {num_samples:,} images to be scored", flush=True)
        start = time.perf_counter()
        images, labels = scores.draw(pl_module, num_samples, trainer.global_rank, trainer.world_size)
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        seconds = time.perf_counter() - start
        if is_told:
            print(f"drawn in {seconds:,.1f} s; comparing them with the {split} split", flush=True)
        values = scores.score(images, labels)
        self.costs = {
            "sampling_ms_per_image": 1000 * seconds / num_samples * trainer.world_size,
            "peak_memory_mb": peak_memory_mb(pl_module.device),
        }
        self.protocol = scores.protocol(num_samples) | {"weights": "averaged"} | pl_module.sampling_protocol()
        pl_module.log_dict(
            {f"{split}/{name}": value for name, value in values.items()}, logger=False, rank_zero_only=False
        )
        if scores.neighbours is not None and self.dirpath is not None and trainer.is_global_zero:
            save_png(with_neighbours(*scores.neighbours), self.dirpath / "neighbours.png")


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held: on the GPU, or else of the whole process, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
