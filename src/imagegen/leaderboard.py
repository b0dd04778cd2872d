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
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imagegen.scored_runs import HEADINGS, Row, find_rows, groups, number

SHEET_WIDTH = 1220  # pixels


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
