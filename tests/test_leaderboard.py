from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagegen.leaderboard import as_markdown, as_text, find_rows, groups, main

PROTOCOL = {
    "features": "mnist",
    "features_sha256": "a" * 64,
    "reference": "test split",
    "num_real": 10_000,
    "num_generated": 5000,
    "resize": "none",
    "weights": "averaged",
}


def write(folder: Path, model: str, fid: float | None, data: str = "mnist", **more: Any) -> None:
    protocol = PROTOCOL | {key: more.pop(key) for key in list(more) if key in PROTOCOL}
    scores = {"data": data, "model": model, "parameters": 123_456, "sampling_ms_per_image": 2.0, **more}
    if fid is not None:
        scores |= {"test/fid": fid, "test/fid_se": 0.25}
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores | {"protocol": protocol}))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    write(tmp_path / "logs" / "a", "gan", 20.0)
    write(tmp_path / "logs" / "b", "diffusion", 3.0)
    write(tmp_path / "logs" / "c", "vae", 1.0, num_generated=1000)
    write(tmp_path / "logs" / "d", "pixelcnn", None, **{"test/bits_per_dim": 1.12, "likelihood_kind": "exact"})
    write(tmp_path / "logs" / "e", "gan", 9.0, data="digits")
    return tmp_path / "logs"


def test_only_runs_of_one_protocol_are_ranked_together(logs: Path) -> None:
    ranked = [[row.model for row in group] for group in groups(find_rows([logs])).values()]
    assert sorted(ranked) == [["diffusion", "gan", "pixelcnn"], ["gan"], ["vae"]]


def test_a_row_has_the_score_with_its_error_and_the_costs(logs: Path) -> None:
    for table in (as_text(find_rows([logs])), as_markdown(find_rows([logs]))):
        line = next(line for line in table.splitlines() if "diffusion" in line)
        assert "3 ± 0.25" in line
        assert "123,456" in line
        assert "1000 samples of averaged weights" in table
    assert "1.12 (exact)" in as_markdown(find_rows([logs]))


def test_files_are_written_in_the_format_of_their_suffix(logs: Path, tmp_path: Path) -> None:
    main([str(logs), "--out", str(tmp_path / "table.md")])
    assert (tmp_path / "table.md").read_text().count("|---") > 3
    main([str(logs), "--out", str(tmp_path / "table.csv")])
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"gan", "diffusion", "vae", "pixelcnn"}
    assert {row["protocol/num_generated"] for row in rows} == {"1000", "5000"}
    pytest.importorskip("matplotlib")
    main([str(logs), "--out", str(tmp_path / "table.png")])
    assert Image.open(tmp_path / "table.png").size[0] > 500


def test_damaged_runs_are_left_out_with_a_word(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (logs / "a" / "scores.json").write_text("{")
    (logs / "b" / "scores.json").write_text("{}")
    assert [row.model for row in find_rows([logs])] == ["vae", "pixelcnn", "gan"]
    assert str(logs / "a" / "scores.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"), [(["nowhere"], "nowhere"), ([".", "--out", "x.doc"], "scored run|.md, .csv or .png")]
)
def test_mistakes_end_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=words):
        main(arguments)


def test_another_suffix_is_refused(logs: Path) -> None:
    with pytest.raises(SystemExit, match="must end in"):
        main([str(logs), "--out", "table.doc"])


def test_some_columns_in_the_order_asked_for(logs: Path, tmp_path: Path) -> None:
    main([str(logs), "--out", str(tmp_path / "table.md"), "--columns", "parameters,FID"])
    table = (tmp_path / "table.md").read_text()
    assert "| model | parameters | FID |" in table
    assert "ms/image" not in table
    with pytest.raises(SystemExit, match="no column beauty; there are FID,IS"):
        main([str(logs), "--columns", "FID,beauty"])


def test_runs_that_cannot_be_drawn_are_left_out_with_a_word(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="no run that could be drawn"):
        main([str(logs), "--samples", str(tmp_path / "samples.png")])
    assert "left out: ckpt:" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"must end in \.png"):
        main([str(logs), "--samples", str(tmp_path / "samples.gif")])
