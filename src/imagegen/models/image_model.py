"""How a network is trained on batches of images, whatever the model: one clock, one learning rate, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[..., torch.optim.Optimizer]
LRSchedule = Callable[[float], float]
PLAIN = (bool, int, float, str, Tensor)  # by type, so that no Parameter is among them


class DivergenceError(RuntimeError):
    """The training loss is no longer a finite number."""


class MismatchError(ValueError):
    """The model and the data do not go together."""


class ImageModel(LightningModule):
    """A network trained on batches of images; a subclass writes `losses`, the rest is here.

    `images_seen` counts the real images shown to the model by all devices together and is the only clock: learning
    rate, averaging, evaluation and the x-axis of every curve follow it. `progress` in [0, 1] is the used share of the
    training budget; the `Budget` callback sets it.

    `ema` is an exponential moving average of the trained `network`. Its half-life is `ema_half_life` images, but never
    more than `EMA_RAMP` of the images seen, so that early averages are not dominated by the initial weights
    (Karras et al. 2022, arXiv:2206.00364, appendix F). Whatever is drawn or scored uses these averaged weights.
    """

    EMA_RAMP = 0.05
    is_shardable = False  # see imagegen.strategies.FSDP
    MAX_BAD_STEPS = 10  # in a row, without finite gradients; ten times as many in all

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__()
        self.network = network
        self.ema = AveragedModel(network).requires_grad_(False)
        self._averaged_and_trained = [*self.ema.parameters()], [*network.parameters()]
        pairs = zip(self.ema.module.modules(), network.modules(), strict=True)
        self._with_buffers = [(average, trained) for average, trained in pairs if trained._buffers]
        self._num_parameters = sum(parameter.numel() for parameter in network.parameters())  # before any is sharded
        self._watched: dict[torch.optim.Optimizer, list[nn.Parameter]] = {}
        self.image_shape = tuple(image_shape)
        self.lr = lr
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.ema_half_life = ema_half_life
        self.images_seen = 0
        self._averaged_at = 0  # images seen at the last update of the average
        self.progress = 0.0
        self.train_means: dict[str, float] = {}
        self._sums: dict[str, tuple[Tensor | float, int]] = {}  # a term may be absent from some steps
        self._num_summed = 0
        self._loss: Tensor | float = 0.0
        self.num_bad_steps = 0
        self._num_bad_in_a_row = 0
        self._num_bad_logged = 0

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named scalar terms for images (N, C, H, W) in [-1, 1] and labels (N,); the key `loss` is minimised."""
        raise NotImplementedError

    def evaluation_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The named terms reported on held-out images, by default those of `losses`."""
        return self.losses(images, labels)

    @property
    def num_parameters(self) -> int:
        """Of the networks that draw or classify: a GAN's discriminator does not count."""
        return self._num_parameters

    # How it is trained ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        return self.build_optimizer(self.network, self.lr)

    def build_optimizer(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        optimizer = self.optimizer(network.parameters(), lr=lr)
        for group in optimizer.param_groups:
            group["initial_lr"] = lr
        return optimizer

    @property
    def schedule_progress(self) -> float:
        """What the learning rate follows: the used share of the budget, or of a stage of it."""
        return self.progress

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        factor = self.lr_schedule(self.schedule_progress)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        losses = self.losses(*batch)
        self.record(losses)
        self.images_seen += len(batch[0]) * self.trainer.world_size
        return losses["loss"]

    def record(self, losses: dict[str, Tensor]) -> None:
        """Add the terms of one step to the running means that are logged every `log_every_n_steps` steps."""
        for name, value in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value.detach(), count + 1
        self._num_summed += 1

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    def on_before_backward(self, loss: Tensor) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave out a step that would spoil the weights: neither they nor moments move. Raises DivergenceError at last.

        Looks at the loss and the gradients of the first and the last bias, one of which nearly everything reaches that
        goes wrong; to look at all gradients would cost a small model a quarter of its step. Several processes do, so
        that they come to the same answer.
        """
        if self.trainer.world_size > 1:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            total: Tensor | float = torch.stack(torch._foreach_norm(gradients)).sum()
        else:
            total = sum((p.grad.sum() for p in self._watch(optimizer)), self._loss)  # type: ignore[union-attr]
        self._loss = 0.0
        if math.isfinite(float(total)):
            self._num_bad_in_a_row = 0
            return
        optimizer.zero_grad()
        self.num_bad_steps += 1
        self._num_bad_in_a_row += 1
        if self._num_bad_in_a_row > self.MAX_BAD_STEPS or self.num_bad_steps > 10 * self.MAX_BAD_STEPS:
            losses = ", ".join(f"{name} {value:.4g}" for name, value in self.train_means.items())
            raise DivergenceError(
                f"training diverged after {self.images_seen} images: {self.num_bad_steps} steps without finite "
                f"gradients; last losses: {losses or 'none'}; try a smaller model.lr"
            )

    def _watch(self, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
        """The first and the last bias with gradients, looked for again where one of them has none any more."""
        watched = self._watched.get(optimizer)
        if watched is None or any(parameter.grad is None for parameter in watched):
            found = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            biases = [parameter for parameter in found if parameter.ndim <= 1] or found
            watched = self._watched[optimizer] = [*biases[:1], *biases[-1:]]
        return watched

    def update_average(self) -> None:
        """Move the averaged weights towards the trained ones: part of the step, so that no checkpoint falls between."""
        half_life = max(min(self.ema_half_life, self.images_seen * self.EMA_RAMP), 1e-6)
        decay = 0.5 ** ((self.images_seen - self._averaged_at) / half_life)
        self._averaged_at = self.images_seen
        # As AveragedModel.update_parameters, which searches all modules for parameters and buffers in each step.
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged_and_trained, 1 - decay)  # type: ignore[arg-type]
            for average, trained in self._with_buffers:
                for name, buffer in trained._buffers.items():
                    if buffer is not None:
                        average._buffers[name].copy_(buffer)  # type: ignore[union-attr]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._num_summed >= self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._flush()

    def _flush(self) -> None:
        self._watched.clear()  # a network that grows has another last bias
        means = {f"train/{name}": float(total / count) for name, (total, count) in self._sums.items()}
        self._num_summed = 0
        self._sums.clear()
        if self.num_bad_steps > self._num_bad_logged:
            self._num_bad_logged = self.num_bad_steps
            means = self.train_means | {name: value for name, value in means.items() if math.isfinite(value)}
        if not all(map(math.isfinite, means.values())):
            raise DivergenceError(f"training diverged after {self.images_seen} images: {means}; try a smaller model.lr")
        self.train_means = means
        self.write_metrics(means | {"train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]})

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Hand metrics to every logger with `images_seen` on the x-axis."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.images_seen)

    # How it is watched ----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_losses("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_losses("test", batch)

    def _log_losses(self, stage: str, batch: Batch) -> None:
        losses = {f"{stage}/{name}": value for name, value in self.evaluation_losses(*batch).items()}
        self.log_dict(losses, on_epoch=True, sync_dist=True, batch_size=len(batch[0]), logger=False)

    def check_weights(self) -> None:
        """Raise DivergenceError if a trained weight is no finite number."""
        norms = torch.stack(torch._foreach_norm([parameter.detach() for parameter in self.parameters()]))
        if not norms.isfinite().all():
            raise DivergenceError(
                f"training diverged after {self.images_seen} images: weights are no numbers; try a smaller model.lr"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen
        checkpoint["losses"] = {"sums": self._sums, "num_summed": self._num_summed, "means": self.train_means}
        checkpoint["bad_steps"] = [self.num_bad_steps, self._num_bad_in_a_row, self._num_bad_logged]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = self._averaged_at = checkpoint["images_seen"]
        losses = checkpoint.get("losses", {})
        self._sums, self._num_summed = dict(losses.get("sums", {})), losses.get("num_summed", 0)
        self.train_means = losses.get("means", {})
        self.num_bad_steps, self._num_bad_in_a_row, self._num_bad_logged = checkpoint.get("bad_steps", [0, 0, 0])

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module's own takes microseconds to see that a number or a loss is no module: much for what a step sets.
        if name in self.__dict__ and type(value) in PLAIN:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)
