from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from imagegen.leaderboard import as_markdown, as_text, main
from imagegen.scored_runs import Row, find_rows, groups

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
    protocol = PROTOCOL | {key: more.pop(key) for key in list(more) if key in (*PROTOCOL, "reference_sha256")}
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


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        ({"sampler": "ancestral", "num_function_evaluations": 8, "guidance_scale": 1.0}, "8 (ancestral)"),
        (
            {"sampler": "heun, 5 steps", "num_function_evaluations": 18, "guidance_scale": 2.5},
            "18 (heun, 5 steps, guidance 2.5)",
        ),
        ({"sampler": "rk45", "num_function_evaluations": 23.4375}, "23.44 (rk45)"),
        ({"sampler": "one pass"}, "(one pass)"),
        ({"num_function_evaluations": 3072}, "3072"),
        ({}, ""),
    ],
)
def test_sampler_and_guidance_stand_beside_the_evaluations(protocol: dict[str, Any], text: str) -> None:
    row = Row(Path("run"), "mnist", "diffusion", {"protocol": protocol})
    assert row.cells()["evaluations"] == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("exact", "1.5 (exact)"),
        ("bound, importance samples: 16", "1.5 (bound, 16 samples)"),
        ("bound, importance samples: 1", "1.5 (bound, 1 sample)"),
        ("bound, one code per image", "1.5 (bound, one code per image)"),
        (None, "1.5"),
    ],
)
def test_bits_per_dim_say_all_of_their_kind(kind: str | None, text: str) -> None:
    row = Row(Path("run"), "mnist", "vae", {"test/bits_per_dim": 1.5, "likelihood_kind": kind})
    assert row.cells()["bits/dim"] == text


def test_nats_with_their_error_stand_beside_bits_per_dim(tmp_path: Path) -> None:
    write(tmp_path / "a", "vae", 2.0, **{"test/bits_per_dim": 1.5, "test/nll": 84.25, "test/nll_se": 0.3})
    write(tmp_path / "b", "pixelcnn", 3.0, **{"test/bits_per_dim": 1.25, "test/nll": 81.5})
    table = as_markdown(find_rows([tmp_path]))
    assert "| bits/dim | nats |" in table
    assert "| 84.25 ± 0.3 |" in table
    assert "| 81.5 |" in table


def test_runs_without_fid_come_last_and_are_ranked_by_bits_per_dim(tmp_path: Path) -> None:
    write(tmp_path / "a", "neither", None, **{"test/bits_per_dim": None})
    write(tmp_path / "b", "worse", None, **{"test/bits_per_dim": 2.5})
    write(tmp_path / "c", "scored", 90.0, **{"test/bits_per_dim": 7.0})
    write(tmp_path / "d", "better", None, **{"test/bits_per_dim": 1.5})
    (group,) = groups(find_rows([tmp_path])).values()
    assert [row.model for row in group] == ["scored", "better", "worse", "neither"]


def evaluated(path: Path, fid: float | None = 4.0, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": "mnist", "test/fid": fid, "protocol": PROTOCOL, **more}))


def test_an_evaluation_of_a_checkpoint_names_model_and_folder(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "monday", "vae", 5.0)
    evaluated(tmp_path / "runs" / "monday" / "checkpoints" / "evaluation.json", checkpoint="gone/checkpoints/best.ckpt")
    (tmp_path / "runs" / "monday" / "checkpoints" / "best.ckpt").touch()
    evaluated(tmp_path / "lent" / "evaluation.json", 6.0, checkpoint="lent/x.ckpt")
    (group,) = groups(find_rows([tmp_path])).values()
    assert [row.model for row in group] == ["vae (monday)", "vae", "x.ckpt (lent)"]
    assert group[0].path == tmp_path / "runs" / "monday" / "checkpoints"
    assert group[0].checkpoint == tmp_path / "runs" / "monday" / "checkpoints" / "best.ckpt"
    assert group[1].checkpoint == tmp_path / "runs" / "monday"


def test_an_evaluation_of_samples_is_named_by_their_file(tmp_path: Path) -> None:
    evaluated(tmp_path / "drawn_evaluation.json", samples="out/drawn.npz")
    evaluated(tmp_path / "theirs_evaluation.json", 3.0, samples="out/theirs.npy")
    evaluated(tmp_path / "without_evaluation.json", None, samples="out/without.npy")
    (group,) = groups(find_rows([tmp_path])).values()
    assert [(row.model, row.data) for row in group] == [("theirs.npy", "mnist"), ("drawn.npz", "mnist")]
    assert group[1].path == tmp_path / "drawn_evaluation.json"


def test_evaluations_that_do_not_say_their_weights_stand_apart(tmp_path: Path) -> None:
    evaluated(tmp_path / "drawn_evaluation.json", samples="drawn.npz", protocol={**PROTOCOL, "weights": None})
    assert "mnist: 5000 samples against 10000 images" in as_text(find_rows([tmp_path]))
    (tmp_path / "drawn_evaluation.json").write_text("[]")
    assert find_rows([tmp_path]) == []


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


def test_a_checkpoint_with_several_rows_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run", "vae", 5.0)
    checkpoints = tmp_path / "run" / "checkpoints"
    evaluated(checkpoints / "evaluation.json", checkpoint="best.ckpt", data="mnist")
    evaluated(tmp_path / "lent" / "evaluation.json", checkpoint="x.ckpt", data="mnist")
    for path in (checkpoints / "best.ckpt", tmp_path / "lent" / "x.ckpt"):
        path.touch()
    drawn = []
    model = SimpleNamespace(sample=lambda number, seed: torch.zeros(number, 1, 8, 8))
    cfg = SimpleNamespace(data=SimpleNamespace(name="mnist"))
    monkeypatch.setattr("imagegen.checkpoint.restore", lambda path: (drawn.append(path), (model, cfg))[1])
    main([str(tmp_path), "--samples", str(tmp_path / "samples.png")])
    assert sorted(drawn) == [tmp_path / "lent" / "x.ckpt", checkpoints / "best.ckpt"]
