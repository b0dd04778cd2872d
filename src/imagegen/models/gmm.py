"""A Gaussian mixture trained by expectation and maximisation: the baseline that every network must beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from imagegen.models.base import Batch, GenerativeModel, LRSchedule, OptimizerFactory
from imagegen.objectives.likelihoods import NUM_LEVELS, bits_per_dim


class GMM(GenerativeModel):
    """Stepwise EM (Cappe & Moulines 2009, arXiv:0712.4273): an E step on each batch, then an M step.

    `network` is a `networks.gaussian_mixture.GaussianMixture`. The averages move by t^-`forgetting` in step t; the
    optimizer, plain SGD with the rate 1, is handed the difference from the parameters that fit them best, and so takes
    the M step. Pixels are levels plus uniform noise (dequantisation), so the density bounds their likelihood. A sample
    is the expected image of principal components drawn from the mixture.
    """

    likelihood_kind = "bound, uniform dequantisation"
    num_levels = NUM_LEVELS

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        forgetting: PositiveFloat,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        if not 0.5 < forgetting <= 1:
            raise ValueError(f"forgetting must lie in (0.5, 1] for EM to converge, got {forgetting}")
        self.forgetting = forgetting
        self.latent_shape = (1 + int(network.num_features),)  # type: ignore[arg-type]
        self.automatic_optimization = False

    def on_train_start(self) -> None:
        """Look at all training images once, unless the run goes on from a checkpoint."""
        if self.images_seen == 0:
            images = self.trainer.datamodule.splits["train"][0].to(self.device)  # type: ignore[attr-defined]
            generator = torch.Generator().manual_seed(0)
            self.network.begin(images.float() / 127.5 - 1, generator)  # type: ignore[operator]
            self.ema.module.load_state_dict(self.network.state_dict())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """An E step on the batch and an M step."""
        images = batch[0]
        optimizer = self.optimizers()
        size = len(images) * self.trainer.world_size
        step = (self.images_seen // size + 2) ** -self.forgetting
        with torch.autocast(self.device.type, enabled=False), torch.no_grad():
            noisy = self._dequantized(images)
            self.record({"loss": self._bits(noisy)})
            self.network.expect(noisy, step)  # type: ignore[operator]
            if self.trainer.world_size > 1:  # each process has seen its own images
                for average in (self.network.counts, self.network.firsts, self.network.seconds):
                    average.copy_(self.all_gather(average).mean(0))  # type: ignore[operator, union-attr, arg-type]
            best = self.network.maximize(size / step)  # type: ignore[operator]
            parameters = (self.network.log_weights, self.network.means, self.network.covariances)
            for parameter, value in zip(parameters, best, strict=True):
                parameter.grad = parameter - value
        optimizer.step()  # type: ignore[union-attr]
        self.images_seen += size
        self.update_average()

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Bits per dimension of the dequantised images."""
        return {"loss": self._bits(self._dequantized(images))}

    def _bits(self, noisy: Tensor) -> Tensor:
        nll = -self.network.log_prob(noisy).mean() - self._log_bin  # type: ignore[operator]
        return bits_per_dim(nll, self.image_shape)

    @property
    def _log_bin(self) -> float:
        """Log of the volume that one 8-bit image takes among all in [-1, 1]."""
        return math.prod(self.image_shape) * math.log(2 / (NUM_LEVELS - 1))

    def _dequantized(self, images: Tensor) -> Tensor:
        return images + (torch.rand_like(images) - 0.5) * (2 / (NUM_LEVELS - 1))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """A lower bound in nats (N,): the log density of the image plus noise, per bin; averaged weights."""
        log_prob: Tensor = self.ema.module.log_prob(self._dequantized(images)) + self._log_bin  # type: ignore[operator]
        return log_prob

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) of latents (N, 1 + num_features): one chooses the component, the others the place."""
        images: Tensor = self.ema.module.decode(latents)  # type: ignore[operator]
        return images

    def sampling_protocol(self) -> dict[str, Any]:
        """No network is evaluated."""
        return {"sampler": "mixture", "num_function_evaluations": 1}
