"""Which weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class BestAndLast(ModelCheckpoint):
    """Keep `best.ckpt` by a validation score and `last.ckpt`, each with the config that rebuilds its model.

    If the score is not computed, the newest weights count as the best. An interrupted run leaves its newest weights in
    `last.ckpt`; a diverged one does not, so that the last good ones stay.
    """

    def __init__(self, dirpath: str, monitor: str | None, mode: str) -> None:
        super().__init__(dirpath=dirpath, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.last = Path(dirpath) / "last.ckpt"
        self.config: dict[str, Any] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            self.monitor = None
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            trainer.save_checkpoint(self.last)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if (
            trainer.state.fn == "fit"
            and pl_module.images_seen
            and isinstance(exception, KeyboardInterrupt | SystemExit)
        ):
            trainer.save_checkpoint(self.last)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
