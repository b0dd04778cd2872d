from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imagegen.doctor import examine, main


def found(data_dir: Path | None = None) -> dict[str, tuple[str, bool | None]]:
    return {finding.what: (finding.text, finding.is_good) for finding in examine(data_dir)}


def install(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


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


def test_data_and_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    assert found(tmp_path)["data"] == (f"{tmp_path}: mnist", True)
    assert found(tmp_path / "nowhere")["data"][1] is False
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert found()["temporary files"] == (f"{tmp_path / 'missing'} does not exist", False)
    assert main([str(tmp_path / "nowhere")]) == 1
