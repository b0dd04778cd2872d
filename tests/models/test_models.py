"""What is particular to one model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from imagegen.config import build
from imagegen.models import GAN, VAE, Diffusion
from imagegen.objectives.likelihoods import bits_per_dim

Compose = Callable[..., DictConfig]


def model(composed: Compose, name: str, *overrides: str) -> GAN | VAE | Diffusion:
    built: GAN | VAE | Diffusion = build(composed(f"model={name}", "run_dir=unused", *overrides).model, "model")
    return built


def test_the_vae_bound_lies_below_the_importance_weighted_one(composed: Compose) -> None:
    vae = model(composed, "vae", "model.network.hidden=[16]", "model.latent_dim=2")
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    images = (images * 127.5).round() / 127.5
    with torch.no_grad():
        bound = torch.stack([vae.log_likelihood(images) for _ in range(200)])
        network = vae.ema.module
        mean, log_var = network.encode(images)
        weights = []
        for _ in range(2000):  # log p(x) by importance sampling
            noise = torch.randn_like(mean)
            latents = mean + torch.exp(0.5 * log_var) * noise
            log_prior = (-0.5 * latents.square() - 0.5 * math.log(2 * math.pi)).sum(1)
            log_posterior = (-0.5 * noise.square() - 0.5 * log_var - 0.5 * math.log(2 * math.pi)).sum(1)
            log_pixels = vae.likelihood.log_prob(images, *network.decode(latents))
            weights.append(log_pixels + log_prior - log_posterior)
        log_likelihood = torch.stack(weights).logsumexp(0) - math.log(2000)
    assert (bound.mean(0) <= log_likelihood + 0.05 * log_likelihood.abs().clamp(max=1)).all()


def test_vae_terms_add_up(composed: Compose) -> None:
    vae = model(composed, "vae", "model.beta=3.0")
    losses = vae.losses(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    expected = bits_per_dim(losses["reconstruction"] + 3 * losses["kl"], (1, 8, 8))
    torch.testing.assert_close(losses["loss"], expected)


def test_vae_reconstructs_through_its_latents(composed: Compose) -> None:
    vae = model(composed, "vae", "model.latent_dim=2")
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    assert vae.encode(images).shape == (3, 2)
    assert vae.reconstruct(images).equal(vae.decode(vae.encode(images)))
    assert vae.latent_plane(4).shape == (16, 1, 8, 8)
    assert set(vae.pictures(4)) == {"samples", "latent_plane"}


@pytest.mark.parametrize("loss", ["generator_loss", "discriminator_loss"])
def test_gan_losses_at_a_discriminator_that_knows_nothing(composed: Compose, loss: str) -> None:
    gan = model(composed, "gan")
    with torch.no_grad():
        for parameter in gan.discriminator.parameters():
            parameter.zero_()
    losses = gan.losses(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    expected = math.log(2) if loss == "generator_loss" else 2 * math.log(2)
    assert losses[loss].item() == pytest.approx(expected)


def test_each_step_of_a_gan_touches_only_its_own_network(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = model(composed, "gan", "model.network.hidden=[8]", "model.discriminator.hidden=[8]")
    optimizers = gan.configure_optimizers()
    changed: list[tuple[bool, bool]] = []

    def snapshot() -> list[torch.Tensor]:
        return [p.detach().clone() for network in (gan.network, gan.discriminator) for p in network.parameters()]

    num_generator = len(list(gan.network.parameters()))

    class Watched:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer
            self.zero_grad = optimizer.zero_grad

        def step(self) -> None:
            before = snapshot()
            self.optimizer.step()
            same = [a.equal(b) for a, b in zip(before, snapshot(), strict=True)]
            changed.append((not all(same[:num_generator]), not all(same[num_generator:])))

    monkeypatch.setattr(gan, "optimizers", lambda: [Watched(optimizer) for optimizer in optimizers])
    monkeypatch.setattr(gan, "manual_backward", lambda loss: loss.backward())
    gan._trainer = type("T", (), {"world_size": 1})()  # the step asks its trainer only this
    gan.training_step((torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)), 0)
    assert changed == [(False, True), (True, False)]
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_diffusion_loss_of_a_network_that_knows_nothing(composed: Compose) -> None:
    diffusion = model(composed, "diffusion")  # its head starts at zero: the velocity is noise - images
    images = torch.full((256, 1, 8, 8), 0.5)
    loss = diffusion.losses(images, torch.zeros(256, dtype=torch.long))["loss"].item()
    assert loss == pytest.approx(1 + 0.25, abs=0.05)


def test_guidance_of_one_is_no_guidance(composed: Compose) -> None:
    diffusion = model(composed, "diffusion", "model.network.width=16")
    for parameter in diffusion.ema.module.parameters():  # its last layers start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    plain = diffusion.sample(3, guidance_scale=1.0)
    assert diffusion.sample(3).equal(plain)
    assert not diffusion.sample(3, guidance_scale=3.0).allclose(diffusion.sample(3, guidance_scale=1.0), atol=1e-3)


@pytest.mark.parametrize(("num_steps", "evaluations"), [(1, 1), (5, 9), (18, 35)])
def test_diffusion_states_its_function_evaluations(composed: Compose, num_steps: int, evaluations: int) -> None:
    diffusion = model(composed, "diffusion", f"model.num_steps={num_steps}", "model.network.width=8")
    assert diffusion.sampling_protocol()["num_function_evaluations"] == evaluations
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    diffusion.ema.module.register_forward_hook(count)
    diffusion.sample(2)
    assert calls == evaluations


def test_an_unconditional_diffusion_needs_no_labels(composed: Compose) -> None:
    diffusion = model(composed, "diffusion", "model.num_classes=null", "model.network.width=8")
    assert diffusion.sample(2).shape == (2, 1, 8, 8)
    assert diffusion.losses(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))["loss"].isfinite()


def test_more_importance_samples_tighten_the_bound(composed: Compose) -> None:
    vae = model(composed, "vae", "model.network.hidden=[16]", "model.latent_dim=4")
    images = torch.randint(256, (8, 1, 8, 8)) / 127.5 - 1
    bounds = []
    for num_samples in (1, 5, 50):
        vae.num_importance_samples = num_samples
        bounds.append(float(torch.stack([vae.log_likelihood(images) for _ in range(20)]).mean()))
        assert str(num_samples) in str(vae.likelihood_kind)
    assert bounds == sorted(bounds)


def test_a_classifier_mirrors_and_shifts_each_image_on_its_own(composed: Compose) -> None:
    classifier = model(composed, "classifier", "model.flip=true", "model.max_shift=2")
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat(1000, 1, 1, 1)
    changed = classifier.augment(images)  # type: ignore[union-attr, operator]
    assert changed.shape == images.shape
    centres = changed[:, 0, 3:5, 3:5]
    assert len(torch.unique(centres.flatten(1), dim=0)) == 2 * 5 * 5
    still = model(composed, "classifier")
    assert still.augment(images) is images  # type: ignore[union-attr, operator]


def steps_of(gan: GAN, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which network moved in each step, as letters: d, g."""
    optimizers = gan.configure_optimizers()
    monkeypatch.setattr(gan, "optimizers", lambda: optimizers)
    monkeypatch.setattr(gan, "manual_backward", lambda loss: loss.backward())
    gan._trainer = type("T", (), {"world_size": 1, "sanity_checking": False})()
    moved = []
    for i in range(num_steps):
        before = [[p.detach().clone() for p in network.parameters()] for network in (gan.network, gan.discriminator)]
        gan.training_step((torch.rand(4, 1, 8, 8) * 2 - 1, torch.arange(4)), i)
        same = [
            all(a.equal(b) for a, b in zip(old, network.parameters(), strict=True))
            for old, network in zip(before, (gan.network, gan.discriminator), strict=True)
        ]
        moved.append(("" if same[1] else "d") + ("" if same[0] else "g"))
    return moved


