from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_fault_has_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 24
    for row in rows:
        [(path, name)] = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert f"def {name}(" in (ROOT / path).read_text(), row
