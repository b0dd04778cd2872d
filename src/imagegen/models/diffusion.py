"""Diffusion models: a network learns to tell images from the noise that was added to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from imagegen.models.base import LRSchedule, OptimizerFactory
from imagegen.models.denoising import DenoisingModel
from imagegen.objectives.denoisers import NetworkDenoiser, Sampler, Watcher, num_evaluations
from imagegen.objectives.expert_balance import balance_loss, usage
from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.parameterizations import Parameterization
from imagegen.objectives.samplers import Denoiser
from imagegen.objectives.variances import variance_loss

Time = Annotated[float, Field(ge=0, le=1)]
TimeDistribution = Callable[[int, torch.device], Tensor]
Weighting = Callable[[Tensor, Tensor], Tensor]
Coupling = Callable[[Tensor, Tensor, Tensor | None], Tensor]
TimeGrid = Callable[[int], Tensor]


class Diffusion(DenoisingModel):
    """DDPM, EDM, flow matching and their kin: parts of `objectives` around one network, with optional class labels.

    - `noise_schedule` and `coupling` make noisy images, `time_distribution` and `weighting` say which count;
    - `parameterization` says what the network is asked for;
    - `sampler` on the `time_grid` of `num_steps` draws images. Labels are dropped with probability `label_dropout`,
      so that one network knows both with and without them: `guidance_scale` above 1 extrapolates from the latter.
    - `bounds_images` clamps what is denoised to [-1, 1] while sampling.
    - `consistency`, where given, says at which share of its time an image's target is taken, as a function of progress
      (`objectives.consistency`): 0 is the image itself.
    - `balance_weight` above 0, for networks with experts, makes these be used evenly.
    - `variance_weight` above 0 trains a second output of the network to say the variance of a step, one of
      `VARIANCE_STEPS` (Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.1).
    """

    VARIANCE_STEPS = 1000
    is_shardable = True

    def __init__(
        self,
        network: nn.Module,
        image_shape: Sequence[int],
        num_classes: PositiveInt | None,
        noise_schedule: NoiseSchedule,
        parameterization: Parameterization,
        time_distribution: TimeDistribution,
        weighting: Weighting,
        coupling: Coupling,
        sampler: Sampler,
        time_grid: TimeGrid,
        num_steps: PositiveInt,
        guidance_scale: NonNegativeFloat,
        guidance_interval: tuple[Time, Time],
        label_dropout: NonNegativeFloat,
        bounds_images: bool,
        variance_weight: NonNegativeFloat,
        balance_weight: NonNegativeFloat,
        consistency: Callable[[float], float] | None,
        lr: PositiveFloat,
        optimizer: OptimizerFactory,
        lr_schedule: LRSchedule,
        ema_half_life: PositiveFloat,
    ) -> None:
        super().__init__(network, image_shape, lr, optimizer, lr_schedule, ema_half_life)
        self.num_classes = num_classes
        self.latent_shape = self.image_shape
        self.noise_schedule = noise_schedule
        self.parameterization = parameterization
        self.time_distribution = time_distribution
        self.weighting = weighting
        self.coupling = coupling
        self.sampler = sampler
        self.time_grid = time_grid
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.guidance_interval = tuple(guidance_interval)
        self.label_dropout = label_dropout
        self.bounds_images = bounds_images
        self.variance_weight = variance_weight
        self.balance_weight = balance_weight
        self.consistency = consistency
        self._check_guidance(guidance_scale)
        if variance_weight > 0 and getattr(network, "num_outputs", 1) != 2:
            raise ValueError("variance_weight needs a network of two outputs: model.network.num_outputs=2")
        if variance_weight > 0 and consistency is not None:
            raise ValueError("variance_weight is for steps of an ancestral sampler, which consistency does without")
        if balance_weight > 0 and not hasattr(network, "routings"):
            raise ValueError("balance_weight needs a network with experts, as that of model=dit_moe")

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted mean squared error of the network's output per value."""
        noise = torch.randn_like(images)
        t = self.time_distribution(len(images), images.device)[:, None, None, None]
        noise = self.coupling(images, noise, None if self.num_classes is None else labels)
        x_t = self.noise_schedule.x_t(images, noise, t)
        known = self._dropped(labels)
        output = self._output(self.network, x_t, t, known)
        terms: dict[str, Tensor] = {}
        if self.variance_weight > 0:
            output, share = output.chunk(2, dim=1)
            denoised = self.parameterization.denoised(output.detach(), x_t, t, self.noise_schedule)
            terms["variance_loss"] = variance_loss(images, denoised, share, t, self.noise_schedule, self.VARIANCE_STEPS)
        if self.balance_weight > 0:
            terms |= self._balance()
        target, weight = self._target(images, noise, x_t, t, known)
        error = (weight * (output - target).square()).mean()
        if not terms:
            return {"loss": error}
        weights = {"variance_loss": self.variance_weight, "balance_loss": self.balance_weight}
        loss = error + sum(weight * terms[name] for name, weight in weights.items() if name in terms)
        return {"loss": loss, "error": error, **terms}

    def _target(
        self, images: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output that is asked for at x_t, and the weight of its error."""
        schedule, kind = self.noise_schedule, self.parameterization
        skip, scale = kind.coefficients(t, schedule)
        weight = self.weighting(schedule.log_snr(t).exp(), scale)
        ratio = 0.0 if self.consistency is None else self.consistency(self.progress)
        if ratio == 0:
            return kind.target(images, noise, t, schedule), weight
        earlier = ratio * t
        x_earlier = schedule.x_t(images, noise, earlier)
        with torch.no_grad():  # after the pass with gradients: autocast keeps the weights of the first
            output = self._output(self.network, x_earlier, earlier, labels)
        denoised = kind.denoised(output, x_earlier, earlier, schedule)
        return (denoised - skip * x_t) / scale, weight / (1 - ratio)

    def _balance(self) -> dict[str, Tensor]:
        """The balance loss and the share of each expert, means over the layers."""
        routings: list[tuple[Tensor, Tensor]] = self.network.routings()  # type: ignore[operator]
        losses = torch.stack([balance_loss(*routing) for routing in routings])
        shares = torch.stack([usage(chosen, probabilities.shape[1]) for probabilities, chosen in routings]).mean(0)
        return {"balance_loss": losses.mean()} | {f"expert_{i}": share for i, share in enumerate(shares)}

    def _output(self, network: nn.Module, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        pictures, times = self.parameterization.network_input(x_t, t, self.noise_schedule)
        output: Tensor = network(pictures, times.flatten(), labels).float()
        return output

    def _dropped(self, labels: Tensor) -> Tensor | None:
        if self.num_classes is None:
            return None
        dropped = torch.rand(len(labels), device=labels.device) < self.label_dropout
        return labels.masked_fill(dropped, self.num_classes)

    @torch.no_grad()
    def expert_usage(self, images: Tensor, t: float, labels: Tensor | None = None, seed: int = 0) -> Tensor:
        """The share of each of E experts in what an image's tokens choose at time t: (layers, N, E), averaged weights.

        Raises ValueError for a network without experts.
        """
        network = self.ema.module.eval()
        noise, time = (
            self.noise(range(seed, seed + len(images)), self.image_shape),
            torch.full((1, 1, 1, 1), t).to(images),
        )
        x_t = self.noise_schedule.x_t(images, noise, time)
        self._output(network, x_t, time.expand(len(x_t), 1, 1, 1), None if self.num_classes is None else labels)
        routings: list[tuple[Tensor, Tensor]] = network.routings() if hasattr(network, "routings") else []  # type: ignore[operator]
        if not routings:
            raise ValueError("task: the network has no experts")
        shares = []
        for probabilities, chosen in routings:
            counts = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
            shares.append(counts.view(len(images), -1, counts.shape[1]).mean(1) / chosen.shape[1])
        return torch.stack(shares)

    # How it draws ---------------------------------------------------------------------------------------------------

    def draw(self, seeds: range, labels: Tensor | None, *args: Any, **options: Any) -> Tensor:
        """Images (N, C, H, W), image i by the noise of `seeds[i]`, also that of single steps. Options of `decode`."""
        labels = self.sample_labels(seeds, labels)
        return self.decode(self.noise(seeds, self.image_shape), labels, *args, **options | {"seeds": seeds})

    def decode(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sampler: Sampler | None = None,
        seeds: range | None = None,
        watch: Watcher | None = None,
    ) -> Tensor:
        """Images (N, C, H, W) of noise (N, C, H, W): what is not given is as the model has it.

        Samplers that draw noise in their steps draw that of `seeds`, else one for all images. `watch` is handed each
        x_t, t and the images denoised. Raises ValueError for fewer than one step, or guidance without classes.
        """
        times = self._times(num_steps).to(latents)
        denoiser = self.denoiser(labels, guidance_scale, guidance_interval, watch)
        x = self.noise_schedule.sigma(times[0]) * latents
        return self.solve(denoiser, x, times, seeds, sampler)

    def solve(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, seeds: range | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """Bring x (N, C, H, W) from the first of `times` to the last, by the model's own sampler or another."""
        return (sampler or self.sampler)(denoiser, x, times, self.noise_schedule, self.step_noise(seeds, x))

    def _times(self, num_steps: int | None = None) -> Tensor:
        num_steps = self.num_steps if num_steps is None else num_steps
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        return self.time_grid(num_steps)

    def step_noise(self, seeds: range | None, like: Tensor) -> Callable[[int], Tensor]:
        """The noise of a step: for image i that of `seeds[i]`; without seeds the same for all images."""
        shape = like.shape[1:]
        if seeds is None:
            return lambda step: self.noise(range(1), shape, stream=1 + step).to(like).expand_as(like)
        return lambda step: self.noise(seeds, shape, stream=1 + step).to(like)

    def denoiser(
        self,
        labels: Tensor | None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        watch: Watcher | None = None,
    ) -> NetworkDenoiser:
        """What the averaged weights expect the images in x_t to be."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        self._check_guidance(scale)
        interval: Any = self.guidance_interval if guidance_interval is None else guidance_interval
        no_label = None if labels is None else torch.full_like(labels, self.num_classes or 0)
        network, schedule = self.ema.module, self.noise_schedule
        return NetworkDenoiser(
            network, schedule, self.parameterization, labels, no_label, scale, interval, self.bounds_images, watch
        )

    def _check_guidance(self, scale: float) -> None:
        if scale != 1.0 and self.num_classes is None:
            raise ValueError(f"guidance_scale is {scale:g}, but this model is trained without labels: it must be 1")

    def sampling_protocol(self) -> dict[str, Any]:
        """The sampler, its function evaluations for each image (a mean, if it chooses its steps), the guidance."""
        function: Any = getattr(self.sampler, "func", self.sampler)  # a partial function, or the function itself
        is_adaptive = hasattr(function, "is_adaptive")
        low, high = self.guidance_interval
        times = self._times()

        def cost(t: float) -> int:
            return 2 if self.guidance_scale != 1.0 and low <= t <= high else 1

        evaluations = num_evaluations(self.sampler, times, self.noise_schedule, cost)
        return {
            "sampler": function.__name__ + ("" if is_adaptive else f", {self.num_steps} steps"),
            "num_function_evaluations": self._measured() if is_adaptive else evaluations,
            "guidance_scale": self.guidance_scale,
        }

    @torch.no_grad()
    def _measured(self, num_images: int = 16) -> float:
        self.ema.eval()
        latents = self.noise(range(num_images), self.image_shape)
        denoiser, times = self.denoiser(self.sample_labels(range(num_images), None)), self._times().to(latents)
        with torch.autocast(self.device.type, enabled=False):
            self.solve(denoiser, self.noise_schedule.sigma(times[0]) * latents, times)
        return denoiser.num_evaluations / num_images
