from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen.data.download import resolve_data_dir
from imagegen.doctor import examine, main
from tests.forked import Ended


def found(data_dir: Path | None = None) -> dict[str, tuple[str, bool | None]]:
    return {finding.what: (finding.text, finding.is_good) for finding in examine(data_dir)}


def install(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def fill(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "a_file").touch()


def test_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for word in ("ok torch ", "lightning", "wandb", "W&B", "trainer.precision=auto", "GB free", "cores"):
        assert word in printed
    assert "!!" not in printed


@pytest.mark.parametrize("name", ["hydra-ax-sweeper", "hydra-optuna-sweeper"])
def test_plugins_that_break_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name not in found()
    install(tmp_path, name, "1.2.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    text, is_good = found()[name]
    assert not is_good
    assert f"pip uninstall {name}" in text


def test_a_torchvision_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    text, is_good = found()["torchvision"]
    assert not is_good
    assert "torchvision::nms" in text


def test_a_torchvision_that_does_not_fit_hides_no_other_finding(
    fresh_script: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "torchvision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    ended = fresh_script("-m", "imagegen.doctor", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (1, "")
    lines = ended.stdout.splitlines()
    bad = [line for line in lines if line.startswith("!!")]
    assert [line[3:].split("  ")[0] for line in bad] == ["torchvision", "precision and W&B"]
    assert all("RuntimeError: operator torchvision::nms does not exist" in line for line in bad)
    assert "pip uninstall torchvision" in bad[0]
    for word in ("python", "torch", "processor", "GPU", "data", "here", "temporary files"):
        assert any(line[3:].startswith(f"{word} ") for line in lines), word


def test_data_and_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "mnist")
    assert found(tmp_path)["data"] == (f"{tmp_path}: mnist", True)
    assert found(tmp_path / "nowhere")["data"][1] is False
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert found()["temporary files"] == (f"{tmp_path / 'missing'} does not exist", False)
    assert main([str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_folder_with_one_data_set_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "mnist").mkdir()  # what a failed download leaves
    assert found(tmp_path)["data"] == (f"{tmp_path}: none of mnist, fashion_mnist, cifar10", False)
    fill(tmp_path / "other", name)
    assert found(tmp_path / "other")["data"] == (f"{tmp_path / 'other'}: {name}", True)


@pytest.mark.parametrize("variable", [None, ""])
def test_without_a_folder_the_cache_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str | None
) -> None:
    monkeypatch.delenv("IMAGEGEN_DATA_DIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("IMAGEGEN_DATA_DIR", variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    text, is_good = found()["data"]
    assert text.startswith(f"{resolve_data_dir(None)}: none of mnist, ")
    assert is_good is None, "it can be downloaded"
    fill(resolve_data_dir(None), "cifar10")
    assert main([]) == 0
    assert f"{resolve_data_dir(None)}: cifar10; IMAGEGEN_DATA_DIR is not set" in capsys.readouterr().out
