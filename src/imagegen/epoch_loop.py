"""Lightning's loop over the batches of an epoch, with a short way through the usual step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from lightning import Callback, LightningModule
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import LBFGS

from imagegen.data import ImageDataModule
from imagegen.models.image_model import Batch, ImageModel

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class EpochLoop(_TrainingEpochLoop):
    """The usual step, on one device and without gradient scaling, at a fraction of the bookkeeping.

    Lightning goes through some sixty hooks in a step, nearly all of them empty, each with a lookup, a name for the
    profiler and a note of who may log: a millisecond on a slow processor. Here those that a callback or the model has
    written are found once and called in the same order; progress counters, precision, outputs and what `self.log`
    needs are kept as Lightning keeps them. Whatever is not usual is left to Lightning's own code: the first step after
    a resume, the end of an epoch, validation, stopping, other strategies and precisions, profilers, accumulated or
    clipped gradients, schedulers.
    """

    _step: UsualStep | None = None

    def on_run_start(self, data_fetcher: Any) -> None:
        """Begin an epoch."""
        super().on_run_start(data_fetcher)
        epochs = self.trainer.fit_loop.epoch_progress
        if epochs.current.ready == epochs.current.processed:
            # Lightning begins no new epoch after a checkpoint of the last step of one: a second resume, in the epoch
            # that follows, would take it for done.
            epochs.increment_ready()
            epochs.increment_started()
        if not self._is_usual():
            self._step = None
        elif self._step is None:
            self._step = UsualStep(self.trainer)
        if self._step is not None:
            [self._step.batches] = data_fetcher.combined_loader._iterator.iterators

    def _is_usual(self) -> bool:
        trainer = self.trainer
        precision = trainer.precision_plugin
        return (
            isinstance(trainer.lightning_module, ImageModel)
            and isinstance(trainer.datamodule, ImageDataModule)
            and type(trainer.strategy) is SingleDeviceStrategy
            and type(precision) in (Precision, MixedPrecision)
            and getattr(precision, "scaler", None) is None
            and isinstance(trainer.profiler, PassThroughProfiler)
            and trainer.accumulate_grad_batches == 1
            and not trainer.gradient_clip_val
            and not trainer.lr_scheduler_configs
            and not isinstance(trainer.optimizers[0], LBFGS)  # which computes the loss several times
            and trainer.check_val_every_n_epoch is None  # validation counts batches across epochs
            and isinstance(trainer.val_check_batch, int)
            and self.max_steps == -1
        )

    def teardown(self) -> None:
        """Forget the step: the next fit may have another model and other callbacks."""
        self._step = None
        super().teardown()

    @property
    def done(self) -> bool:
        """Whether the epoch is over."""
        progress = self.batch_progress
        if (
            self._step is None
            or self._restarting
            or self.trainer.should_stop
            or progress.is_last_batch
            or progress.current.ready == self.trainer.num_training_batches
        ):
            return bool(super().done)
        return False

    def advance(self, data_fetcher: Any) -> None:
        """Train on a batch."""
        step = self._step
        if step is None or self._restarting:
            return super().advance(data_fetcher)
        progress, results, connector = self.batch_progress, self._results, self.trainer._logger_connector
        batch, batch_idx = step.next_batch(), progress.current.ready
        data_fetcher.fetched += 1
        data_fetcher.done = progress.is_last_batch = data_fetcher.fetched >= data_fetcher.length
        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size = batch, None
        if step.call("on_train_batch_start", batch, batch_idx) == -1:
            progress.increment_by(0, is_last_batch=True)
            progress.increment_processed()
            raise StopIteration
        progress.increment_started()
        outputs: Any
        if step.model.automatic_optimization:
            outputs = self._optimize(step, batch, batch_idx)
        else:
            outputs = self.manual_optimization.run(OrderedDict(batch=batch, batch_idx=batch_idx))
        progress.increment_processed()
        step.call("on_train_batch_end", outputs, batch, batch_idx)
        if results:  # something was logged
            connector.on_batch_end()
        results.batch = None
        progress.increment_completed()
        if results:
            connector.update_train_step_metrics()
        return None

    def _optimize(self, step: UsualStep, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """A step of the one optimizer. Its loss and gradients come first, so the closure that it gets is trivial."""
        model, optimizer, epoch = step.model, step.optimizer, self.trainer.current_epoch
        progress = self.automatic_optimization.optim_progress.optimizer
        progress.step.increment_ready()
        model._current_fx_name = "training_step"
        with step.autocast:
            loss = model.training_step(batch, batch_idx)
        progress.zero_grad.increment_ready()
        step.call("on_before_zero_grad", optimizer)
        progress.zero_grad.increment_started()
        model.optimizer_zero_grad(epoch, batch_idx, optimizer)
        progress.zero_grad.increment_completed()
        step.call("on_before_backward", loss)
        model.backward(loss)
        step.call("on_after_backward")
        step.call("on_before_optimizer_step", optimizer)
        loss = loss.detach()
        model.optimizer_step(epoch, batch_idx, optimizer, lambda: loss)
        progress.step.increment_completed()
        return {"loss": loss}

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validate if it is time to."""
        trainer, progress = self.trainer, self.batch_progress
        if (
            self._step is None
            or self._skip_next_val
            or trainer.should_stop
            or trainer.received_sigterm
            or progress.is_last_batch
            or progress.total.ready % trainer.val_check_batch == 0
        ):
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1


class UsualStep:
    """What a step of one fit needs, found once."""

    batches: Iterator[Batch]  # of this epoch, on the processor

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.model = trainer.lightning_module
        self.data = trainer.datamodule
        self.device = trainer.strategy.root_device
        self.optimizer = trainer.strategy.optimizers[0]
        is_mixed = isinstance(trainer.precision_plugin, MixedPrecision)
        # entered again and again: to make one takes longer than to enter it
        self.autocast = trainer.precision_plugin.autocast_context_manager() if is_mixed else nullcontext()
        self.hooks = {name: self._written(name) for name in HOOKS}

    def next_batch(self) -> Batch:
        """Images (B, C, H, W) in [-1, 1] and labels (B,) on the device."""
        batch = next(self.batches)
        if self.device.type != "cpu":
            is_cuda = self.device.type == "cuda"
            batch = batch[0].to(self.device, non_blocking=is_cuda), batch[1].to(self.device, non_blocking=is_cuda)
        return self.data.on_after_batch_transfer(batch, 0)  # type: ignore[no-any-return]

    def _written(self, hook: str) -> tuple[list[Callable[..., None]], Callable[..., Any] | None]:
        """The functions that callbacks, and the one that the model, have for a hook."""
        of_callbacks = [getattr(callback, hook) for callback in self.trainer.callbacks]
        of_model = getattr(self.model, hook)
        empty, empty_of_model = getattr(Callback, hook), getattr(LightningModule, hook)
        return (
            [function for function in of_callbacks if getattr(function, "__func__", None) is not empty],
            None if getattr(of_model, "__func__", None) is empty_of_model else of_model,
        )

    def call(self, hook: str, *args: Any) -> Any:
        """Call a hook of the callbacks, then of the model, and return the model's answer."""
        of_callbacks, of_model = self.hooks[hook]
        if not of_callbacks and of_model is None:
            return None
        model = self.model
        model._current_fx_name = hook  # who may log
        for function in of_callbacks:
            function(self.trainer, model, *args)
        return None if of_model is None else of_model(*args)
