"""Adversarial losses: what the generator and the discriminator minimise, given logits (N,), positive for "real"."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class NonSaturating:
    """The original GAN with the generator loss that does not saturate (Goodfellow et al. 2014, sec. 3)."""

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """-E log D(G(z))."""
        return softplus(-fake_logits).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """-E log D(x) - E log(1 - D(G(z)))."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()
