from __future__ import annotations

from pathlib import Path

from imagegen.scores import card, summary


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


def test_a_card_has_command_picture_scores_and_protocol() -> None:
    scores = {
        "data": "digits",
        "model": "vae",
        "overrides": "model=vae",
        "images_seen": 2048,
        "test/fid": 12.34,
        "test/fid_se": 0.5,
        "picture": "logs/a/samples/x.png",
        "protocol": {"features": "digits", "seed": 3},
    }
    assert card(scores, Path("logs/a")).splitlines() == [
        "# vae on digits",
        "",
        "`python train.py model=vae`",
        "",
        "![Unselected samples](samples/x.png)",
        "",
        "| | |",
        "|---|---|",
        "| images_seen | 2,048 |",
        "| fid | 12.34 ± 0.5 |",
        "",
        "How it was scored: features digits, seed 3.",
        "",
        "`python sample.py ckpt=<this folder>` draws with it.",
    ]
