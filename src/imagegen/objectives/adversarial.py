"""Adversarial losses: what the generator and the discriminator minimise, given logits (N,), larger for "real".

Each is called with the logits of the generated images and of real ones of the same batch; only the relativistic loss
looks at the real ones in the generator's step, and says so by `pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class NonSaturating:
    """The original GAN with the generator loss that does not saturate (Goodfellow et al. 2014, sec. 3)."""

    pairs: ClassVar[bool] = False
    needs_lipschitz: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """-E log D(G(z))."""
        return softplus(-fake_logits).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """-E log D(x) - E log(1 - D(G(z)))."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()


@dataclass(frozen=True)
class LeastSquares:
    """Mao et al. 2017 (arXiv:1611.04076), eq. 9: targets 1 for real and 0 for fake."""

    pairs: ClassVar[bool] = False
    needs_lipschitz: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """E (D(G(z)) - 1)^2 / 2."""
        return 0.5 * (fake_logits - 1).square().mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2."""
        return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())


@dataclass(frozen=True)
class Hinge:
    """Lim & Ye 2017 (arXiv:1705.02894), as in SNGAN, SAGAN and BigGAN."""

    pairs: ClassVar[bool] = False
    needs_lipschitz: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """-E D(G(z))."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))."""
        return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


@dataclass(frozen=True)
class Wasserstein:
    """Arjovsky et al. 2017 (arXiv:1701.07875), eq. 2: the discriminator must be kept Lipschitz by other means.

    `drift` keeps its logits from wandering off (Karras et al. 2018, app. A.1, with 0.001).
    """

    pairs: ClassVar[bool] = False
    needs_lipschitz: ClassVar[bool] = True

    drift: float = 0.0

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """-E D(G(z))."""
        return -fake_logits.mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E D(G(z)) - E D(x): the negative of the estimated distance. And drift E D(x)^2."""
        return fake_logits.mean() - real_logits.mean() + self.drift * real_logits.square().mean()


@dataclass(frozen=True)
class Relativistic:
    """Relativistic pairing (Jolicoeur-Martineau 2018; Huang et al. 2024, arXiv:2501.05441, eq. 2).

    Each fake is compared with a real image, so that no part of the data can be left behind for good.
    """

    pairs: ClassVar[bool] = True
    needs_lipschitz: ClassVar[bool] = False

    def generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """E softplus(D(x) - D(G(z)))."""
        assert real_logits is not None, "a pairing loss needs the logits of real images"
        return softplus(real_logits - fake_logits).mean()

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E softplus(D(G(z)) - D(x))."""
        return softplus(fake_logits - real_logits).mean()
