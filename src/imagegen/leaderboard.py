"""All scored runs in one table: python -m imagegen.leaderboard logs/ [--out results.md|.csv|.png].

`--columns FID,parameters` picks some of the columns; `--samples samples.png` draws a row of images of every run.

Runs (`scores.json`) and what evaluate.py wrote beside checkpoints or samples (`*evaluation.json`) are ranked by FID
among those of the same protocol only: the same data, feature network, number of images, resize and weights. Those
without FID follow, by bits/dim. Sampler, function evaluations and guidance are choices of a model and stand in its row.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
SHEET_WIDTH = 1220  # pixels
UNKNOWN = "unknown data"
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
    return _with_data(rows)


def _evaluation(path: Path, scores: dict[str, Any]) -> Row:
    """The row of a file of evaluate.py; what it does not say of a checkpoint stands in the `scores.json` of the run."""
    data, model = scores.get("data") or UNKNOWN, scores.get("model")
    if "checkpoint" not in scores:
        return Row(path, data, model or Path(scores.get("samples", path)).name, scores)
    row = Row(path.parent, data, "", scores)
    folder = row.checkpoint.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    run = read_json(folder / "scores.json")
    model = model or run.get("model") or row.checkpoint.name
    data = scores.get("data") or run.get("data") or UNKNOWN
    return replace(row, data=data, model=f"{model} ({folder.resolve().name})")


def _with_data(rows: list[Row]) -> list[Row]:
    """Rows that do not say their data set get that of another row with the same real images."""
    known = {row.scores.get("protocol", {}).get("reference_sha256"): row.data for row in rows if row.data != UNKNOWN}
    known.pop(None, None)

    def data(row: Row) -> str:
        return known.get(row.scores.get("protocol", {}).get("reference_sha256"), UNKNOWN)

    return [replace(row, data=data(row)) if row.data == UNKNOWN else row for row in rows]


def groups(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by protocol, each group with the best FID first and those without one last, by bits/dim."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(row.protocol, []).append(row)
    for group in found.values():
        group.sort(key=lambda row: row.rank)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def title(protocol: tuple[Any, ...]) -> str:
    """One line that says what the rows of a group have in common."""
    data, features, sha256, reference, _, num_real, num_generated, resize, weights = protocol
    if features is None:
        return f"{data}: without a feature network"
    samples = f"{num_generated} samples" + (f" of {weights} weights" if weights else "")
    return (
        f"{data}: {samples} against {num_real} images of the {reference}, features {features} ({str(sha256)[:8]}),"
        f" resize {resize}"
    )


def number(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def as_text(rows: Iterable[Row], columns: Sequence[str] = HEADINGS) -> str:
    """Aligned columns for a terminal."""
    parts = []
    for protocol, group in groups(rows).items():
        table = _only([row.cells() for row in group], ["model", *columns, "run"])
        widths = {heading: max(len(heading), *(len(cells[heading]) for cells in table)) for heading in table[0]}
        lines = ["  ".join(heading.ljust(width) for heading, width in widths.items())]
        lines += ["  ".join(cells[heading].ljust(width) for heading, width in widths.items()) for cells in table]
        parts.append("\n".join([title(protocol), *(line.rstrip() for line in lines)]))
    return "\n\n".join(parts)


def as_markdown(rows: Iterable[Row], columns: Sequence[str] = HEADINGS) -> str:
    """A Markdown table for each protocol."""
    parts = []
    for protocol, group in groups(rows).items():
        table = _only([row.cells() for row in group], ["model", *columns])
        lines = [f"| {' | '.join(table[0])} |", f"|{'---|' * len(table[0])}"]
        lines += [f"| {' | '.join(cells.values())} |" for cells in table]
        parts.append("\n".join([title(protocol), "", *lines]))
    return "\n\n".join(parts) + "\n"


def as_csv(rows: Iterable[Row]) -> str:
    """One line per run, with the plain numbers, their errors and the whole protocol."""
    table = []
    for row in rows:
        flat = {key: value for key, value in row.scores.items() if not isinstance(value, dict)}
        protocol = {f"protocol/{key}": value for key, value in row.scores.get("protocol", {}).items()}
        table.append({"data": row.data, "model": row.model, "run": str(row.path), **flat, **protocol})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for line in table for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def plot(rows: Iterable[Row], path: Path) -> None:
    """Quality against sampling time, one panel for each protocol, both axes logarithmic."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("a picture needs matplotlib: pip install 'imagegen[plot]'") from None
    panels = {
        key: [row for row in group if row.fid > 0 and row.scores.get("sampling_ms_per_image")]
        for key, group in groups(rows).items()
    }
    panels = {key: group for key, group in panels.items() if group}
    if not panels:
        raise SystemExit("no run has both an FID and a sampling time")
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (protocol, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for row in group:
            time, error = row.scores["sampling_ms_per_image"], row.scores.get("test/fid_se")
            axes.errorbar(time, row.fid, yerr=error, fmt="o", capsize=3)
            axes.annotate(row.model, (time, row.fid), textcoords="offset points", xytext=(6, 4))
        axes.set(xscale="log", yscale="log", xlabel="sampling, ms per image", ylabel="FID", title=protocol[0])
        axes.margins(0.25)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)


