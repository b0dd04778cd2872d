"""What only some families can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imagegen.models.base import GenerativeModel

Request = dict[str, Any]  # the config of sample.py as plain values, and the `data` that the model was trained on
NUM_IMAGES = 2000  # of the test split, for what is said of latents on average


def ability(model: GenerativeModel, name: str, task: str | None = None) -> Callable[..., Any]:
    """A method that only some families have. Raises ValueError where this one has not, in words of the task."""
    if not hasattr(model, name):
        raise ValueError(f"task: {type(model).__name__} cannot {(task or name).replace('_', ' ')}")
    method: Callable[..., Any] = getattr(model, name)
    return method
