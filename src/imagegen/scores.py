"""The final scores of a run with the protocol that makes them comparable, and how they are printed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer

from imagegen.callbacks import GenerationMetrics, SampleGrid
from imagegen.models.image_model import ImageModel


def collect_scores(trainer: Trainer, model: ImageModel, **costs: Any) -> dict[str, Any]:
    """Scores of the test split, costs and protocol, as plain numbers and strings."""
    scores: dict[str, Any] = {"images_seen": model.images_seen, **costs}
    scores["parameters"] = model.num_parameters
    metrics = [callback for callback in trainer.callbacks if isinstance(callback, GenerationMetrics)]  # type: ignore[attr-defined]
    for callback in metrics:
        scores |= callback.costs
    scores |= {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test/")}
    if "test/bits_per_dim" in scores:
        scores["likelihood_kind"] = model.likelihood_kind
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SampleGrid) and callback.last is not None:
            scores["picture"] = str(callback.last)
    for callback in metrics:
        if callback.protocol:
            scores["protocol"] = callback.protocol
    return scores


def summary(rows: Mapping[str, Any]) -> str:
    """The table printed at the end of a run: a line per entry, nested entries on one line.

    A score `x` and its standard error `x_se` share a line.
    """
    shown = _shown(rows)
    width = max(map(len, shown))
    return "\n".join(f"{key:<{width}}  {text}" for key, text in shown.items())


def card(scores: Mapping[str, Any], folder: Path) -> str:
    """A page in Markdown that goes with the weights of a run: what it is, how it was made, what it is worth.

    `scores` are those of `scores.json` in the run's `folder`, to which the path of the picture is made relative.
    """
    shown = _shown(scores)
    lines = [f"# {shown.pop('model')} on {shown.pop('data')}", "", f"`python train.py {shown.pop('overrides')}`", ""]
    if "picture" in shown:
        lines += [f"![Unselected samples]({os.path.relpath(shown.pop('picture'), folder)})", ""]
    protocol = shown.pop("protocol", "")
    lines += ["| | |", "|---|---|", *(f"| {key.removeprefix('test/')} | {text} |" for key, text in shown.items()), ""]
    lines += [f"How it was scored: {protocol}.", ""] if protocol else []
    return "\n".join([*lines, "`python sample.py ckpt=<this folder>` draws with it.", ""])


def _shown(rows: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: _text(value) for key, value in rows.items() if not (key.endswith("_se") and key[:-3] in rows)}
    for key in shown:
        if isinstance(error := rows.get(f"{key}_se"), float) and math.isfinite(error):
            shown[key] += f" ± {error:.2g}"
    return shown


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if "sha256" not in key)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