def draw_samples(rows: Iterable[Row], path: Path, num_samples: int = 16) -> None:
    """A row of unselected images (seeds 0, 1, ...) of the best weights of every run, its name and FID beside it.

    A checkpoint that several rows score is drawn once.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from imagegen.checkpoint import find_checkpoint, restore
    from imagegen.config import UserError
    from imagegen.pictures import image_grid, save_png

    font = ImageFont.load_default(20)
    lines, drawn = [], set()
    for row in (row for group in groups(rows).values() for row in group):
        try:
            checkpoint = find_checkpoint(row.checkpoint).resolve()
            if checkpoint in drawn:
                continue
            model, cfg = restore(checkpoint)
        except (UserError, ValueError, OSError) as error:
            print(f"{row.path} left out: {error}", file=sys.stderr)
            continue
        drawn.add(checkpoint)
        images = Image.fromarray(image_grid(model.sample(num_samples, seed=0), num_samples, min_width=960))
        line = Image.new("RGB", (SHEET_WIDTH, max(images.height, 60)), "white")
        draw = ImageDraw.Draw(line)
        draw.text((8, 4), row.model, "black", font)
        draw.text((8, 30), f"{cfg.data.name}  FID {number(row.fid)}", "dimgray", font)
        line.paste(images, (SHEET_WIDTH - 970, 0))
        lines.append(np.asarray(line))
    if not lines:
        raise SystemExit("no run that could be drawn")
    save_png(np.concatenate(lines), path)


def _only(table: list[dict[str, str]], headings: Sequence[str]) -> list[dict[str, str]]:
    """Some of the columns, without those that are empty."""
    kept = [heading for heading in headings if any(cells[heading] for cells in table)]
    return [{heading: cells[heading] for heading in kept} for cells in table]


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or write it to a file in the format of its suffix."""
    parser = argparse.ArgumentParser(prog="python -m imagegen.leaderboard", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="searched for run folders")
    parser.add_argument("--out", type=Path, help="a .md, .csv or .png file; without it the table is printed")
    parser.add_argument("--columns", default=",".join(HEADINGS), help="of the table, with commas between them")
    parser.add_argument("--samples", type=Path, help="a .png file: a row of images of every run")
    options = parser.parse_args(arguments)
    columns = options.columns.split(",")
    if unknown := [heading for heading in columns if heading not in HEADINGS]:
        raise SystemExit(f"--columns: no column {', '.join(unknown)}; there are {','.join(HEADINGS)}")
    if options.samples is not None and options.samples.suffix != ".png":
        raise SystemExit(f"--samples: {options.samples} must end in .png")
    if absent := [str(folder) for folder in options.folders if not folder.is_dir()]:
        raise SystemExit(f"no folder {', '.join(absent)}")
    rows = find_rows(options.folders)
    if not rows:
        raise SystemExit(f"no scored run (scores.json, *evaluation.json) below {', '.join(map(str, options.folders))}")
    if options.samples is not None:
        draw_samples(rows, options.samples)
    elif options.out is None:
        print(as_text(rows, columns))
    elif options.out.suffix == ".png":
        plot(rows, options.out)
    elif options.out.suffix in (".md", ".csv"):
        options.out.write_text(as_markdown(rows, columns) if options.out.suffix == ".md" else as_csv(rows))
    else:
        raise SystemExit(f"--out: {options.out} must end in .md, .csv or .png")


if __name__ == "__main__":
    main()
