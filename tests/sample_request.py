"""What sample.py asks of a task: every key of configs/sample.yaml, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CONFIG = Path(__file__).parents[1] / "configs" / "sample.yaml"


def sample_request(**changes: Any) -> dict[str, Any]:
    """The request of `sample.py` with these changes."""
    config = OmegaConf.load(CONFIG)
    return {str(key): config[key] for key in config if key not in ("defaults", "ckpt", "task")} | {
        "options": {},
        "accelerator": "cpu",
        **changes,
    }
