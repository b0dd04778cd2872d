"""The contract that every model keeps: what is the loss of a batch and, for generators, how are images drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imagegen.objectives.latents import slerp
from imagegen.objectives.likelihoods import bits_per_dim

Batch = tuple[Tensor, Tensor]
OptimizerFactory = Callable[..., torch.optim.Optimizer]
LRSchedule = Callable[[float], float]


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
        self._loss = torch.zeros(())
        self.num_bad_steps = 0
        self._num_bad_in_a_row = 0
        self._num_bad_logged = 0

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named scalar terms for images (N, C, H, W) in [-1, 1] and labels (N,); the key `loss` is minimised."""
        raise NotImplementedError

    def evaluation_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The named terms reported on held-out images, by default those of `losses`."""
        return self.losses(images, labels)

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
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.trainer.world_size > 1:
            total = torch.stack(torch._foreach_norm(gradients)).sum()
        else:
            biases = [gradient for gradient in gradients if gradient.ndim <= 1] or gradients
            total = sum((gradient.sum() for gradient in (*biases[:1], *biases[-1:])), self._loss)
        self._loss = torch.zeros(())
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

    def update_average(self) -> None:
        """Move the averaged weights towards the trained ones: part of the step, so that no checkpoint falls between."""
        half_life = max(min(self.ema_half_life, self.images_seen * self.EMA_RAMP), 1e-6)
        decay = 0.5 ** ((self.images_seen - self._averaged_at) / half_life)
        self._averaged_at = self.images_seen
        # As AveragedModel.update_parameters, which searches all modules for parameters in each step.
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged_and_trained, 1 - decay)  # type: ignore[arg-type]
            for average, buffer in zip(self.ema.module.buffers(), self.network.buffers(), strict=True):
                average.copy_(buffer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._num_summed >= self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._flush()

    def _flush(self) -> None:
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = self._averaged_at = checkpoint["images_seen"]
        losses = checkpoint.get("losses", {})
        self._sums, self._num_summed = dict(losses.get("sums", {})), losses.get("num_summed", 0)
        self.train_means = losses.get("means", {})

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this string about 40 times a step; nn.Module's own __setattr__ takes microseconds each time.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class GenerativeModel(ImageModel):
    """A generator of images in [-1, 1]: a subclass writes `losses` and `draw`.

    One that makes an image of one normally distributed latent sets `latent_shape` and writes `decode` instead of
    `draw`; it can then interpolate. One that can say how probable given images are sets `likelihood_kind` ("exact" or
    "bound") and writes `log_likelihood`.
    """

    num_classes: int | None = None
    latent_shape: tuple[int, ...] | None = None
    likelihood_kind: str | None = None
    num_importance_samples = 1  # of a likelihood that is a bound
    num_levels: int | None = None  # of a pixel, where the model has a likelihood of them

    def setup(self, stage: str) -> None:
        """Raise MismatchError if the pixels have not as many levels as the likelihood."""
        found = self.trainer.datamodule.num_levels  # type: ignore[attr-defined]
        if self.num_levels not in (None, found):
            raise MismatchError(
                f"the likelihood of the model is one of {self.num_levels} levels, but the pixels of "
                f"{self.trainer.datamodule.name} have {found}; set num_levels to ${{data.num_levels}}"  # type: ignore[attr-defined]
            )

    def draw(self, seeds: range, labels: Tensor | None, *args: Any, **options: Any) -> Tensor:
        """Draw image i of the batch (N, C, H, W) in [-1, 1] from `seeds[i]` alone. `sample` is what others call."""
        if self.latent_shape is None:
            raise NotImplementedError(f"{type(self).__name__} writes neither draw nor decode")
        labels = self.sample_labels(seeds, labels)
        return self.decode(self.noise(seeds, self.latent_shape), labels, *args, **options)

    def decode(self, latents: Tensor, labels: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of standard normal latents (N, *latent_shape), by the averaged weights."""
        raise NotImplementedError(f"{type(self).__name__} has no latents")

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log likelihood, or its bound, of 8-bit images (N, C, H, W) in [-1, 1], in nats (N,): averaged weights."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood")

    def evaluation_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """On held-out images: the likelihood where there is one, in both units, else the terms of `losses`."""
        if self.likelihood_kind is None:
            return self.losses(images, labels)
        self.ema.eval()
        with torch.autocast(self.device.type, enabled=False):
            nll = -self.log_likelihood(images, labels).mean()
        return {"bits_per_dim": bits_per_dim(nll, self.image_shape), "nll": nll}

    @torch.no_grad()
    def sample(
        self, num_samples: int, labels: Tensor | None = None, seed: int = 0, batch_size: int = 500, **options: Any
    ) -> Tensor:
        """Draw `num_samples` images (N, C, H, W) in [-1, 1] from the averaged weights.

        Image i is the image of seed `seed + i`: it depends on neither the batch size nor the number of devices, so a
        large set may be drawn in shares. A class-conditional model that is given no `labels` (N,) gives image i the
        class `(seed + i) % num_classes`. `options` are those of the family (its `draw` or `decode`). The global random
        state is left alone.
        """

        def draw(start: int, stop: int) -> Tensor:
            given = None if labels is None else labels[start:stop].to(self.device)
            return self.draw(range(seed + start, seed + stop), given, **options)

        return self._in_batches(num_samples, batch_size, draw)

    @torch.no_grad()
    def interpolate(
        self,
        num_samples: int,
        num_steps: int = 8,
        num_waypoints: int = 2,
        is_loop: bool = False,
        labels: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 500,
        **options: Any,
    ) -> Tensor:
        """Paths of images (num_samples, length, C, H, W) through the latents of `num_waypoints` seeds each.

        Path i begins at the image of `seed + i` and goes on to those of `seed + i + num_samples` and so on, along
        great circles (`slerp`), with its class, if any, unchanged. Each leg has `num_steps` images, its ends included;
        a loop returns to its beginning and is `num_waypoints * (num_steps - 1)` images long.

        Raises:
            ValueError: fewer than two steps or waypoints, or a model without latents.

        """
        if self.latent_shape is None:
            raise ValueError(f"{type(self).__name__} has no latents to interpolate between")
        if num_steps < 2 or num_waypoints < 2:
            raise ValueError(f"a path needs 2 steps and waypoints, got {num_steps} and {num_waypoints}")
        starts = range(seed, seed + num_samples)
        ends = [
            self.noise(range(seed + i * num_samples, seed + (i + 1) * num_samples), self.latent_shape)
            for i in range(num_waypoints)
        ]
        ends = [*ends, ends[0]] if is_loop else ends
        shares = [i / (num_steps - 1) for i in range(num_steps - 1)]
        legs = [torch.stack([slerp(a, b, share) for share in shares], 1) for a, b in itertools.pairwise(ends)]
        path = torch.cat(legs if is_loop else [*legs, ends[-1][:, None]], 1)  # (num_samples, length, *latent_shape)
        length = path.shape[1]
        latents, classes = path.flatten(0, 1), self.sample_labels(starts, labels)
        if classes is not None:
            classes = classes.to(self.device).repeat_interleave(length)

        def decode(start: int, stop: int) -> Tensor:
            part = None if classes is None else classes[start:stop]
            return self.decode(latents[start:stop], part, **options)

        images = self._in_batches(len(latents), batch_size, decode)
        return images.view(num_samples, length, *self.image_shape)

    def _in_batches(self, num: int, batch_size: int, draw: Callable[[int, int], Tensor]) -> Tensor:
        self.ema.eval()
        with torch.autocast(self.device.type, enabled=False):  # bf16 would tie an image to its batch
            starts = range(0, num, batch_size)
            batches = [draw(start, min(start + batch_size, num)).clamp(-1, 1) for start in starts]
        return torch.cat(batches) if batches else torch.empty(0, *self.image_shape)

    def sampling_protocol(self) -> dict[str, Any]:
        """How `sample` draws by default, for the protocol that every score carries."""
        return {"sampler": "one pass", "num_function_evaluations": 1}

    def pictures(self, num_samples: int = 64, seed: int = 0) -> dict[str, Tensor]:
        """The images (N, C, H, W) in [-1, 1] that people should look at during training, by name."""
        return {"samples": self.sample(num_samples, seed=seed)}

    def noise(self, seeds: range, shape: Sequence[int], stream: int = 0) -> Tensor:
        """Standard normal noise (N, *shape), row i from a counter-based generator keyed by `seeds[i]` alone.

        Another `stream` is other noise of the same seeds, as for each step of a sampler.
        """
        rows = [_generator(seed, stream).standard_normal(tuple(shape), dtype=np.float32) for seed in seeds]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def uniforms(self, seeds: range, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1) (N, *shape), row i from a counter-based generator keyed by `seeds[i]` alone."""
        rows = [_generator(seed).random(tuple(shape), dtype=np.float32) for seed in seeds]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def sample_labels(self, seeds: range, labels: Tensor | None) -> Tensor | None:
        """The classes (N,) to draw: those given, else `seed % num_classes`; None for an unconditional model."""
        if self.num_classes is None:
            if labels is not None:
                raise ValueError("labels were given, but this model was trained without labels")
            return None
        if labels is None:
            return torch.tensor([seed % self.num_classes for seed in seeds], device=self.device)
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {labels.min()}..{labels.max()}")
        return labels


def _generator(seed: int, stream: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed + (stream << 64)))
