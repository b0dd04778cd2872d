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

from tests import forked

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what tests start: the workers of pytest share the cores
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
def script(tmp_path: Path) -> Callable[..., forked.Ended]:
    """Run a script of the project in `tmp_path`, as a user would, in a process that begins with everything imported."""

    def _script(name: str, *arguments: str, **variables: str) -> forked.Ended:
        return forked.script(name, *arguments, folder=tmp_path, **variables).wait()

    return _script


@pytest.fixture
def fresh_script(tmp_path: Path) -> Callable[..., forked.Ended]:
    """As `script`, or with `-m` a module, in an interpreter that has imported nothing yet."""

    def _script(name: str, *arguments: str, **variables: str) -> forked.Ended:
        found = subprocess.run(
            [sys.executable, *([name] if name == "-m" else [str(ROOT / name)]), *arguments],
            cwd=tmp_path,
            env=forked.environment(tmp_path) | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return forked.Ended(found.returncode, found.stdout, found.stderr)

    return _script
