"""Autoregressive models: an exact likelihood, and samples that depend on their seeds alone."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from imagegen.models.autoregressive import Autoregressive
from imagegen.networks.gated_pixelcnn import GatedPixelCNN
from imagegen.networks.image_transformer import ImageTransformer
from imagegen.networks.pixelcnn import PixelCNN
from imagegen.networks.pixelcnn_pp import PixelCNNPP
from imagegen.networks.pixelrnn import PixelRNN
from imagegen.networks.pixelsnail import PixelSNAIL
from imagegen.objectives.lr_schedules import constant
from imagegen.objectives.pixel_distributions import Categorical, LogisticMixture, PixelDistribution

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "pixelcnn": partial(PixelCNN, width=12, num_blocks=2),
    "gated_pixelcnn": partial(GatedPixelCNN, width=6, num_layers=2),
    "pixelsnail": partial(PixelSNAIL, width=6, num_blocks=1, head_dim=4),
    "pixelcnn_pp": partial(PixelCNNPP, width=4),
    "image_transformer": partial(ImageTransformer, width=8, num_blocks=1, head_dim=4),
    "pixelrnn": partial(PixelRNN, width=5, num_layers=1),
}


def build(
    image_shape: tuple[int, int, int],
    num_classes: int | None = None,
    dtype: torch.dtype = torch.float64,
    name: str = "pixelcnn",
    distribution: PixelDistribution | None = None,
) -> Autoregressive:
    """A small model in which every weight matters."""
    torch.manual_seed(0)
    network = partial(NETWORKS[name], image_shape, num_classes)
    distribution = distribution or Categorical()
    optimizer = partial(torch.optim.AdamW, fused=True)
    model = Autoregressive(network, image_shape, num_classes, distribution, 1e-3, optimizer, constant, 1000.0)
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.ema.module.load_state_dict(model.network.state_dict())
    return model.to(dtype)


def random_images(num_images: int, image_shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (num_images, *image_shape), generator=generator).to(dtype) / 127.5 - 1


@pytest.mark.parametrize(("image_shape", "num_classes"), [((1, 1, 2), None), ((1, 2, 1), 3), ((2, 1, 1), None)])
def test_probabilities_of_all_images_sum_to_one(image_shape: tuple[int, int, int], num_classes: int | None) -> None:
    model = build(image_shape, num_classes, torch.float32)
    levels = torch.arange(256.0) / 127.5 - 1
    images = torch.cartesian_prod(levels, levels).view(-1, *image_shape)  # all 65536 images of two values
    labels = None if num_classes is None else torch.full((len(images),), 2)
    assert model.log_likelihood(images, labels).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_log_likelihood_is_the_sum_of_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build((3, 3, 4), num_classes=2)
    images, labels = random_images(2, (3, 3, 4)), torch.tensor([1, 0])
    log_probs = model.network(images, labels).log_softmax(dim=1)
    expected = torch.zeros(2, dtype=torch.float64)
    for n, c, i, j in itertools.product(range(2), range(3), range(3), range(4)):
        level = round((images[n, c, i, j].item() + 1) * 127.5)
        expected[n] += log_probs[n, level, c, i, j].detach()
    torch.testing.assert_close(model.log_likelihood(images, labels), expected)
    monkeypatch.setattr("imagegen.models.autoregressive.MAX_VALUES", 40)  # one image at a time
    torch.testing.assert_close(model.log_likelihood(images, labels), expected)
    bits = -expected.mean() / (3 * 3 * 4 * math.log(2))
    assert model.losses(images, labels)["loss"].item() == pytest.approx(bits.item(), rel=1e-5)
    evaluation = model.evaluation_losses(images, labels)
    assert evaluation["bits_per_dim"].item() == pytest.approx(bits.item(), rel=1e-5)


def test_the_loss_under_autocast_is_close() -> None:
    model = build((3, 8, 8), dtype=torch.float32)
    images, labels = random_images(4, (3, 8, 8), torch.float32), torch.zeros(4, dtype=torch.long)
    expected = model.losses(images, labels)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(images, labels)["loss"]
        likelihood = model.log_likelihood(images)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert loss.dtype == torch.float32
    assert torch.equal(likelihood, model.log_likelihood(images))  # evaluation is never in bf16


def naive_samples(model: Autoregressive, seeds: range) -> tuple[Tensor, Tensor]:
    """Images drawn by a whole pass for each group, and how close each draw was to another level (N,)."""
    distribution, network = model.distribution, model.ema.module
    channels, height, width = model.image_shape
    labels, uniforms = model.sample_labels(seeds, None), model._uniforms(seeds)
    images = torch.zeros(len(seeds), *model.image_shape, dtype=torch.float64)
    nearest = torch.full((len(seeds),), torch.inf, dtype=torch.float64)
    size = channels // model.num_groups
    for i, j, g in itertools.product(range(height), range(width), range(model.num_groups)):
        parameters = network(images, labels)[:, :, g, i, j].detach()
        u = uniforms[:, g, :, i, j]
        if isinstance(distribution, Categorical):
            gaps = (parameters.softmax(1).cumsum(1) - u).abs().min(1).values
            nearest = torch.minimum(nearest, gaps)
        images[:, g * size : (g + 1) * size, i, j] = distribution.draw(parameters, u, 1.0).double()
    return images, nearest


@pytest.mark.parametrize(
    "distribution", [Categorical(), Categorical(2), LogisticMixture(3)], ids=lambda d: type(d).__name__
)
@pytest.mark.parametrize(("image_shape", "num_classes"), [((1, 8, 5), None), ((3, 4, 4), 4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_cached_samples_are_those_of_full_passes(
    name: str, image_shape: tuple[int, int, int], num_classes: int | None, distribution: PixelDistribution
) -> None:
    model = build(image_shape, num_classes, name=name, distribution=distribution)
    images, nearest = naive_samples(model, range(5, 9))
    drawn = model.draw(range(5, 9), None)
    near_ties = int((nearest < 1e-12).sum())
    assert near_ties == 0, f"{near_ties} near-ties: their images may differ"
    assert torch.equal(drawn.double(), images.float().double())  # bit for bit


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tiny_model_draws_all_16_pictures_as_often_as_it_says(name: str) -> None:
    model = build((1, 2, 2), None, torch.float32, name, Categorical(2))
    pictures = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).view(16, 1, 2, 2)
    probabilities = model.log_likelihood(pictures).double().exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = model.sample(20_000, batch_size=20_000).flatten(1)
    codes = ((drawn > 0) * torch.tensor([8, 4, 2, 1])).sum(1)
    shares = torch.bincount(codes, minlength=16) / len(drawn)
    deviations = (shares - probabilities) / (probabilities * (1 - probabilities) / len(drawn)).sqrt()
    assert deviations.abs().max() < 4


def test_samples_depend_on_neither_batch_nor_global_state() -> None:
    model = build((1, 5, 5), num_classes=3)
    images = model.sample(7, seed=2)
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(model.sample(7, seed=2, batch_size=3), images)
    torch.manual_seed(99)
    assert torch.equal(model.sample(4, seed=5), images[3:])
    assert not torch.equal(model.sample(7, seed=3), images)


def test_temperature_sharpens() -> None:
    model = build((1, 4, 4))
    cold = model.sample(8, temperature=1e-3)
    assert torch.equal(cold[0], cold[1])  # almost the mode
    assert model.log_likelihood(cold.double()).mean() > model.log_likelihood(model.sample(8).double()).mean()
    with pytest.raises(ValueError, match="temperature"):
        model.sample(1, temperature=0.0)


def test_complete_keeps_the_known_pixels() -> None:
    model = build((3, 4, 4), num_classes=2)
    images = random_images(3, (3, 4, 4), torch.float32)
    known = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    known[:, :, :2] = True
    completed = model.complete(images, known, seed=4)
    kept = known.expand_as(images)
    assert torch.equal(completed[kept], images[kept])
    assert not torch.equal(completed[~kept], images[~kept])
    assert torch.equal(model.complete(images, known, seed=4), completed)
    nothing_known = torch.zeros_like(known)
    torch.testing.assert_close(model.complete(images, nothing_known, seed=4), model.sample(3, seed=4))


def test_what_cannot_be_completed_is_refused() -> None:
    model = build((1, 4, 4), distribution=Categorical(2))
    images, known = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    known[:, :, :2] = True
    assert model.complete(images, known).shape == (2, 1, 4, 4)
    for bad_images, bad_known, words in [
        (images, torch.ones_like(known), "no pixel to complete"),
        (images, known[:1], "known must be boolean"),
        (images[:, :, :3], known, r"images must be \(1, 4, 4\), got \(1, 3, 4\)"),
        (images.expand(2, 3, 4, 4), known, r"images must be \(1, 4, 4\), got \(3, 4, 4\)"),
        (images * 0.5, known, "2 levels"),
        (images * 3, known, "outside"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.complete(bad_images, bad_known)
    model.complete(torch.where(known, images, 0.5), known)  # what is not known may be anything


def test_values_between_the_levels_are_refused() -> None:
    model = build((1, 4, 4), distribution=Categorical(2))
    with pytest.raises(ValueError, match="pixels must lie at one of 2 levels"):
        model.log_likelihood(random_images(2, (1, 4, 4)))


def test_wrong_labels_are_refused() -> None:
    model = build((1, 3, 3), num_classes=2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        model.sample(1, torch.tensor([2]))
    with pytest.raises(ValueError, match="without labels"):
        build((1, 3, 3)).sample(1, torch.tensor([0]))
    with pytest.raises(IndexError):
        model.log_likelihood(random_images(1, (1, 3, 3)), torch.tensor([2]))
