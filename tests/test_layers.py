"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "imagegen"
# A layer may import itself and these. `models` never name a network: Hydra hands it to them.
MAY_IMPORT = {
    "data": set(),
    "networks": set(),
    "objectives": set(),
    "models": {"objectives"},
    "metrics": {"data", "networks", "models"},
    "pictures.py": {"data", "models"},
    "json_files.py": set(),
    "stop_signals.py": set(),
    "checkpoint_io.py": set(),
    "callbacks": {"data", "metrics", "pictures", "json_files", "stop_signals"},
}
ENTRY = {
    "config.py",
    "run.py",
    "resume.py",
    "sweep.py",
    "tuning.py",
}  # with the scripts, the only places that know Hydra


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_only_what_lies_below_them(layer: str) -> None:
    root = SOURCE / layer
    for path in root.rglob("*.py") if root.is_dir() else [root]:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("imagegen.")}
        assert used <= MAY_IMPORT[layer] | {layer.removesuffix(".py")}, path


def test_only_the_entry_layer_imports_hydra() -> None:
    users = {path.name for path in SOURCE.rglob("*.py") if any(name.startswith("hydra") for name in imports(path))}
    assert users <= ENTRY


def test_configs_are_light_to_import() -> None:
    for script in ("train.py", "evaluate.py", "sample.py", "tune.py"):
        tree = ast.parse((SOURCE.parents[1] / script).read_text())
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert {getattr(node, "module", None) or node.names[0].name for node in top} == {
            "__future__",
            "hydra",
            "omegaconf",
        }
