from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure() -> None:
    torch.set_num_threads(1)  # small tensors, many of them: a second thread only waits


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Compose configs/train.yaml (or another) with overrides, as the scripts do."""

    def _compose(*overrides: str, config_name: str = "train") -> DictConfig:
        return compose(config_name, overrides=list(overrides))

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield _compose


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run a script of the project in `tmp_path`, on its own, as a user would: no API key, no terminal."""

    def _script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "IMAGEGEN_", "HYDRA_"))
        }
        environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), **variables}
        return subprocess.run(
            [sys.executable, *([name] if name == "-m" else [str(ROOT / name)]), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return _script
