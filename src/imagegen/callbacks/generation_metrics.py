"""Scores of generated images during validation and at the test."""

from __future__ import annotations

from typing import Any

from lightning import Callback
from pydantic import NonNegativeInt, PositiveInt

from imagegen.metrics.features import FeatureNetwork, bundled_features, load_features
from imagegen.metrics.generation import GenerationScores


class GenerationMetrics(Callback):
    """Log `val/fid`, `test/fid`, Inception Scores: samples of the averaged weights against the split of that name.

    `features` is the name of a bundled feature network, the path of one, `auto` for the bundled one of the data set at
    hand (a line is printed if there is none), or null for no scores. The network lives here and not on the model, so it
    enters neither its checkpoints nor its gradients.
    """

    def __init__(
        self,
        features: str | None,
        num_val_samples: PositiveInt,
        num_test_samples: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        if min(num_val_samples, num_test_samples) < 2:
            raise ValueError("scores need at least 2 samples: num_val_samples, num_test_samples")
        self.features: FeatureNetwork | None = None if features in (None, "auto") else load_features(str(features))
        self.is_auto = features == "auto"
        self.num_samples = {"val": num_val_samples, "test": num_test_samples}
        self.seed = seed
        self.scores: dict[str, GenerationScores] = {}
        self.protocol: dict[str, Any] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.is_auto and self.features is None:
            name = trainer.datamodule.name
            if name in bundled_features():
                self.features = load_features(name)
            elif stage != "validate" and trainer.is_global_zero:
                print(f"no feature network for data '{name}', so no FID: train one, python train.py model=classifier")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._score("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._score("test", trainer, pl_module)

    def _score(self, split: str, trainer: Any, pl_module: Any) -> None:
        if self.features is None or trainer.sanity_checking:
            return
        if split not in self.scores:
            real_images, _ = trainer.datamodule.splits[split]
            self.scores[split] = GenerationScores(self.features, real_images, self.num_samples[split], self.seed)
        scores = self.scores[split]
        values = scores.compute(pl_module, trainer.global_rank, trainer.world_size)
        self.protocol = scores.protocol(split) | pl_module.sampling_protocol()
        pl_module.log_dict(
            {f"{split}/{name}": value for name, value in values.items()}, logger=False, rank_zero_only=False
        )
