"""A trained classifier as a feature network for the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback

from imagegen.metrics.features import save_features


class ExportClassifier(Callback):
    """Write the averaged weights with their test accuracy to `path`, a safetensors file, at the end of a test."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            accuracy = float(trainer.callback_metrics["test/accuracy"])
            save_features(pl_module.ema.module, accuracy, self.path)
