"""The image classifier whose features and class probabilities score the generators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.models.image_model import ImageModel, LRSchedule, OptimizerFactory


class Classifier(ImageModel):
    """Cross entropy on labels. `network` maps images (N, C, H, W) in [-1, 1] to logits (N, num_classes).

    Training images are moved by up to `max_shift` pixels and, with `flip`, mirrored at random: for photographs, not for
    digits.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        max_shift: NonNegativeInt,
        flip: bool,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.max_shift = max_shift
        self.flip = flip

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy in nats."""
        return {"loss": F.cross_entropy(self.network(self.augment(images)).float(), labels)}

    def augment(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), each shifted and mirrored on its own; what enters at the border is mirrored too."""
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        if self.max_shift:
            height, width = images.shape[2:]
            padded = F.pad(images, (self.max_shift,) * 4, mode="reflect")
            top, left = torch.randint(2 * self.max_shift + 1, (2, len(images), 1), device=images.device)
            rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
            at = torch.arange(len(images), device=images.device)[:, None, None]
            shifted = padded.permute(0, 2, 3, 1)[at, (top + rows)[:, :, None], (left + columns)[:, None, :]]
            images = shifted.permute(0, 3, 1, 2)
        return images

    def evaluation_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy and accuracy of the averaged weights."""
        logits = self.ema.module.eval()(images).float()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}
