"""Lightning's Trainer with a precision chosen by what the hardware has."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException


class Trainer(lightning.Trainer):
    """`precision="auto"` is bf16-mixed where the processor or GPU computes in bf16, else 32-true.

    Raises ValueError where an accelerator is asked for and absent. All else is Lightning's.
    """

    def __init__(self, accelerator: str = "auto", precision: str | int = "auto", **kwargs: Any) -> None:
        if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ValueError("no GPU found; use trainer=cpu, or trainer=auto for the best device there is")
        if precision == "auto":
            precision = "bf16-mixed" if has_bf16(accelerator) else "32-true"
        try:
            super().__init__(accelerator=accelerator, precision=precision, **kwargs)  # type: ignore[arg-type]
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error


def has_bf16(accelerator: str) -> bool:
    """Whether bf16 arithmetic is in the hardware of the device that `accelerator` chooses."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
