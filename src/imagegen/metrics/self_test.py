"""Are the scores themselves right here? Real images and known corruptions of them, against values seen before."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.data.module import Splits
from imagegen.metrics.features import FeatureNetwork
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder

RECORDED = Path(__file__).with_name("self_test.json")  # data set -> case -> score -> value seen
RELATIVE, ABSOLUTE = 0.2, {"fid": 0.5, "inception_score": 0.2, "missing_classes": 0.0}  # else 0.05
PUBLISHED = {"inception_score": (11.24, 0.1), "fid": (3.1, 0.2)}  # training against test images of CIFAR-10, Inception


def corruptions(splits: Splits, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Validation images (uint8) and their labels, as they are and spoilt in ways that scores must notice."""
    images, labels = splits["val"]
    generator = torch.Generator().manual_seed(seed)
    noise = 40 * torch.randn(images.shape, generator=generator)
    kernel = torch.ones(images.shape[1], 1, 3, 3) / 9
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    copied = torch.randperm(len(splits["train"][0]), generator=generator)[:50].repeat(len(images) // 50 + 1)
    kept = labels != 0
    return {
        "real": (images, labels),
        "noise": ((images + noise).round().clamp(0, 255).to(torch.uint8), labels),
        "blur": (F.conv2d(padded, kernel, groups=images.shape[1]).round().to(torch.uint8), labels),
        "a class dropped": (images[kept], labels[kept]),
        "50 training images copied": tuple(rows[copied[: len(images)]] for rows in splits["train"]),  # type: ignore[dict-item]
    }


def measure(features: FeatureNetwork, splits: Splits) -> dict[str, dict[str, float]]:
    """Every score, without its error, of each case against the test split."""
    scores = GenerationScores(Reference(features, splits, "test", default_folder()), seed=0)
    return {
        case: {name: value for name, value in scores.score(images, labels).items() if not name.endswith("_se")}
        for case, (images, labels) in corruptions(splits).items()
    }


def run_self_test(features: FeatureNetwork, data_name: str, splits: Splits) -> int:
    """Print a line for each score of each case, PASS or FAIL, and return how many fail."""
    if features.name == "inception" and data_name == "cifar10":
        return _published(features, splits)
    recorded = json.loads(RECORDED.read_text()).get(data_name, {})
    if recorded.get("features_sha256") != features.sha256:
        print(f"no values recorded for data '{data_name}' with this feature network: relations are checked only")
        return _relations(measure(features, splits))
    failed = 0
    for case, values in measure(features, splits).items():
        for name, value in values.items():
            failed += _check(f"{case}: {name}", value, recorded["cases"][case][name], _margin(name))
    return failed


def _margin(name: str) -> float:
    return ABSOLUTE.get(name, 0.05)


def _check(what: str, value: float, expected: float, margin: float) -> int:
    within = abs(value - expected) <= max(margin, RELATIVE * abs(expected) if margin else 0.0)
    print(f"{'PASS' if within else 'FAIL'}  {what:<48} {value:9.4g}   recorded {expected:.4g}")
    return 0 if within else 1


def _relations(cases: dict[str, dict[str, float]]) -> int:
    real, copies = cases["real"], cases["50 training images copied"]
    checks = {
        "noise has a larger FID": cases["noise"]["fid"] > 1.2 * real["fid"],
        "blur has a larger FID": cases["blur"]["fid"] > 1.2 * real["fid"],
        "noise has less precision": cases["noise"]["precision"] < real["precision"],
        "a dropped class has a larger FID": cases["a class dropped"]["fid"] > 1.2 * real["fid"],
        "copies have less recall": copies["recall"] < 0.5 * real["recall"],
        "copies are caught": copies["copy_rate_pixels"] > 0.9 and real["copy_rate_pixels"] < 0.1,
    }
    for what, holds in checks.items():
        print(f"{'PASS' if holds else 'FAIL'}  {what}")
    return sum(not holds for holds in checks.values())


def _published(features: FeatureNetwork, splits: Splits) -> int:
    images = torch.cat([splits["train"][0], splits["val"][0]])
    scores = GenerationScores(Reference(features, splits, "test", default_folder()), seed=0, is_full=False)
    values = scores.score(images)
    return sum(_check(f"training set: {name}", values[name], *PUBLISHED[name]) for name in PUBLISHED)
