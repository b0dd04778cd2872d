from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagegen.scores import summary, write_json


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


def test_summary_has_an_aligned_line_per_entry() -> None:
    rows = {
        "run folder": "logs/digits/vae",
        "images_seen": 600_000,
        "test/fid": 12.34567,
        "test/bits_per_dim": 0.00012345,
        "train_seconds": 1234.56,
        "best": True,
        "picture": None,
    }
    assert summary(rows).splitlines() == [
        "run folder         logs/digits/vae",
        "images_seen        600,000",
        "test/fid           12.35",
        "test/bits_per_dim  0.0001234",
        "train_seconds      1,235",
        "best               True",
        "picture            None",
    ]


def test_summary_keeps_nested_entries_on_one_line_without_checksums() -> None:
    protocol = {"features": "digits", "features_sha256": "0" * 64, "num_generated": 5000}
    assert summary({"protocol": protocol, "x": 1}).splitlines() == [
        "protocol  features digits, num_generated 5,000",
        "x         1",
    ]


def test_summary_shows_numbers_that_are_not_finite() -> None:
    assert summary({"a": float("nan"), "b": float("inf")}) == "a  nan\nb  inf"
