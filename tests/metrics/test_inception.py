"""The Inception network, with random weights: the published ones are a download of 95 MB.

torch-fidelity brings torchvision, which must match torch: a CPU build of torch rarely finds its match. The tests need
neither: TORCH_FIDELITY_PATH names a folder with torch-fidelity alone, and what it takes from torchvision is not used.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from imagegen.data.module import from_uint8
from imagegen.metrics.features import FeatureError, FeatureSource
from imagegen.metrics.inception import FILE_NAME, InceptionFeatures, find_weights


@pytest.fixture(scope="module")
def extractor() -> Any:
    """torch-fidelity's class."""
    stubs = ["torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"]
    with pytest.MonkeyPatch.context() as patch:
        for name in stubs:
            patch.setitem(sys.modules, name, MagicMock())
        if folder := os.environ.get("TORCH_FIDELITY_PATH"):
            patch.syspath_prepend(folder)
        module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    return module.FeatureExtractorInceptionV3


@pytest.fixture(scope="module")
def weights(extractor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / FILE_NAME
    torch.save({}, path)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "load_state_dict", lambda *_: None)
        network = extractor("inception", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("channels", [1, 3])
def test_sees_what_torch_fidelity_sees(extractor: Any, weights: Path, channels: int) -> None:
    features = InceptionFeatures(weights, sha256(weights))
    images = torch.randint(256, (2, channels, 20, 24), dtype=torch.uint8)
    found, logits = features(from_uint8(images))
    reference = extractor("inception", ["2048", "logits_unbiased"], str(weights))
    expected, expected_logits = reference(images.expand(-1, 3, -1, -1))
    assert found.equal(expected)
    assert logits.equal(expected_logits)
    assert (found.shape, logits.shape) == ((2, 2048), (2, 1008))


def test_other_weights_are_refused_before_they_are_read(extractor: Any, weights: Path) -> None:
    with pytest.raises(FeatureError, match="nothing was loaded"):
        InceptionFeatures(weights)


def test_weights_that_are_not_there(extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FeatureError, match="nowhere"):
        FeatureSource("inception", str(tmp_path / "nowhere")).load("mnist", 10)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FeatureError, match=FILE_NAME) as error:
        FeatureSource("inception").load("mnist", 10)
    assert "\n" not in str(error.value)


def test_weights_are_found_in_the_cache_of_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / FILE_NAME
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_weights(None) == path
    assert find_weights(path) == path


def test_two_channels_are_refused(extractor: Any, weights: Path) -> None:
    with pytest.raises(FeatureError, match="2 channels"):
        InceptionFeatures(weights, sha256(weights))(torch.zeros(1, 2, 8, 8))
