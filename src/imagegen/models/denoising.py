"""What a model that can tell images from noise does with given images, without being trained for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imagegen.models.base import GenerativeModel
from imagegen.objectives.denoisers import NetworkDenoiser, Sampler
from imagegen.objectives.likelihoods import NUM_LEVELS
from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.observations import Blurred, Conditioned, Known, Observation, Shrunk
from imagegen.objectives.ode_likelihoods import log_density
from imagegen.objectives.samplers import Denoiser, heun


def trajectory(
    sample: Callable[..., Tensor],
    frame: Callable[[Tensor, Tensor, Tensor], Tensor],
    own_sampler: Sampler,
    own_num_steps: int,
    num_frames: int,
    sampler: Sampler | None = None,
    num_steps: int | None = None,
    **options: Any,
) -> Tensor:
    """What `frame` makes of x_t, t and the images denoised, on the way of `sample`: (N, num_frames, C, H, W).

    Steps and sampler are the model's own where none are given, but there are no fewer steps than it takes, and a
    sampler whose times differ between images gives way to Heun's method.
    """
    if num_frames < 2:
        raise ValueError(f"a film needs 2 frames, got {num_frames}")
    seen: dict[float, Tensor] = {}

    def watch(x: Tensor, t: Tensor, denoised: Tensor) -> None:
        seen[float(t)] = frame(x, t, denoised)  # of two at the same time the corrected one

    chosen: Any = sampler or own_sampler
    chosen = heun if hasattr(getattr(chosen, "func", chosen), "is_adaptive") else chosen
    num_steps = max(own_num_steps, num_frames - 1) if num_steps is None else num_steps
    images = sample(watch=watch, sampler=chosen, num_steps=num_steps, **options)
    frames = [*seen.values(), images]
    return torch.stack([frames[i] for i in torch.linspace(0, len(seen), num_frames).round().int().tolist()], 1)


class Likelihood(NamedTuple):
    """Log likelihoods of N images in nats (N,), and two errors of their mean.

    `probe_error` is the standard error by the random signs of the divergence, `step_error` the change of the mean when
    only every second step is taken.
    """

    nats: Tensor
    probe_error: float
    step_error: float


class DenoisingModel(GenerativeModel):
    """A subclass has a noise schedule, a time grid and a sampler, and writes `denoiser` and `solve`."""

    OBSERVATION_NOISE = 0.02  # deviation that is granted to what is observed, on pixels in [-1, 1]
    MIN_RESTORATION_STEPS = 20
    FIRST_LEVEL = 1e-3  # of noise in the likelihood: what is nearer to the data is finer than an 8-bit level
    STEP_POWER = 5  # of its times, which shorten towards the data

    noise_schedule: NoiseSchedule
    time_grid: Callable[[int], Tensor]
    sampler: Sampler
    num_steps: int

    def denoiser(self, labels: Tensor | None, *args: Any, **options: Any) -> NetworkDenoiser:
        """What the averaged weights expect the images in x_t to be."""
        raise NotImplementedError

    def solve(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, seeds: range | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """Bring x (N, C, H, W) from the first of `times` to the last."""
        raise NotImplementedError

    def _times(self, num_steps: int | None = None) -> Tensor:
        """The time grid of so many steps, by default the model's. Raises ValueError for fewer than one."""
        raise NotImplementedError

    # Images of which something is known -----------------------------------------------------------------------------

    def restore(
        self,
        observed: Tensor,
        observation: Observation,
        labels: Tensor | None = None,
        seed: int = 0,
        noise: float = OBSERVATION_NOISE,
        num_steps: int | None = None,
        sampler: Sampler | None = None,
        **options: Any,
    ) -> Tensor:
        """Images (N, C, H, W) of which `observed` is what `observation` says, but for `noise`; image i by `seed + i`.

        `options` are those of guidance. Steps are those of the model, but at least 20, if none are given.
        """
        seeds = range(seed, seed + len(observed))
        num_steps = max(self.num_steps, self.MIN_RESTORATION_STEPS) if num_steps is None else num_steps
        times = self._times(num_steps).to(observed)

        def draw() -> Tensor:
            denoiser = self.denoiser(self._classes(seeds, labels), **options)
            given = Conditioned(denoiser, observation, observed, noise, self.noise_schedule)
            x = self.noise_schedule.sigma(times[0]) * self.noise(seeds, self.image_shape)
            return self.solve(given, x, times, seeds, sampler)

        return self._in_one_batch(draw).clamp(-1, 1)

    def complete(
        self, images: Tensor, known: Tensor, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) with their pixels kept where the boolean `known` (N, 1, H, W) is set, the others drawn.

        Raises ValueError if `known` is of another size.
        """
        if known.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(f"known: the shape {tuple(known.shape)} does not fit images of {tuple(images.shape)}")
        observation = Known(known)
        drawn = self.restore(observation(images), observation, labels, seed, **options)
        return torch.where(known, images, drawn)

    def enlarge(
        self, images: Tensor, factor: int, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) whose squares of `factor` x `factor` pixels have the means (N, C, H / factor, ...)."""
        height, width = self.image_shape[1:]
        if factor < 1 or images.shape[2] * factor != height or images.shape[3] * factor != width:
            raise ValueError(f"factor: {factor} times {tuple(images.shape[2:])} pixels are not {height}x{width}")
        return self.restore(images, Shrunk(factor), labels, seed, **options)

    def deblur(self, images: Tensor, std: float, labels: Tensor | None = None, seed: int = 0, **options: Any) -> Tensor:
        """Images (N, C, H, W) that give the given ones if they are blurred by a Gaussian of `std` pixels."""
        return self.restore(images, Blurred(std), labels, seed, **options)

    # Images on their way --------------------------------------------------------------------------------------------

    def denoise(
        self, images: Tensor, labels: Tensor | None = None, noise: float = 0.5, seed: int = 0, **options: Any
    ) -> Tensor:
        """Images (N, C, H, W) without the Gaussian noise of deviation `noise` that is in the given ones.

        They are x_t / alpha_t for the t at which that is the noise level: the sampler, which `options` may change with
        its steps and guidance, goes on from there. Raises ValueError if the noise is not above 0.
        """
        if noise <= 0:
            raise ValueError(f"noise must be above 0, got {noise}")
        t = self.noise_schedule.time(torch.tensor(noise, dtype=torch.float64)).clamp(max=1.0).to(images)
        return self.drawn_from(self.noise_schedule.alpha(t) * images, t, labels, seed, **options).clamp(-1, 1)

    def vary(
        self, images: Tensor, strength: float, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """Other images (N, C, H, W) like the given ones: noise is added up to the time `strength`, and taken away.

        SDEdit (Meng et al. 2021, arXiv:2108.01073). Options as of `denoise`. Raises ValueError if the strength is not
        in (0, 1].
        """
        return self.drawn_near(images, strength, labels, seed, **options).clamp(-1, 1)

    def drawn_near(
        self, x: Tensor, strength: float, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """As `vary`, of any x (N, C, H, W), whose values may lie beyond -1 and 1."""
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength}")
        t = torch.tensor(strength).to(x)
        noise = self.noise(range(seed, seed + len(x)), self.image_shape)
        return self.drawn_from(self.noise_schedule.x_t(x, noise, t), t, labels, seed, **options)

    def drawn_from(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        seed: int,
        num_steps: int | None = None,
        sampler: Sampler | None = None,
        **options: Any,
    ) -> Tensor:
        """What the sampler makes of x_t (N, C, H, W) from the time t on."""
        seeds, times = range(seed, seed + len(x_t)), t * self._times(num_steps).to(x_t)
        denoiser = self.denoiser(self._classes(seeds, labels), **options)
        return self._in_one_batch(lambda: self.solve(denoiser, x_t, times, seeds, sampler))

    def trajectory(
        self, num_samples: int, num_frames: int = 8, labels: Tensor | None = None, seed: int = 0, **options: Any
    ) -> Tensor:
        """How noise becomes images: (num_samples, num_frames, C, H, W), the last frame being the images.

        The others are x_t at about equal numbers of evaluations, of which there are as many as frames if the model's
        own are fewer. A sampler whose times differ between images gives way to Heun's method. `options` are those of
        `decode`.
        """
        sample = partial(self.sample, num_samples, labels, seed, batch_size=num_samples)
        return trajectory(sample, self._frame, self.sampler, self.num_steps, num_frames, **options)

    def _frame(self, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        size = self.noise_schedule.x_t(torch.ones_like(t), torch.ones_like(t), t).clamp(min=1)
        return (x / size).clamp(-1, 1)

    def pictures(self, num_samples: int = 64, seed: int = 0) -> dict[str, Tensor]:
        """Samples, and eight of them on their way out of noise."""
        return super().pictures(num_samples, seed) | {"trajectory": self.trajectory(8, 8, seed=seed).flatten(0, 1)}

    # How probable images are ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def estimate_likelihood(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        num_levels: int = NUM_LEVELS,
        num_steps: int = 60,
        num_probes: int = 2,
        seed: int = 0,
        batch_size: int = 100,
    ) -> Likelihood:
        """Log likelihood of images (N, C, H, W) of so many levels, by the differential equation, and its errors.

        Each level is spread evenly over its bin by the noise of `seed + i`, whatever the batch. Steps shorten towards
        the data. Raises ValueError for fewer than four steps, two probes, or a batch of none.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_steps < 4 or num_probes < 2:
            raise ValueError(f"a likelihood needs 4 steps and 2 probes, got {num_steps} and {num_probes}")
        first = self.noise_schedule.time(torch.tensor(self.FIRST_LEVEL, dtype=torch.float64)) ** (1 / self.STEP_POWER)
        times = torch.linspace(float(first), 1, num_steps + 1, dtype=torch.float64).pow(self.STEP_POWER).to(images)
        self.ema.eval()
        parts = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            classes = None if labels is None else labels[part]
            parts.append(self._log_densities(images[part], classes, num_levels, times, num_probes, seed + start))
        nats, coarse = torch.cat(parts, 1).split([num_probes, 1])  # type: ignore[no-untyped-call]
        probe_error = float(nats.std(0).square().mean().div(len(images) * num_probes).sqrt())
        bins = math.prod(self.image_shape) * math.log(2 / (num_levels - 1))
        return Likelihood(nats.mean(0) + bins, probe_error, abs(float((nats[0] - coarse).mean())))

    def _log_densities(
        self, images: Tensor, labels: Tensor | None, num_levels: int, times: Tensor, num_probes: int, seed: int
    ) -> Tensor:
        """Of images spread over the bins of their levels (num_probes + 1, N): the last by every second of the times."""
        seeds = range(seed, seed + len(images))
        images = images + (self.uniforms(seeds, self.image_shape).to(images) - 0.5) * 2 / (num_levels - 1)
        classes = self._classes(seeds, labels)

        def estimate(probe: int, times: Tensor) -> Tensor:
            signs = self.noise(seeds, self.image_shape, stream=1 + probe).sign().to(images)
            with torch.autocast(images.device.type, enabled=False):
                return log_density(self.denoiser(classes, 1.0), images, times, self.noise_schedule, signs)

        every_second = torch.cat([times[:-1:2], times[-1:]])
        return torch.stack([*(estimate(probe, times) for probe in range(num_probes)), estimate(0, every_second)])

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """An estimate of the log likelihood of 8-bit images in nats (N,): that of `estimate_likelihood`."""
        return self.estimate_likelihood(images, labels).nats

    def _classes(self, seeds: range, labels: Tensor | None) -> Tensor | None:
        """The labels a conditional model needs; an unconditional one ignores those of its images."""
        given = None if labels is None else labels.to(self.device)
        return None if self.num_classes is None else self.sample_labels(seeds, given)

    @torch.no_grad()
    def _in_one_batch(self, draw: Callable[[], Tensor]) -> Tensor:
        self.ema.eval()
        with torch.autocast(self.device.type, enabled=False):
            return draw()
