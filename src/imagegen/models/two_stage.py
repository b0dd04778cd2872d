"""Two models trained one after the other in one run: an autoencoder, then a prior over its latents."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from imagegen.models.base import Batch, GenerativeModel

Share = Annotated[float, Field(gt=0, lt=1)]


class TwoStageModel(GenerativeModel):
    """For the first `autoencoder_share` of the budget `network` learns; then it stands still and `prior` learns.

    Each stage runs through the learning-rate schedule; the average of the prior's weights begins with its stage.
    A subclass sets both and asks `is_prior_stage`.
    """

    prior: GenerativeModel
    autoencoder_share: float

    @property
    def is_prior_stage(self) -> bool:
        """Whether the autoencoder is done and the prior learns."""
        return self.progress >= self.autoencoder_share

    @property
    def num_parameters(self) -> int:
        """Of the autoencoder and of the prior."""
        return super().num_parameters + self.prior.num_parameters

    @property
    def schedule_progress(self) -> float:
        """The used share of the present stage."""
        if self.is_prior_stage:
            return (self.progress - self.autoencoder_share) / (1 - self.autoencoder_share)
        return self.progress / self.autoencoder_share

    def configure_optimizers(self) -> Any:
        """One optimizer; each stage has its learning rate."""
        optimizer = self.build_optimizer(self.network, self.lr)
        parameters = [*self.prior.network.parameters()]
        optimizer.add_param_group({"params": parameters, "lr": self.prior.lr, "initial_lr": self.prior.lr})
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        self.prior.images_seen = self.images_seen
        return loss

    def update_average(self) -> None:
        """Move the averaged weights of the part that learns."""
        if self.is_prior_stage:
            self.prior.update_average()
        else:
            super().update_average()
            self.prior._averaged_at = self.images_seen

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) as the autoencoder keeps them."""
        raise NotImplementedError

    def pictures_of(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images beside their reconstructions."""
        restored = self.reconstruct(images[:32], labels[:32])
        return {"reconstructions": torch.stack([images[:32], restored], 1).flatten(0, 1)}

    def sampling_protocol(self) -> dict[str, Any]:
        """That of the prior."""
        return self.prior.sampling_protocol()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.prior.on_load_checkpoint(checkpoint)
