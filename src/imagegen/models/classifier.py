"""The image classifier whose features and class probabilities score the generators."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from imagegen.models.base import ImageModel


class Classifier(ImageModel):
    """Cross entropy on labels. `network` maps images (N, C, H, W) in [-1, 1] to logits (N, num_classes)."""

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy in nats."""
        return {"loss": F.cross_entropy(self.network(images).float(), labels)}

    def evaluation_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy and accuracy of the averaged weights."""
        logits = self.ema.module.eval()(images).float()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}
