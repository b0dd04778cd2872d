"""Which weights are kept, and when: so that a run that is stopped anywhere ends as if it had not been."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pydantic import PositiveFloat

from imagegen.stop_signals import STOP


class ProcessError(RuntimeError):
    """The processes of a run do not work together."""


class BestAndLast(ModelCheckpoint):
    """Keep `best.ckpt` by a validation score and `last.ckpt`, each with the config that rebuilds its model.

    If the score is not computed, the newest weights count as the best. `last.ckpt` is written at each validation,
    every `save_every_seconds` (more rarely where saving takes more than 1 % of the time) and when the process is asked
    to stop; never with weights that are no numbers. A run resumed from it goes on with the very next step, after the
    validation that was under way, if any.
    """

    MAX_SHARE = 0.01  # of the time that may go into saves between validations
    STEPS_BETWEEN_LOOKS = 10  # at the clock and the signals, where several processes have to agree

    def __init__(self, dirpath: str, monitor: str | None, mode: str, save_every_seconds: PositiveFloat = 30.0) -> None:
        super().__init__(dirpath=dirpath, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.last = Path(dirpath) / "last.ckpt"
        self.save_every_seconds = save_every_seconds
        self.config: dict[str, Any] = {}
        self.origin: dict[str, Any] = {}  # what `resume=` needs besides: see imagegen.resume
        self._seconds_before, self._start = 0.0, math.nan
        self._next_save = math.inf
        self._is_validation_due = False

    @property
    def state_key(self) -> str:
        """One name for the state, although `monitor` may change."""
        return type(self).__name__

    @property
    def seconds(self) -> float:
        """Wall-clock time of training, validation included, in all processes that this run has had."""
        return self._seconds_before + time.monotonic() - self._start

    # When a checkpoint is written -----------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._check_config(trainer)
        self._start = time.monotonic()
        trainer.should_stop = False  # where the time is up already, the last validation may still be due

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._plan_next_save(0.0)
        pl_module.on_train_batch_end(None, None, 0)  # writes the losses that were due when the checkpoint was saved
        if self._is_validation_due:
            self._validate(trainer)
        STOP.install()  # the Trainer has taken the signals
        STOP.is_held = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        signal, is_save_due = self._look(trainer, batch_idx)
        if signal or is_save_due:
            self._is_validation_due = _validates_next(trainer)
            self._save(trainer, pl_module)
            self._is_validation_due = False
            if signal:  # other processes end well: it is the first that reports how the run ended
                raise SystemExit(128 + signal if trainer.is_global_zero else 0)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            pl_module.check_weights()
            self._is_validation_due = True
            if trainer.world_size == 1:  # may take long, and can be repeated
                STOP.release()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        STOP.is_held = True
        self._is_validation_due = False
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            self.monitor = None
        super().on_validation_end(trainer, pl_module)
        self._save(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        STOP.release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        STOP.is_held = False
        # Elsewhere it has been saved already, or an exception may have cut a step in two.
        if self._is_validation_due and isinstance(exception, KeyboardInterrupt | SystemExit):
            self._save(trainer, pl_module)

    def _check_config(self, trainer: Any) -> None:
        """Refuse to train where processes were started with different configs: they would average what differs."""
        if trainer.world_size > 1:
            digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode()).digest()
            number = torch.tensor(int.from_bytes(digest[:7], "big"), device=trainer.strategy.root_device)
            if len(set(trainer.strategy.all_gather(number).tolist())) > 1:
                raise ProcessError("the processes of this run were started with different configs")

    def _look(self, trainer: Any, batch_idx: int) -> tuple[int, bool]:
        """The signal that asks for an end, or 0, and whether it is time to save: in all processes the same."""
        if trainer.world_size > 1 and batch_idx % self.STEPS_BETWEEN_LOOKS:
            return 0, False
        seen = STOP.received or 0, time.monotonic() >= self._next_save
        if trainer.world_size > 1:
            seen = trainer.strategy.broadcast(seen)
        return seen

    def _save(self, trainer: Any, pl_module: Any) -> None:
        start = time.monotonic()
        pl_module.check_weights()
        trainer.save_checkpoint(self.last)
        self._plan_next_save(time.monotonic() - start)

    def _plan_next_save(self, cost: float) -> None:
        self._next_save = time.monotonic() + max(self.save_every_seconds, cost / self.MAX_SHARE)

    def _validate(self, trainer: Any) -> None:
        """Do the validation that was due or under way when the checkpoint was written, as the Trainer would have."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True

    # What it holds --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["origin"] = self.origin
        # To the Trainer a validation that was under way is done: `_validate` begins it anew.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, 0))

    def state_dict(self) -> dict[str, Any]:
        own = {"seconds": self.seconds, "is_validation_due": self._is_validation_due}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score; its checkpoint comes along if the run goes on in another folder."""
        if not math.isnan(self._start):  # at the test of the best weights
            return
        self._seconds_before = state_dict["seconds"]
        self._is_validation_due = state_dict["is_validation_due"]
        then, now = Path(state_dict["best_model_path"]), Path(str(self.dirpath)) / "best.ckpt"
        if state_dict["best_model_path"] and then != now and then.is_file() and not now.exists():
            now.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(then, now)
        if state_dict["best_model_path"] and now.is_file():
            self.best_model_path = str(now)
            if (score := state_dict["best_model_score"]) is not None:
                self.best_model_score = self.kth_value = score
                self.best_k_models, self.kth_best_model_path = {str(now): score}, str(now)


def _validates_next(trainer: Any) -> bool:
    """Whether the Trainer is going to validate before the next step."""
    if not trainer.enable_validation:
        return False
    num_batches = trainer.fit_loop.total_batch_idx + 1
    return bool(trainer.should_stop or num_batches % trainer.val_check_batch == 0)
