"""What is particular to one model."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig

from imagegen.config import UserError, build
from imagegen.models import GAN, VAE, VQVAE, Diffusion
from imagegen.models.base import MismatchError
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


@pytest.mark.parametrize(("num_steps", "evaluations"), [(1, 1), (5, 9), (18, 35)])
def test_diffusion_states_its_function_evaluations(composed: Compose, num_steps: int, evaluations: int) -> None:
    diffusion = model(composed, "diffusion", "sampler@model.sampler=heun", f"model.num_steps={num_steps}")
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
    paper = ["model.num_discriminator_steps=5", "model.weight_clip=0.01"]
    gan = model(composed, "wgan", "model.network.width=8", "model.discriminator.width=8", *paper)
    assert steps_of(gan, 11, monkeypatch) == (["d"] * 4 + ["dg"]) * 2 + ["d"]
    assert max(float(p.detach().abs().max()) for p in gan.discriminator.parameters()) <= 0.01 + 1e-7


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


@pytest.mark.parametrize("name", ["gan", "dcgan", "vae", "diffusion", "biggan"])
def test_interpolations_begin_and_end_at_the_images_of_their_seeds(composed: Compose, name: str) -> None:
    deterministic = ["sampler@model.sampler=heun"] if name == "diffusion" else []
    built = model(composed, name, *deterministic)
    paths = built.interpolate(3, num_images=4, seed=5)
    assert paths.shape == (3, 4, 1, 8, 8)
    torch.testing.assert_close(paths[:, 0], built.sample(3, seed=5), atol=1e-4, rtol=0)
    classes = None if built.num_classes is None else torch.tensor([5, 6, 7])
    torch.testing.assert_close(paths[:, -1], built.sample(3, classes, seed=8), atol=1e-4, rtol=0)
    torch.testing.assert_close(built.interpolate(3, num_images=4, seed=5, batch_size=5), paths, atol=1e-4, rtol=0)


def test_a_round_walk_ends_a_step_before_its_beginning(composed: Compose) -> None:
    gan = model(composed, "gan")
    walk = gan.interpolate(2, num_images=5, num_waypoints=3, is_loop=True)
    assert walk.shape == (2, 12, 1, 8, 8)
    torch.testing.assert_close(walk[:, 4], gan.sample(2, seed=2), atol=1e-4, rtol=0)
    torch.testing.assert_close(walk[:, 8], gan.sample(2, seed=4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"num_images": 1}, {"num_waypoints": 1}])
def test_a_path_has_two_ends(composed: Compose, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="2 images and waypoints"):
        model(composed, "gan").interpolate(2, **options)


def test_a_model_without_latents_does_not_interpolate(composed: Compose) -> None:
    with pytest.raises(ValueError, match="no latents"):
        model(composed, "pixelcnn", "model.network.width=8").interpolate(2)


def test_truncated_latents_vary_less(composed: Compose) -> None:
    gan = model(composed, "biggan")
    spreads = [float(gan.sample(50, torch.zeros(50, dtype=torch.long), **o).std(0).mean()) for o in OPTIONS]
    assert spreads == sorted(spreads)
    with pytest.raises(ValueError, match="truncation"):
        gan.sample(2, truncation=-1.0)


OPTIONS: list[dict[str, float]] = [{"truncation": 0.1}, {"truncation": 0.5}, {}]


def test_statistics_are_measured_on_latents_truncated_alike(composed: Compose) -> None:
    gan = model(composed, "dcgan", "model.network.width=8")
    images = gan.sample(200, seed=10**6, truncation=0.5)
    layer = next(layer for layer in gan.ema.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    inputs: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    outputs: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, args, out: outputs.append(out))
    torch.testing.assert_close(gan.sample(200, seed=10**6, truncation=0.5), images)
    assert float(outputs[-1].std()) == pytest.approx(1.0, abs=0.1)  # normalised, though its inputs vary little


def growing(composed: Compose, *overrides: str) -> GAN:
    return model(composed, "progan", "model.network.width=4", "model.discriminator.width=4", *overrides)  # type: ignore[return-value]


def test_a_growing_gan_trains_small_pictures_first(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = growing(composed, "model.growth.share=0.5")
    shapes: list[tuple[int, ...]] = []
    gan.discriminator.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[2:])))
    for progress, size, level in [(0.0, 2, 0.0), (0.2, 4, 0.6), (0.3, 4, 1.0), (0.45, 8, 1.6), (0.9, 8, 2.0)]:
        shapes.clear()
        gan.progress = progress
        steps_of(gan, 1, monkeypatch)
        assert set(shapes) == {(size, size)}
        assert gan.network.level == gan.ema.module.level == gan.discriminator.level == pytest.approx(level)
        assert gan.sample(3).shape == (3, 1, 8, 8)
        assert gan.losses(torch.zeros(4, 1, 8, 8), torch.arange(4))["loss"].isfinite()


def test_growth_needs_networks_that_grow(composed: Compose) -> None:
    with pytest.raises(UserError, match="growth needs networks"):
        model(composed, "dcgan", "+model.growth._target_=imagegen.objectives.growth.Growth")


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("wgan", ["model.weight_clip=null"], "needs a penalty, weight_clip or discriminator.spectral"),
        ("dcgan", ["model.weight_clip=0.01"], "weight_clip is for the Wasserstein objective"),
        ("dcgan", ["+model.penalty._target_=imagegen.objectives.penalties.R1"], "mixes the images"),
        ("biggan", ["model.latent_dim=2"], "skip_latent splits"),
        ("sngan", ["model.image_shape=[1,9,9]", "data.image_shape=[1,9,9]"], "9x9"),
    ],
)
def test_parts_that_do_not_fit_are_refused(composed: Compose, name: str, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        model(composed, name, *overrides)


def test_both_kinds_of_images_are_augmented(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = model(composed, "gan", "+model.augmentation._target_=imagegen.networks.augmentation.DiffAugment")
    gan.augmentation.target = torch.tensor(0.0)
    gan.augmentation.probability.fill_(0.5)
    seen: list[int] = []
    gan.augmentation.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    steps_of(gan, 2, monkeypatch)
    assert seen == [4] * 6  # real, fake; fake for the generator
    assert float(gan.augmentation.probability) != 0.5


def test_an_augmented_gan_is_conditional_as_well(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gan = model(
        composed,
        "r3gan",
        "model.network.width=8",
        "model.discriminator.width=8",
        "+model.augmentation._target_=imagegen.networks.augmentation.DiffAugment",
    )
    assert steps_of(gan, 2, monkeypatch) == ["dg", "dg"]


@pytest.mark.parametrize("name", ["vae", "conv_vae", "hvae", "cvae"])
def test_the_bound_lies_below_the_importance_weighted_one(composed: Compose, name: str) -> None:
    vae = model(composed, name, *(["model.network.width=8"] if name in ("conv_vae", "hvae") else []))
    for parameter in vae.ema.module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    images, labels = torch.randint(256, (16, 1, 8, 8)) / 127.5 - 1, torch.arange(16) % 10
    bounds = []
    for count in (1, 10, 100):
        vae.num_importance_samples = count
        bounds.append(float(torch.stack([vae.log_likelihood(images, labels) for _ in range(10)]).mean()))
    assert bounds[0] <= bounds[1] + 0.05
    assert bounds[1] <= bounds[2] + 0.05


def test_free_bits_cost_nothing(composed: Compose) -> None:
    vae = model(composed, "vae", "model.free_bits=1000.0")
    terms = vae.losses(torch.rand(4, 1, 8, 8) * 2 - 1, torch.zeros(4, dtype=torch.long))
    expected = bits_per_dim(terms["reconstruction"] + 16 * 1000, (1, 8, 8))
    torch.testing.assert_close(terms["loss"], expected)


def test_noise_is_for_the_encoder_alone(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = model(composed, "denoising_vae")
    images = torch.rand(64, 1, 8, 8) * 2 - 1
    seen: list[torch.Tensor] = []
    infer = vae.network.infer
    monkeypatch.setattr(vae.network, "infer", lambda x, *rest: (seen.append(x), infer(x, *rest))[1])
    targets: list[torch.Tensor] = []
    likelihood = vae.likelihood
    vae.likelihood = type("L", (), {"log_prob": lambda _, x, *p: (targets.append(x), likelihood.log_prob(x, *p))[1]})()
    vae.losses(images, torch.zeros(64, dtype=torch.long))
    assert targets[0] is images
    assert float((seen[0] - images).std()) == pytest.approx(0.5, abs=0.02)
    vae.log_likelihood(images)
    assert targets[1] is images


def test_units_that_say_nothing_are_found(composed: Compose) -> None:
    vae = model(composed, "vae", "model.latent_dim=4")
    images = torch.rand(200, 1, 8, 8) * 2 - 1
    last = vae.ema.module.encoder[-1]
    with torch.no_grad():  # the third latent is a standard normal number, whatever the image
        last.weight[[2, 6]] = 0
        last.bias[[2, 6]] = 0
    report = vae.unit_report(images)
    assert report["kl"][2] == 0
    assert report["variance"][2] == 0
    rows = vae.traverse(4, 5, images=images, labels=torch.zeros(len(images), dtype=torch.long))
    assert rows.shape == (4, 5, 1, 8, 8)
    torch.testing.assert_close(rows[0, 2], rows[1, 2], atol=1.0, rtol=0)


def test_a_traversal_moves_one_latent(composed: Compose) -> None:
    vae = model(composed, "vae", "model.latent_dim=3")
    seen: list[torch.Tensor] = []
    vae.ema.module.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vae.traverse(3, 5, seed=4)
    latents, fixed = seen[0].view(3, 5, 3), vae.noise(range(4, 5), (3,))[0]
    for unit in range(3):
        torch.testing.assert_close(latents[unit, :, unit], torch.linspace(-2.5, 2.5, 5))
        others = [i for i in range(3) if i != unit]
        assert latents[unit][:, others].equal(fixed[others].expand(5, 2))


def test_reconstruction_of_a_conditional_vae_needs_labels(composed: Compose) -> None:
    vae = model(composed, "cvae")
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    assert vae.reconstruct(images, torch.arange(3)).shape == images.shape
    with pytest.raises(ValueError, match="labels of the images"):
        vae.reconstruct(images)


def vq_vae(composed: Compose, *overrides: str) -> VQVAE:
    sizes = ["model.network.width=8", "model.prior_network.network.width=16"]
    return model(composed, "vq_vae", *sizes, *overrides)  # type: ignore[return-value]


def test_the_stages_of_a_vq_vae(composed: Compose) -> None:
    built = vq_vae(composed, "model.autoencoder_share=0.4")
    images, labels = torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6)
    for progress, expected, keys in [
        (0.0, 0.0, {"loss", "reconstruction", "commitment", "perplexity"}),
        (0.2, 0.5, {"loss", "reconstruction", "commitment", "perplexity"}),
        (0.4, 0.0, {"loss"}),
        (0.7, 0.5, {"loss"}),
    ]:
        built.progress = progress
        assert built.schedule_progress == pytest.approx(expected)
        built.zero_grad()
        terms = built.losses(images, labels)
        assert set(terms) == keys
        terms["loss"].backward()
        learns = [any(p.grad is not None for p in n.parameters()) for n in (built.network, built.prior.network)]
        assert learns == [progress < 0.4, progress >= 0.4]


def test_the_bound_of_a_vq_vae_is_that_of_one_code(composed: Compose) -> None:
    built = vq_vae(composed)
    images, labels = torch.randint(256, (3, 1, 8, 8)) / 127.5 - 1, torch.arange(3)
    codes = built.encode(images)
    assert codes.shape == (3, 2, 2)
    expected = built.likelihood.log_prob(images, *built.ema.module.decode(codes))
    logits = built.prior.ema.module(codes[:, None] / 31.5 - 1, labels)  # (N, 64, 1, 2, 2)
    expected = expected + logits.log_softmax(1)[:, :, 0].gather(1, codes[:, None]).sum((1, 2, 3))
    torch.testing.assert_close(built.log_likelihood(images, labels), expected)


def test_samples_of_a_vq_vae_are_decoded_codes_of_its_prior(composed: Compose) -> None:
    built = vq_vae(composed)
    codes = ((built.prior.sample(4, seed=3)[:, 0] + 1) * 31.5).round().long()
    torch.testing.assert_close(built.sample(4, seed=3), built.decode(codes).clamp(-1, 1))


def test_perplexity_counts_the_codes_in_use(composed: Compose) -> None:
    built = vq_vae(composed)
    with torch.no_grad():
        for code, vector in enumerate(built.network.quantizer.codebook):
            vector.fill_(0.0 if code == 0 else 1e3 + code)  # nobody comes near the others
        built.network.eval()
    terms = built.losses(torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6))
    assert terms["perplexity"].item() == pytest.approx(1.0)


def test_the_bound_of_a_gaussian_mixture_is_a_density_per_bin(composed: Compose) -> None:
    gmm = model(composed, "gmm", "model.network.num_components=3", "model.network.num_features=5")
    images = torch.randint(256, (4, 1, 8, 8)) / 127.5 - 1
    torch.manual_seed(0)
    found = gmm.log_likelihood(images)
    torch.manual_seed(0)
    noisy = images + (torch.rand_like(images) - 0.5) * 2 / 255
    torch.testing.assert_close(found, gmm.ema.module.log_prob(noisy) + 64 * math.log(2 / 255))


def test_em_needs_steps_that_end(composed: Compose) -> None:
    for forgetting in (0.5, 1.5):
        with pytest.raises(UserError, match="forgetting"):
            model(composed, "gmm", f"model.forgetting={forgetting}")


@pytest.mark.parametrize("prior", ["gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "image_transformer", "pixelrnn"])
def test_any_network_of_the_past_is_a_prior_of_codes(composed: Compose, prior: str) -> None:
    built = model(
        composed,
        "vq_vae",
        "model.network.width=8",
        f"network@model.prior_network.network={prior}",
        "model.prior_network.network.width=8",
    )
    assert type(built.prior.network.network).__name__.lower() == prior.replace("_", "")
    assert built.prior.distribution.num_levels == built.num_codes
    labels = torch.tensor([1, 2])
    assert built.sample(2, labels).shape == (2, 1, 8, 8)
    images = torch.randint(256, (2, 1, 8, 8)) / 127.5 - 1
    built.progress = 1.0
    assert built.losses(images, labels)["loss"].item() == pytest.approx(6, abs=0.5)  # bits of a code among 64


@pytest.mark.parametrize(
    ("name", "part"), [("vae", "likelihood"), ("vq_vae", "likelihood"), ("pixelcnn", "distribution")]
)
@pytest.mark.parametrize("model_levels", [2, 256])
def test_a_likelihood_of_other_pixels_is_refused(composed: Compose, name: str, part: str, model_levels: int) -> None:
    built = model(composed, name, f"model.{part}.num_levels={model_levels}")
    for data_levels in (2, 256):
        built._trainer = SimpleNamespace(datamodule=SimpleNamespace(num_levels=data_levels, name="mine"))
        refused = pytest.raises(MismatchError, match=f"one of {model_levels} levels, but the pixels of mine have")
        with nullcontext() if data_levels == model_levels else refused:
            built.setup("fit")


def test_every_likelihood_fits_black_and_white_pixels(composed: Compose) -> None:
    cfg = composed("model=vae", "data=binarized_mnist", "run_dir=unused")
    assert build(cfg.model, "model").num_levels == build(cfg.data, "data").num_levels == 2
