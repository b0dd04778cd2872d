from __future__ import annotations

import json

import pytest
import torch

from imagegen.data.digits import read
from imagegen.metrics.features import bundled_features, load_features
from imagegen.metrics.self_test import RECORDED, corruptions, measure, run_self_test


def test_every_bundled_network_has_its_values() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert set(recorded) == set(bundled_features())
    for name, entry in recorded.items():
        assert entry["features_sha256"] == load_features(name).sha256


def test_corruptions_are_what_they_say() -> None:
    splits = read(None)
    cases = corruptions(splits)
    images, labels = cases["real"]
    assert images.equal(splits["val"][0])
    assert (cases["noise"][0].float() - images).abs().mean() > 5
    assert cases["blur"][0].float().flatten(1).std(1).mean() < images.float().flatten(1).std(1).mean()
    assert set(cases["a class dropped"][1].tolist()) == set(range(1, 10))
    copies, copied_labels = cases["50 training images copied"]
    assert len(copies) == len(images) == len(copied_labels)
    assert len(torch.unique(copies.flatten(1), dim=0)) <= 50


def test_recorded_values_are_found_again_and_others_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    splits, features = read(None), load_features("digits")
    assert run_self_test(features, "digits", splits) == 0
    # A bug in one score is noticed.
    monkeypatch.setattr("imagegen.metrics.generation.frechet_distance", None, raising=False)
    monkeypatch.setattr("imagegen.metrics.frechet.frechet_distance", lambda *_: torch.tensor(1.0))
    assert run_self_test(features, "digits", splits) >= 5
    assert "FAIL  noise: fid" in capsys.readouterr().out


def test_without_recorded_values_the_relations_count(capsys: pytest.CaptureFixture[str]) -> None:
    features = load_features("digits")
    features.sha256 = "another"
    assert run_self_test(features, "digits", read(None)) == 0
    assert "relations" in capsys.readouterr().out


def test_scores_notice_each_corruption() -> None:
    values = measure(load_features("digits"), read(None))
    real = values["real"]
    assert values["noise"]["fid"] > 1.2 * real["fid"]
    assert values["noise"]["precision"] < real["precision"]
    assert values["a class dropped"]["missing_classes"] == 1 > real["missing_classes"]
    assert values["50 training images copied"]["copy_rate_pixels"] == 1
    assert values["50 training images copied"]["coverage"] < real["coverage"]
