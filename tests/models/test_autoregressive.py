"""The PixelCNN model: an exact likelihood, and samples that depend on their seeds alone."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

from imagegen.models.autoregressive import Autoregressive
from imagegen.networks.pixelcnn import PixelCNN as Network
from imagegen.objectives.lr_schedules import constant
from imagegen.objectives.pixel_distributions import Categorical, inverse_cdf


def build(
    image_shape: tuple[int, int, int], num_classes: int | None = None, dtype: torch.dtype = torch.float64
) -> Autoregressive:
    torch.manual_seed(0)
    network = partial(Network, image_shape, num_classes, width=12, num_blocks=2)
    optimizer = partial(torch.optim.AdamW, fused=True)
    model = Autoregressive(network, image_shape, num_classes, Categorical(), 1e-3, optimizer, constant, 1000.0)
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


@pytest.mark.parametrize(("image_shape", "num_classes"), [((1, 6, 5), None), ((3, 3, 4), 4)])
def test_cached_samples_are_those_of_full_passes(image_shape: tuple[int, int, int], num_classes: int | None) -> None:
    model = build(image_shape, num_classes)
    seeds = range(5, 8)
    labels = model.sample_labels(seeds, None)
    uniforms = model.uniforms(seeds, image_shape)
    images = torch.zeros(3, *image_shape, dtype=torch.float64)
    for i, j, c in itertools.product(range(image_shape[1]), range(image_shape[2]), range(image_shape[0])):
        logits = model.network(images, labels)[:, :, c, i, j].detach()
        images[:, c, i, j] = inverse_cdf(logits, uniforms[:, c, i, j]) / 127.5 - 1
    torch.testing.assert_close(model.sample(3, seed=5).double(), images, rtol=0, atol=1e-6)


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


def test_wrong_labels_are_refused() -> None:
    model = build((1, 3, 3), num_classes=2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        model.sample(1, torch.tensor([2]))
    with pytest.raises(ValueError, match="without labels"):
        build((1, 3, 3)).sample(1, torch.tensor([0]))
    with pytest.raises(IndexError):
        model.log_likelihood(random_images(1, (1, 3, 3)), torch.tensor([2]))


def test_inverse_cdf_by_hand() -> None:
    logits = torch.tensor([0.2, 0.0, 0.3, 0.5]).log().expand(6, 4)
    uniforms = torch.tensor([0.1, 0.199, 0.201, 0.49, 0.51, 1 - 2**-24])
    assert inverse_cdf(logits, uniforms).tolist() == [0, 0, 2, 2, 3, 3]
    many = inverse_cdf(torch.zeros(10_000, 256), torch.rand(10_000, generator=torch.Generator().manual_seed(0)))
    assert many.min() >= 0
    assert many.max() <= 255
    assert many.float().mean().item() == pytest.approx(127.5, abs=3)
