from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from imagegen.metrics import features
from imagegen.metrics.features import FeatureError, FeatureNetwork, load_features, save_features
from imagegen.networks.residual_classifier import ResidualClassifier

BUNDLED = sorted(features.WEIGHTS.glob("*.safetensors"))


def classifier(width: int = 8) -> ResidualClassifier:
    return ResidualClassifier((1, 8, 8), num_classes=5, width=width, feature_dim=6, dropout=0.5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.safetensors"
    save_features(classifier(), 0.75, path)
    return path


def assert_refused(source: Path | str) -> None:
    with pytest.raises(FeatureError) as error:
        load_features(str(source))
    message = str(error.value)
    assert str(source) in message
    assert len(message.splitlines()) <= 2


def test_a_saved_network_comes_back(tmp_path: Path) -> None:
    network = classifier().half().float()  # the file holds 16-bit weights
    path = tmp_path / "classifier.safetensors"
    save_features(network, 0.75, path)
    loaded = load_features(str(path))
    images = torch.rand(7, 1, 8, 8) * 2 - 1
    found, logits = loaded(images)
    network.eval()
    torch.testing.assert_close(found, network.features(images))
    torch.testing.assert_close(logits, network(images))
    assert (loaded.name, loaded.accuracy, loaded.feature_dim) == (str(path), 0.75, 6)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_loaded_network_is_frozen(saved: Path) -> None:
    loaded = load_features(str(saved))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.network.training
    found, logits = loaded(torch.zeros(2, 1, 8, 8, requires_grad=True))
    assert not found.requires_grad
    assert not logits.requires_grad


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 28, 28), (2, 1, 8, 9)])
def test_images_of_another_shape_are_refused(saved: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError, match=r"takes images of shape \(1, 8, 8\)"):
        load_features(str(saved))(torch.zeros(shape))


@pytest.mark.parametrize("source", ["no_such_network", "somewhere/else.safetensors", "../digits", ""])
def test_unknown_names_are_refused_with_those_that_are_known(source: str) -> None:
    assert_refused(source)
    with pytest.raises(FeatureError) as error:
        load_features(source)
    for path in BUNDLED:
        assert path.stem in str(error.value)


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("a text that is no network\n" * 50)


def cut_off_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_off_nearly_all(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def spoil_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(content)


def write_a_foreign_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def write_foreign_metadata(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"imagegen": "not json"})


def contiguous(network: ResidualClassifier) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def write_other_tensors(path: Path) -> None:
    network = {"image_shape": [1, 8, 8], "num_classes": 5, "width": 8, "feature_dim": 6}
    about = {"network": network, "accuracy": 0.5}
    save_file({"weight": torch.zeros(3)}, path, metadata={"imagegen": json.dumps(about)})


def write_other_sizes(path: Path) -> None:
    network = {"image_shape": [1, 8, 8], "num_classes": 5, "width": 16, "feature_dim": 6}
    about = {"network": network, "accuracy": 0.5}
    save_file(contiguous(classifier()), path, metadata={"imagegen": json.dumps(about)})


def leave_out_the_accuracy(path: Path) -> None:
    about = {"network": {"image_shape": [1, 8, 8], "num_classes": 5, "width": 8, "feature_dim": 6}}
    save_file(contiguous(classifier()), path, metadata={"imagegen": json.dumps(about)})


@pytest.mark.parametrize(
    "damage",
    [
        write_nothing,
        write_text,
        cut_off_the_end,
        cut_off_nearly_all,
        spoil_the_header,
        write_a_foreign_file,
        write_foreign_metadata,
        pytest.param(write_other_tensors),
        pytest.param(write_other_sizes),
        pytest.param(leave_out_the_accuracy),
    ],
)
def test_a_file_that_is_no_feature_network_is_refused(saved: Path, damage: Callable[[Path], None]) -> None:
    load_features(str(saved))
    damage(saved)
    assert_refused(saved)


def test_a_folder_is_no_feature_network(tmp_path: Path) -> None:
    assert_refused(tmp_path)


def bundle(folder: Path, digest: str | None = None) -> None:
    path = folder / "mine.safetensors"
    save_features(classifier(), 0.9, path)
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.safetensors\n{digest}  mine.safetensors\n")


def test_bundled_networks_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path)
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert isinstance(load_features("mine"), FeatureNetwork)
    assert load_features("mine").name == "mine"


def test_one_changed_byte_of_a_bundled_network_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path)
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    path = tmp_path / "mine.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureError, match=r"mine\.safetensors is damaged"):
        load_features("mine")
    path.unlink()
    with pytest.raises(FeatureError, match="no feature network 'mine'"):
        load_features("mine")


def test_a_bundled_network_without_a_recorded_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("")
    monkeypatch.setattr(features, "WEIGHTS", tmp_path)
    with pytest.raises(FeatureError, match="damaged"):
        load_features("mine")


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_bundled_files_match_their_sums_and_work(path: Path) -> None:
    sums = dict(reversed(line.split()) for line in (features.WEIGHTS / "SHA256SUMS").read_text().splitlines())
    assert sums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_features(path.stem)
    assert 0.5 < loaded.accuracy <= 1
    found, logits = loaded(torch.rand(3, *loaded.network.image_shape) * 2 - 1)
    assert found.shape == (3, loaded.feature_dim)
    assert logits.shape == (3, loaded.network.num_classes)
    assert found.isfinite().all()


def test_every_recorded_sum_has_its_file() -> None:
    names = {line.split()[1] for line in (features.WEIGHTS / "SHA256SUMS").read_text().splitlines()}
    assert names == {path.name for path in BUNDLED}
