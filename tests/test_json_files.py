from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagegen.json_files import update_json, write_json


def test_json_round_trip(tmp_path: Path) -> None:
    content = {"test/fid": 12.5, "images_seen": 600_000, "protocol": {"features": "digits", "seed": 1}, "none": None}
    path = tmp_path / "scores.json"
    write_json(path, content)
    assert json.loads(path.read_text()) == content
    assert list(json.loads(path.read_text())) == list(content), "in the order given"
    assert path.read_text().endswith("}\n")


def test_writing_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"a": list(range(1000))})
    write_json(path, {"b": 2})
    assert json.loads(path.read_text()) == {"b": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_a_file_open_for_reading_stays_whole_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"a": 1})
    with path.open() as reader:
        write_json(path, {"b": 2})
        assert json.loads(reader.read()) == {"a": 1}


def test_what_json_cannot_hold_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_updating_leaves_the_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    update_json(path, state="running", pid=1)
    update_json(path, warnings=["slow"])
    update_json(path, state="finished")
    assert json.loads(path.read_text()) == {"state": "finished", "pid": 1, "warnings": ["slow"]}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1'])
def test_updating_a_damaged_file_begins_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(content)
    update_json(path, state="running")
    assert json.loads(path.read_text()) == {"state": "running"}
