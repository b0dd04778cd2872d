"""The contract that every generator keeps: the loss of a batch, and how images are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagegen.models.image_model import Batch, ImageModel, LRSchedule, MismatchError, OptimizerFactory
from imagegen.objectives.latents import slerp
from imagegen.objectives.likelihoods import bits_per_dim

__all__ = ["Batch", "GenerativeModel", "LRSchedule", "OptimizerFactory"]  # what the file of a model needs


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
        num_images: int = 8,
        num_waypoints: int = 2,
        is_loop: bool = False,
        labels: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 500,
        **options: Any,
    ) -> Tensor:
        """Paths of images (num_samples, length, C, H, W) through the latents of `num_waypoints` seeds each.

        Path i begins at the image of `seed + i` and goes on to those of `seed + i + num_samples` and so on, along
        great circles (`slerp`), with its class, if any, unchanged. Each leg has `num_images` images, its ends included;
        a loop returns to its beginning and is `num_waypoints * (num_images - 1)` images long.

        Raises:
            ValueError: fewer than two images or waypoints, or a model without latents.

        """
        if self.latent_shape is None:
            raise ValueError(f"{type(self).__name__} has no latents to interpolate between")
        if num_images < 2 or num_waypoints < 2:
            raise ValueError(f"a path needs 2 images and waypoints, got {num_images} and {num_waypoints}")
        starts = range(seed, seed + num_samples)
        ends = [
            self.noise(range(seed + i * num_samples, seed + (i + 1) * num_samples), self.latent_shape)
            for i in range(num_waypoints)
        ]
        ends = [*ends, ends[0]] if is_loop else ends
        shares = [i / (num_images - 1) for i in range(num_images - 1)]
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

    def pictures_of(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What is to be looked at of given images (N, C, H, W) in [-1, 1] with labels (N,), in rows of eight."""
        return {}

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
