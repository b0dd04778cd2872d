"""Seconds to score 10 000 MNIST samples with everything, the statistics of the real images cached, and the memory.

IMAGEGEN_DATA_DIR=... python benchmarks/scoring.py [--num_samples 10000] [--data mnist]
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from imagegen.config import build
from imagegen.metrics.features import FeatureSource
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder
from imagegen.run import quiet_lightning

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--data", default="mnist")
    arguments = parser.parse_args()
    quiet_lightning()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        data = build(compose("train", overrides=[f"data={arguments.data}"]).data, "data")
    data.setup()
    network = FeatureSource().load(data.name, data.num_classes)
    assert network is not None, f"no feature network for {data.name}"
    # Samples of the training set, spoilt a little: what counts is their number.
    images, labels = (rows[: arguments.num_samples] for rows in data.splits["train"])
    noise = 10 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    samples = (images + noise).clamp(0, 255).to(torch.uint8)
    for name in ("first time", "statistics cached"):
        reference = Reference(network, data.splits, "test", default_folder())
        scores = GenerationScores(reference, seed=0, has_accuracy=True)
        for part in (
            "_frechet",
            "_inception_score",
            "_kernel",
            "_precision_recall",
            "_classes",
            "_memorization",
            "_accuracy",
        ):
            _time(scores, part)
        start = time.perf_counter()
        scores.score(samples, labels)
        total = time.perf_counter() - start
        parts = ", ".join(f"{part} {spent:.1f}" for part, spent in SPENT.items())
        print(f"{name}: {total:.1f} s for {len(samples)} samples ({parts})")
        SPENT.clear()
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


PARTS = ("_frechet", "_inception_score", "_kernel", "_precision_recall", "_classes", "_memorization", "_accuracy")
SPENT: dict[str, float] = {}


def _time(scores: GenerationScores, name: str) -> None:
    method = getattr(scores, name)

    def timed(*arguments: object) -> object:
        start = time.perf_counter()
        result = method(*arguments)
        SPENT[name.removeprefix("_")] = time.perf_counter() - start
        return result

    setattr(scores, name, timed)


if __name__ == "__main__":
    main()
