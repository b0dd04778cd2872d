"""Fréchet distance and Inception Score of a generator against a split of real images, in one feature pass."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from imagegen.data.module import from_uint8, to_uint8
from imagegen.metrics.features import FeatureNetwork
from imagegen.models.base import GenerativeModel


class GenerationScores:
    """FID and Inception Score, computed by torchmetrics on features that are extracted once for both.

    The statistics of the real images are kept from one call to the next. All ranks draw equal shares.
    """

    BATCH_SIZE = 500

    def __init__(self, features: FeatureNetwork, real_images: Tensor, num_samples: int, seed: int) -> None:
        """`real_images`: uint8 (N, C, H, W); image i is drawn with seed `seed + i`."""
        self.features = features
        self.real_images = real_images
        self.num_samples = num_samples
        self.seed = seed
        # Both metrics are fed with features, so their own feature network is the identity.
        self.fid = FrechetInceptionDistance(feature=_Features(features.feature_dim), reset_real_features=False)
        self.inception_score = InceptionScore(feature=_Features(features.network.num_classes))
        self._has_real = False

    def compute(self, model: GenerativeModel, rank: int = 0, world_size: int = 1) -> dict[str, float]:
        """`fid`, `inception_score` and `inception_score_std` (over 10 splits) of freshly drawn samples."""
        self.features.to(model.device)
        self.fid.to(model.device)
        self.inception_score.to(model.device)
        if not self._has_real:
            self._update(self.real_images[rank::world_size].to(model.device), real=True)
            self._has_real = True
        start, stop = (self.num_samples * i // world_size for i in (rank, rank + 1))
        samples = model.sample(stop - start, seed=self.seed + start)
        self._update(to_uint8(samples), real=False)
        fid = float(self.fid.compute())
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # the score shuffles before it splits
            mean, std = self.inception_score.compute()
        self.fid.reset()
        self.inception_score.reset()
        return {"fid": fid, "inception_score": float(mean), "inception_score_std": float(std)}

    def _update(self, images: Tensor, real: bool) -> None:
        for batch in torch.split(images, self.BATCH_SIZE):
            features, logits = self.features(from_uint8(batch))
            self.fid.update(features, real=real)
            if not real:
                self.inception_score.update(logits)

    def protocol(self, split: str) -> dict[str, Any]:
        """What a reader must know to compare these scores with others."""
        return {
            "features": self.features.name,
            "features_sha256": self.features.sha256,
            "feature_dim": self.features.feature_dim,
            "reference": f"{split} split",
            "num_real": len(self.real_images),
            "num_generated": self.num_samples,
            "resize": "none",
            "weights": "averaged",
            "seed": self.seed,
            "torch": torch.__version__,
            "torchmetrics": torchmetrics.__version__,
        }


class _Features(nn.Identity):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
