"""Runs and evaluations on disk as rows of numbers, gathered into groups that may be compared."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagegen.json_files import read_json

# What must be equal for two rows to be ranked together.
PROTOCOL = (
    "features",
    "features_sha256",
    "reference",
    "reference_sha256",
    "num_real",
    "num_generated",
    "resize",
    "weights",
)
COLUMNS = {  # heading -> key, factor
    "FID": ("test/fid", 1.0),
    "IS": ("test/inception_score", 1.0),
    "KID": ("test/kid", 1.0),
    "precision": ("test/precision", 1.0),
    "recall": ("test/recall", 1.0),
    "missing classes": ("test/missing_classes", 1.0),
    "class TV": ("test/class_tv", 1.0),
    "label accuracy": ("test/label_accuracy", 1.0),
    "copy rate": ("test/copy_rate_pixels", 1.0),
    "bits/dim": ("test/bits_per_dim", 1.0),
    "nats": ("test/nll", 1.0),
    "parameters": ("parameters", 1.0),
    "images seen": ("images_seen", 1.0),
    "train s": ("train_seconds", 1.0),
    "ms/image": ("sampling_ms_per_image", 1.0),
    "memory MB": ("peak_memory_mb", 1.0),
}
HEADINGS = (*COLUMNS, "evaluations")  # between the name of the model and that of the run


@dataclass(frozen=True)
class Row:
    """One scored run, or one evaluation of a checkpoint (`path` is its folder) or of samples (`path` is its file)."""

    path: Path
    data: str
    model: str
    scores: dict[str, Any]

    @property
    def fid(self) -> float:
        """FID, not a number where there is none."""
        value = self.scores.get("test/fid")
        return float("nan") if value is None else float(value)

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts by FID, then those without one by bits/dim, then the rest."""
        bits = self.scores.get("test/bits_per_dim")
        if not math.isnan(self.fid):
            return 0, self.fid
        return (2, 0.0) if bits is None else (1, float(bits))

    @property
    def checkpoint(self) -> Path:
        """What its images are drawn from: the run folder, or the checkpoint that was evaluated."""
        if "checkpoint" not in self.scores:
            return self.path
        recorded = Path(self.scores["checkpoint"])
        beside = self.path / recorded.name  # the folder may have moved
        return beside if beside.is_file() else recorded

    @property
    def protocol(self) -> tuple[Any, ...]:
        """The part of the protocol that makes scores comparable."""
        protocol = self.scores.get("protocol", {})
        return (self.data, *(protocol.get(key) for key in PROTOCOL))

    def cells(self) -> dict[str, str]:
        """Every column as text, the score with its standard error; empty where the run has none."""
        cells = {"model": self.model}
        for heading, (key, factor) in COLUMNS.items():
            value, error = self.scores.get(key), self.scores.get(f"{key}_se")
            cells[heading] = "" if value is None else number(value * factor)
            if value is not None and error is not None:
                cells[heading] += f" ± {error * factor:.2g}"
        if cells["bits/dim"] and (kind := self.scores.get("likelihood_kind")):
            kind = re.sub(r"importance samples: (\d+)", r"\1 samples", str(kind))
            cells["bits/dim"] += f" ({kind})".replace(" 1 samples", " 1 sample")
        cells["evaluations"] = sampling(self.scores.get("protocol", {}))
        cells["run"] = str(self.path)
        return cells


def sampling(protocol: Mapping[str, Any]) -> str:
    """Function evaluations for each image, with the sampler and a guidance other than 1 in parentheses."""
    count, guidance = protocol.get("num_function_evaluations", ""), protocol.get("guidance_scale")
    how = [str(protocol["sampler"])] if protocol.get("sampler") else []
    if guidance is not None and guidance != 1:
        how.append(f"guidance {guidance:g}")
    text = number(count) if isinstance(count, float) else str(count)  # a mean, if the sampler chooses its steps
    return f"{text} ({', '.join(how)})".lstrip() if how else text


def find_rows(folders: Iterable[Path]) -> list[Row]:
    """Every run and every evaluation below the given folders; damaged ones are left out with a word."""
    rows = []
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            is_run = path.name == "scores.json"
            if not is_run and not path.name.endswith("evaluation.json"):
                continue
            try:
                scores = json.loads(path.read_text())
                if not is_run and scores.get("test/fid") is not None:
                    rows.append(_evaluation(path, scores))
                elif is_run and ("test/fid" in scores or "test/bits_per_dim" in scores):  # no classifier
                    rows.append(Row(path.parent, scores["data"], scores["model"], scores))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                print(f"{path} left out: {type(error).__name__}: {error}", file=sys.stderr)
    return rows


def _evaluation(path: Path, scores: dict[str, Any]) -> Row:
    """The row of a file of evaluate.py; what a checkpoint's model is stands in the `scores.json` of its run."""
    if "checkpoint" not in scores:
        return Row(path, scores["data"], Path(scores["samples"]).name, scores)
    row = Row(path.parent, scores["data"], "", scores)
    folder = row.checkpoint.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    model = read_json(folder / "scores.json").get("model") or row.checkpoint.name
    return replace(row, model=f"{model} ({folder.resolve().name})")


def groups(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by protocol, each group with the best FID first and those without one last, by bits/dim."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(row.protocol, []).append(row)
    for group in found.values():
        group.sort(key=lambda row: row.rank)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def number(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
