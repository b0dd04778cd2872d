"""An autoencoder whose latents are codes: van den Oord et al. 2017 (arXiv:1711.00937)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.networks.autoencoder import Parameters, PixelHead, Trunk
from imagegen.networks.convolutional import sizes


class Quantized(NamedTuple):
    """Vectors (N, D, h, w) replaced by the nearest of the codebook, through which gradients pass unchanged.

    `codes` int64 (N, h, w); `commitment` is the mean squared distance of the vectors from their codes (scalar).
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class VectorQuantizer(nn.Module):
    """A codebook that follows the vectors by moving averages (van den Oord et al. 2017, app. A.1).

    A code used less than `DEAD` times a batch on average is moved to a vector of the batch.
    """

    DECAY = 0.99
    DEAD = 0.1

    def __init__(self, num_codes: PositiveInt, dim: PositiveInt) -> None:
        super().__init__()
        self.codebook: Tensor
        self.counts: Tensor
        self.sums: Tensor
        codebook = torch.randn(num_codes, dim)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", codebook.clone())

    def forward(self, x: Tensor) -> Quantized:
        flat = x.float().permute(0, 2, 3, 1).flatten(0, 2)  # (N h w, D)
        codes = self.nearest(flat.detach())
        if self.training:
            self._follow(flat.detach(), codes)
        vectors = self.codebook[codes]
        commitment = F.mse_loss(flat, vectors)
        passed = flat + (vectors - flat).detach()
        shape = len(x), *x.shape[2:]
        return Quantized(passed.view(*shape, -1).permute(0, 3, 1, 2), codes.view(shape), commitment)

    def nearest(self, flat: Tensor) -> Tensor:
        """The nearest codes (M,) of float32 vectors (M, D)."""
        with torch.autocast(flat.device.type, enabled=False):  # bf16 distances have the wrong minimum
            # without the vectors' own squares, which are the same for all codes
            return torch.addmm(self.codebook.square().sum(1)[None], flat, self.codebook.T, alpha=-2).argmin(1)

    def look_up(self, codes: Tensor) -> Tensor:
        """The vectors (N, D, h, w) of codes (N, h, w)."""
        return self.codebook[codes].permute(0, 3, 1, 2)

    @torch.no_grad()
    def _follow(self, flat: Tensor, codes: Tensor) -> None:
        used = torch.bincount(codes, minlength=len(self.codebook)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, flat)
        self.counts.lerp_(used, 1 - self.DECAY)
        self.sums.lerp_(sums, 1 - self.DECAY)
        dead = self.counts < self.DEAD
        chosen = flat[torch.randint(len(flat), (len(self.codebook),), device=flat.device)]
        self.sums.copy_(torch.where(dead[:, None], chosen, self.sums))
        self.counts.masked_fill_(dead, 1.0)
        self.codebook.copy_(self.sums / self.counts[:, None])


class VectorQuantizedAutoencoder(nn.Module):
    """Residual convolutions to a quarter of the picture's size, codes there, and residual convolutions back."""

    def __init__(
        self,
        image_shape: Sequence[int],
        num_codes: PositiveInt = 64,
        code_dim: PositiveInt = 16,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 1,
        num_mixtures: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        num_levels = min(len(sizes(image_shape)) - 1, 2)  # half and a quarter of the size
        self.encoder = Trunk(4 * image_shape[0], width, num_blocks, num_levels, is_down=True)
        self.project = nn.Conv2d(width, code_dim, 1)
        self.quantizer = VectorQuantizer(num_codes, code_dim)
        self.decoder = Trunk(code_dim, width, num_blocks, num_levels, is_down=False)
        self.head = PixelHead(width, image_shape[0], num_mixtures)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Parameters, Quantized]:
        """Parameters of the distribution of pixels, and the codes of images (N, C, H, W)."""
        quantized: Quantized = self.quantizer(self.project(self.encoder(F.pixel_unshuffle(images, 2))))
        return self.head(self.decoder(quantized.vectors)), quantized

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, h, w) of images (N, C, H, W)."""
        x = self.project(self.encoder(F.pixel_unshuffle(images, 2))).float()
        codes = self.quantizer.nearest(x.permute(0, 2, 3, 1).flatten(0, 2))
        return codes.view(len(x), *x.shape[2:])

    def decode(self, codes: Tensor) -> Parameters:
        """Parameters of the distribution of pixels given codes (N, h, w)."""
        parameters: Parameters = self.head(self.decoder(self.quantizer.look_up(codes)))
        return parameters
