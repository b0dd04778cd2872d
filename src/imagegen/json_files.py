"""JSON files that a reader never finds half written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping; numbers that are not finite become null."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(_json(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file; of one that is missing or damaged an empty one."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def update_json(path: Path, **entries: Any) -> None:
    """Set entries of a file and leave its others; one that is missing or damaged begins anew."""
    write_json(path, read_json(path) | entries)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