def test_the_generator_moves_on_every_nth_step(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = model(composed, "wgan", "model.network.width=8", "model.discriminator.width=8")
    assert steps_of(gan, 11, monkeypatch) == (["d"] * 4 + ["dg"]) * 2 + ["d"]
    assert max(float(p.abs().max()) for p in gan.discriminator.parameters()) <= 0.01 + 1e-7


def test_a_lazy_penalty_keeps_its_weight(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = model(composed, "r3gan", "model.network.width=8", "model.discriminator.width=8", "model.penalty.interval=3")
    recorded: list[set[str]] = []
    monkeypatch.setattr(gan, "record", lambda losses: recorded.append(set(losses)))
    steps_of(gan, 7, monkeypatch)
    assert ["penalty" in names for names in recorded] == [True, False, False, True, False, False, True]


def test_images_are_drawn_with_the_statistics_of_the_averaged_generator(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = model(composed, "dcgan", "model.network.width=8", "model.discriminator.width=8")
    steps_of(gan, 3, monkeypatch)
    network, seeds = gan.ema.module, range(64 * gan.STATISTICS_BATCHES)
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    first = gan.sample(5, seed=3)
    network.train()  # all of them as one batch
    with torch.no_grad():
        latents = torch.cat([gan.noise(seeds, (gan.latent_dim,)), gan.noise(range(3, 8), (gan.latent_dim,))])
        expected = network(latents)[-5:]
    assert (first - expected).abs().mean() < 0.02
    network.eval()
    gan.load_state_dict(before)
    gan.sample(2)
    assert all(value.equal(before[name]) for name, value in gan.state_dict().items())
    assert gan.sample(5, seed=3).equal(first)


def test_a_term_that_comes_now_and_then_is_averaged_over_its_own_steps(composed: Compose) -> None:
    gan = model(composed, "gan")
    for i in range(4):
        gan.record({"often": torch.tensor(float(i))} | ({"seldom": torch.tensor(10.0)} if i == 2 else {}))
    assert {name: float(total / count) for name, (total, count) in gan._sums.items()} == {"often": 1.5, "seldom": 10.0}
