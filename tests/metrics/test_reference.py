from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen.metrics import reference as module
from imagegen.metrics.features import FeatureNetwork
from imagegen.metrics.frechet import covariance_factor, mean_and_covariance
from imagegen.metrics.reference import Reference, data_hash, default_folder
from imagegen.networks.residual_classifier import ResidualClassifier


def features(sha256: str = "0" * 64) -> FeatureNetwork:
    torch.manual_seed(1)
    network = ResidualClassifier((1, 8, 8), num_classes=3, width=4, feature_dim=5)
    return FeatureNetwork(network, "random", sha256, 0.2, 5, 3, (1, 8, 8))


def splits(seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8),
            torch.arange(count) % 3,
        )
        for name, count in (("train", 60), ("test", 40))
    }


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each feature pass has seen."""
    seen: list[int] = []
    original = module.extract

    def counting(network: Any, images: torch.Tensor) -> Any:
        seen.append(len(images))
        return original(network, images)

    monkeypatch.setattr(module, "extract", counting)
    return seen


def test_moments_are_those_of_the_features(tmp_path: Path) -> None:
    reference = Reference(features(), splits(), "test", tmp_path)
    mean, factor = reference.moments()
    expected_mean, covariance = mean_and_covariance(reference.features())
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(factor @ factor.T, covariance)
    torch.testing.assert_close(covariance_factor(covariance), factor)


def test_features_are_extracted_once_and_read_back_the_same(tmp_path: Path, extractions: list[int]) -> None:
    first = Reference(features(), splits(), "test", tmp_path)
    found = first.features()
    assert extractions == [40]
    again = Reference(features(), splits(), "test", tmp_path)
    assert again.features().equal(found)
    assert again.moments()[0].equal(first.moments()[0])
    assert extractions == [40]


@pytest.mark.parametrize("change", ["data", "network", "preprocessing"])
def test_another_key_means_another_entry(tmp_path: Path, extractions: list[int], change: str) -> None:
    Reference(features(), splits(), "test", tmp_path).features()
    network = features("1" * 64) if change == "network" else features()
    if change == "preprocessing":
        network.preprocessing = "another"
    Reference(network, splits(1 if change == "data" else 0), "test", tmp_path).features()
    assert extractions == [40, 40]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "exchanged"])
def test_a_damaged_entry_is_made_anew_with_a_word(
    tmp_path: Path, extractions: list[int], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Reference(features(), splits(), "test", tmp_path).features()
    (path,) = tmp_path.glob("features-*.safetensors")
    content = path.read_bytes()
    if damage == "exchanged":
        Reference(features("1" * 64), splits(1), "test", tmp_path / "other").features()
        content = next((tmp_path / "other").glob("features-*")).read_bytes()
        extractions.clear()
        extractions.append(40)
    path.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"hello" * 100}.get(damage, content))
    assert Reference(features(), splits(), "test", tmp_path).features().equal(expected)
    assert "made anew" in capsys.readouterr().out
    assert extractions == [40, 40]
    assert Reference(features(), splits(), "test", tmp_path).features().equal(expected)
    assert extractions == [40, 40]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    reference = Reference(features(), splits(), "test", tmp_path / "file" / "cache")
    assert reference.features().shape == (40, 5)
    assert "cannot keep" in capsys.readouterr().out


def test_the_hash_sees_images_labels_and_shape() -> None:
    images, labels = splits()["test"]
    hashes = {
        data_hash(images, labels),
        data_hash(images, labels.flip(0)),
        data_hash(images.flip(0), labels),
        data_hash(images.view(40, 1, 4, 16), labels),
    }
    assert len(hashes) == 4


def test_held_out_distances_are_those_to_the_training_images(tmp_path: Path) -> None:
    reference = Reference(features(), splits(), "test", tmp_path)
    pixels = reference.held_out_distances("pixels")
    rows, train = (splits()[name][0].flatten(1).double() / (255 * 8) for name in ("test", "train"))
    torch.testing.assert_close(pixels.double(), torch.cdist(rows, train).min(1).values, rtol=1e-3, atol=1e-4)
    assert reference.held_out_distances("features").shape == (40,)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGEGEN_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "references"
