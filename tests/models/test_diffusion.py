"""What is particular to diffusion models, in one stage or two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from imagegen.config import UserError, build
from imagegen.models import Diffusion, LatentDiffusion
from imagegen.objectives.consistency import halving
from imagegen.objectives.denoisers import SamplingError
from imagegen.objectives.samplers import ancestral, ddim, dpm_solver
from imagegen.objectives.time_grids import uniform
from imagegen.objectives.variances import variance_loss

Compose = Callable[..., DictConfig]
FAMILY = ["diffusion", "flow_matching", "ddpm", "improved_ddpm", "edm", "consistency"]


def model(composed: Compose, name: str = "diffusion", *overrides: str) -> Any:
    width = "model.network.width=8"
    return build(composed(f"model={name}", "run_dir=unused", width, *overrides).model, "model")


def awake(composed: Compose, name: str = "diffusion", *overrides: str) -> Any:
    """A model whose layers all do something: the last ones start at zero."""
    built = model(composed, name, *overrides)
    for parameter in built.ema.module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return built


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (6, 1, 8, 8)) / 127.5 - 1


@pytest.mark.parametrize("name", FAMILY)
def test_a_network_that_answers_rightly_loses_nothing_and_draws_its_image(composed: Compose, name: str) -> None:
    """For a set of one image the best denoiser is that image, whatever x_t."""
    built, image = model(composed, name, "model.num_classes=null"), torch.rand(1, 1, 8, 8) - 0.5

    class Knowing(torch.nn.Module):
        num_outputs = 2 if name == "improved_ddpm" else 1

        def forward(self, pictures: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
            schedule, kind, t = built.noise_schedule, built.parameterization, times.view(-1, 1, 1, 1)
            if name == "edm":  # it is told log(sigma) / 4, and pictures scaled to variance one
                t = torch.exp(4 * t) / 80
                pictures = pictures * (t * 80).square().add(kind.sigma_data**2).sqrt()
            noise = (pictures - schedule.alpha(t) * image) / schedule.sigma(t)
            answer = kind.target(image.expand_as(pictures), noise, t, schedule)
            return torch.cat([answer, torch.ones_like(answer)], 1) if self.num_outputs == 2 else answer

    built.network, built.ema.module = Knowing(), Knowing()
    terms = built.losses(image.repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.long))
    assert terms.get("error", terms["loss"]).item() == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(built.sample(3), image.repeat(3, 1, 1, 1), atol=2e-2, rtol=0)


@pytest.mark.parametrize("options", [{}, {"num_steps": 3}, {"sampler": dpm_solver}])
def test_guidance_of_one_is_no_guidance_bit_for_bit(composed: Compose, options: dict[str, Any]) -> None:
    built = awake(composed)
    plain = built.sample(3, **options)
    assert built.sample(3, guidance_scale=1.0, **options).equal(plain)
    assert not built.sample(3, guidance_scale=3.0, **options).allclose(plain, atol=1e-3)
    assert built.sample(3, guidance_scale=3.0, guidance_interval=(0.01, 0.02), **options).equal(plain)


def test_guidance_extrapolates_from_what_is_known_without_a_label(composed: Compose) -> None:
    built = awake(composed)
    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor(0.6), torch.tensor([1, 2, 3])
    with torch.no_grad():
        conditional = built.denoiser(labels)(x, t)
        unconditional = built.denoiser(torch.full((3,), 10))(x, t)
        guided = built.denoiser(labels, 2.5)
        torch.testing.assert_close(guided(x, t), unconditional + 2.5 * (conditional - unconditional))
    assert guided.num_evaluations == 6


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 8),
        (["model.guidance_scale=2"], 16),
        (["model.guidance_scale=2", "model.guidance_interval=[0.3,0.7]"], 11),
        (["sampler@model.sampler=dpm_solver"], 8),
        (["sampler@model.sampler=heun"], 15),
        (["sampler@model.sampler=stochastic_heun", "model.num_steps=5"], 9),
    ],
)
def test_the_protocol_states_the_evaluations_that_are_made(
    composed: Compose, overrides: list[str], expected: int
) -> None:
    built, calls = model(composed, "diffusion", *overrides), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    built.ema.module.register_forward_hook(count)
    built.sample(2)
    assert built.sampling_protocol()["num_function_evaluations"] == calls == expected


def test_an_adaptive_sampler_states_the_mean_of_its_evaluations(composed: Compose) -> None:
    built = awake(composed, "diffusion", "sampler@model.sampler=adaptive", "model.sampler.tolerance=0.05")
    protocol = built.sampling_protocol()
    assert protocol["sampler"] == "adaptive"
    assert 5 < protocol["num_function_evaluations"] < 200
    labels = torch.tensor([3, 1, 4, 1])  # each image keeps its own, whichever is done first
    together = built.sample(4, labels, seed=3)
    torch.testing.assert_close(built.sample(4, labels, seed=3, batch_size=1), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", [ddim, ancestral])
def test_only_samplers_that_draw_noise_depend_on_it(composed: Compose, sampler: Any, monkeypatch: Any) -> None:
    built = awake(composed)
    before = built.sample(3, seed=5, sampler=sampler)
    monkeypatch.setattr(built, "step_noise", lambda seeds, like: lambda step: torch.zeros_like(like))
    assert built.sample(3, seed=5, sampler=sampler).equal(before) == (sampler is ddim)


def test_the_noise_of_a_step_is_that_of_its_seed(composed: Compose) -> None:
    built = model(composed)
    like = torch.zeros(3, 1, 8, 8)
    first, second = (built.step_noise(range(7, 10), like)(step) for step in (0, 1))
    assert not first.allclose(second, atol=0.1)
    assert not first.allclose(built.noise(range(7, 10), (1, 8, 8)), atol=0.1)
    assert built.step_noise(range(9, 10), like[:1])(0).equal(first[2:])
    shared = built.step_noise(None, like)(0)
    assert shared[0].equal(shared[2])


def test_no_number_while_sampling_is_named_with_its_step(composed: Compose) -> None:
    built, calls = awake(composed), 0

    def spoil(module: Any, args: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        return output * torch.nan if calls == 4 else None

    built.ema.module.register_forward_hook(spoil)
    with pytest.raises(SamplingError, match=r"not finite at evaluation 4, t=0\.6"):
        built.sample(2)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("diffusion", ["model.num_classes=null", "model.guidance_scale=2"], "trained without labels"),
        ("diffusion", ["model.variance_weight=1"], "two outputs"),
        ("diffusion", ["model.balance_weight=1"], "network with experts"),
        ("diffusion", ["model.num_steps=0"], "model.num_steps"),
        ("diffusion", ["model.guidance_interval=[0,2]"], "model.guidance_interval"),
        (
            "latent_diffusion",
            ["network@model.network=residual_autoencoder", "model.network.latent_dim=4"],
            "latents are pictures",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(composed: Compose, name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        model(composed, name, *overrides)


@pytest.mark.parametrize(
    ("options", "words"), [({"num_steps": 0}, "at least 1"), ({"guidance_scale": 2.0}, "trained without labels")]
)
def test_what_cannot_be_sampled_is_refused(composed: Compose, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(composed, "diffusion", "model.num_classes=null").sample(2, **options)
    with pytest.raises(ValueError, match="no second output"):
        model(composed, "ddpm", "model.sampler.variance_share=null", "model.num_steps=2").sample(2)


# Parts of the training step ---------------------------------------------------------------------------------------


def test_consistency_draws_an_image_to_an_earlier_one_held_fixed(composed: Compose, images: Tensor) -> None:
    built = awake(composed, "consistency", "model.label_dropout=0", "model.consistency.diffusion_share=0.5")
    labels = torch.arange(6)
    for parameter in built.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    built.progress = 0.4
    assert built.consistency(0.4) == 0
    built.progress = 0.7
    assert built.consistency(0.7) == 0.75
    torch.manual_seed(1)
    found = built.losses(images, labels)["loss"]
    found.backward()
    torch.manual_seed(1)
    noise = torch.randn_like(images)
    t = built.time_distribution(6, images.device).view(-1, 1, 1, 1)

    def denoised(t: Tensor) -> Tensor:  # on a straight path x_t - t * velocity
        x_t = (1 - t) * images + t * noise
        return x_t - t * built.network(x_t, t.flatten(), labels)

    with torch.no_grad():
        expected = (((denoised(t) - denoised(0.25 * 3 * t)) / t).square() / 0.25).mean()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_stages_of_consistency() -> None:
    gaps = [halving(p, 0.5, 3) for p in (0.0, 0.49, 0.5, 0.7, 0.9, 1.0)]
    assert gaps == [0.0, 0.0, 0.5, 0.75, 0.875, 0.875]


def test_the_best_variance_of_a_step_costs_nothing() -> None:
    """If the images are known exactly, the smallest variance is right; a larger one costs."""
    from imagegen.objectives.noise_schedules import Cosine

    images, t = torch.rand(8, 1, 2, 2), torch.linspace(0.05, 0.95, 8).view(-1, 1, 1, 1)
    small, large = -torch.ones_like(images), torch.ones_like(images)
    best = variance_loss(images, images, small, t, Cosine(), 1000)
    assert best.item() == pytest.approx(0, abs=1e-5)
    assert variance_loss(images, images, large, t, Cosine(), 20) > 1e-3
    guess = (images + 0.5).requires_grad_()
    said = torch.zeros_like(images).requires_grad_()
    variance_loss(images, guess, said, t, Cosine(), 1000).backward()
    assert guess.grad is None, "the mean is left to the other loss"
    assert said.grad is not None
    assert said.grad.any()


def test_the_terms_add_up(composed: Compose, images: Tensor) -> None:
    sizes = ["model.network.width=16", "model.network.num_blocks=2", "model.network.hidden=16"]
    moe = model(composed, "dit_moe", *sizes)
    terms = moe.losses(images, torch.arange(6))
    torch.testing.assert_close(terms["loss"], terms["error"] + 0.01 * terms["balance_loss"])
    assert sum(float(terms[f"expert_{i}"]) for i in range(4)) == pytest.approx(1)
    learned = model(composed, "improved_ddpm")
    terms = learned.losses(images, torch.arange(6))
    torch.testing.assert_close(terms["loss"], terms["error"] + 0.001 * terms["variance_loss"])


# What it does with given images -----------------------------------------------------------------------------------


def test_known_pixels_stay_and_the_others_depend_on_the_seed(composed: Compose, images: Tensor) -> None:
    built, known = awake(composed), torch.arange(64).view(1, 1, 8, 8).expand(6, 1, 8, 8) % 2 == 0
    first, other = (built.complete(images, known, torch.arange(6), seed=seed, num_steps=2) for seed in (0, 50))
    assert first[known].equal(images[known])
    assert not first[~known].allclose(other[~known], atol=0.05)
    alone = built.complete(images[2:3], known[2:3], torch.tensor([2]), seed=2, num_steps=2)
    torch.testing.assert_close(alone, first[2:3], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="does not fit images"):
        built.complete(images, known[..., :4])


def test_variations_begin_where_they_are_told(composed: Compose, images: Tensor) -> None:
    built = awake(composed, "diffusion", "sampler@model.sampler=heun", "model.num_steps=5")
    little, much = ((built.vary(images, s) - images).abs().mean() for s in (0.01, 0.9))
    assert little < 0.05 < much
    first = built.denoiser(torch.arange(6))
    x_t = built.noise_schedule.x_t(images, built.noise(range(6), (1, 8, 8)), torch.tensor(0.5))
    expected = built.solve(first, x_t, 0.5 * uniform(5).float()).clamp(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(built.vary(images, 0.5, torch.arange(6)), expected)


def test_noise_is_taken_away_from_its_own_level(composed: Compose, images: Tensor) -> None:
    built, seen = awake(composed), []
    built.ema.module.register_forward_pre_hook(lambda module, args: seen.append(args))
    built.denoise(images, torch.arange(6), noise=0.25)
    x_t, times, _ = seen[0]
    torch.testing.assert_close(times, torch.full((6,), 0.2))  # sigma / alpha = t / (1 - t) = 0.25
    torch.testing.assert_close(x_t, 0.8 * images)


def test_a_trajectory_begins_with_noise_and_ends_with_the_images(composed: Compose) -> None:
    built = awake(composed)
    for sampler in (None, dpm_solver):
        options = {} if sampler is None else {"sampler": sampler}
        film = built.trajectory(3, 4, seed=2, **options)
        assert film.shape == (3, 4, 1, 8, 8)
        torch.testing.assert_close(film[:, 0], built.noise(range(2, 5), (1, 8, 8)).clamp(-1, 1))
        torch.testing.assert_close(film[:, -1], built.sample(3, seed=2, **options))
    assert built.pictures(4)["trajectory"].shape == (64, 1, 8, 8)


def test_enlarged_and_sharpened_images_give_what_was_observed(composed: Compose, images: Tensor) -> None:
    """A network that says nothing but x_t itself leaves the observation in charge."""
    built = model(composed, "diffusion", "parameterization@model.parameterization=preconditioned")
    observed = torch.nn.functional.avg_pool2d(images, 2)
    enlarged = built.enlarge(observed, 2, torch.arange(6), num_steps=30)
    assert (torch.nn.functional.avg_pool2d(enlarged, 2) - observed).abs().mean() < 0.1
    with pytest.raises(ValueError, match="are not 8x8"):
        built.enlarge(observed, 3)


# Two stages -------------------------------------------------------------------------------------------------------


def latent(composed: Compose) -> LatentDiffusion:
    sizes = [f"model.prior.{key}" for key in ("num_steps=2", "network.width=16", "network.num_blocks=1")]
    built: LatentDiffusion = model(composed, "latent_diffusion", *sizes)
    return built


def test_the_stages_of_latent_diffusion(composed: Compose, images: Tensor) -> None:
    built, labels = latent(composed), torch.arange(6)
    assert isinstance(built.prior, Diffusion)
    for progress, keys in [(0.0, {"loss", "reconstruction", "kl"}), (0.3, {"loss"}), (0.9, {"loss"})]:
        built.progress = progress
        built.zero_grad()
        terms = built.losses(images, labels)
        assert set(terms) == keys
        terms["loss"].backward()
        learns = [any(p.grad is not None for p in n.parameters()) for n in (built.network, built.prior.network)]
        assert learns == [progress < 0.3, progress >= 0.3]


def test_latents_are_brought_to_mean_zero_and_variance_one(composed: Compose) -> None:
    built = latent(composed)
    for _ in range(400):
        built._note(3.0 + 2.0 * torch.randn(64, built.network.latent_dim))
    torch.testing.assert_close(built.latent_mean, torch.full((4, 1, 1), 3.0), atol=0.1, rtol=0)
    torch.testing.assert_close(built.latent_variance, torch.full((4, 1, 1), 4.0), atol=0.3, rtol=0)
    standard = built._standard(3.0 + 2.0 * torch.randn(2000, 4, 2, 2))
    assert standard.std().item() == pytest.approx(1, abs=0.05)


def test_samples_of_latent_diffusion_are_decoded_latents_of_its_prior(composed: Compose) -> None:
    built = latent(composed)
    built.latent_mean.fill_(0.5)
    latents = built.prior.draw(range(3, 7), None) + 0.5
    expected = built.likelihood.mean(*built.ema.module.decode(latents.flatten(1)))
    torch.testing.assert_close(built.sample(4, seed=3), expected.clamp(-1, 1))
    assert built.reconstruct(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 8, 8)
    assert built.sampling_protocol()["num_function_evaluations"] == 2


def test_a_film_of_latent_diffusion_shows_what_it_expects_and_ends_with_the_images(composed: Compose) -> None:
    built = latent(composed)
    built.latent_mean.fill_(0.5)
    film = built.trajectory(3, 4, seed=2)
    assert film.shape == (3, 4, 1, 8, 8)
    torch.testing.assert_close(film[:, -1], built.sample(3, seed=2, num_steps=3))
    x = built.prior.noise(range(2, 5), built.prior.image_shape)
    expected = built.prior.denoiser(built.sample_labels(range(2, 5), None))(x, torch.ones(3))
    torch.testing.assert_close(film[:, 0], built._pixels(expected).clamp(-1, 1))
    assert built.pictures(4)["trajectory"].shape == (64, 1, 8, 8)


def test_variations_of_latent_diffusion_begin_at_the_latents_of_the_images(composed: Compose, images: Tensor) -> None:
    built, labels = latent(composed), torch.arange(6)
    varied = built.vary(images, 0.5, labels, seed=3)
    assert varied.shape == images.shape
    assert not varied.allclose(built.vary(images, 0.5, labels, seed=4))
    # Nearly no noise gives nearly the reconstruction, whatever an untrained network expects.
    torch.testing.assert_close(built.vary(images, 1e-4, labels), built.reconstruct(images), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="strength must lie"):
        built.vary(images, 0.0, labels)
