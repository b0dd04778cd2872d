from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagegen.data.module import from_uint8
from imagegen.metrics import accuracy
from imagegen.metrics.features import FeatureNetwork, extract
from imagegen.metrics.generation import GenerationScores, SampleError
from imagegen.metrics.reference import Reference
from imagegen.models.base import GenerativeModel
from imagegen.networks.residual_classifier import ResidualClassifier
from imagegen.objectives.lr_schedules import constant
from tests.forked import Process

FIRST_SEED = 40
NUM_REAL, NUM_SAMPLES = 130, 101


class KnownImages(GenerativeModel):
    """Draws row `seed - FIRST_SEED` of given uint8 images, and keeps the seeds that were asked for."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(nn.Linear(1, 1), images.shape[1:], 1e-3, torch.optim.SGD, constant, 1.0)
        self.images = images
        self.seeds: list[int] = []

    def draw(self, seeds: range, labels: Tensor | None, **options: Any) -> Tensor:
        self.seeds += list(seeds)
        return from_uint8(self.images[[seed - FIRST_SEED for seed in seeds]])


def random_images(num: int, seed: int, lowest: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lowest, 256, (num, 1, 8, 8), generator=generator, dtype=torch.uint8)


REAL, FAKE = random_images(NUM_REAL, 1), random_images(NUM_SAMPLES, 2, lowest=60)
TRAIN = random_images(200, 3)


def labels(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % 5


def make_reference(features: FeatureNetwork, real: Tensor = REAL, folder: Path | None = None) -> Reference:
    return Reference(features, {"train": (TRAIN, labels(TRAIN)), "test": (real, labels(real))}, "test", folder)


def make_features() -> FeatureNetwork:
    torch.manual_seed(0)
    network = ResidualClassifier((1, 8, 8), num_classes=5, width=8, feature_dim=6)
    with torch.no_grad():  # a new head is sure of nothing, and a score of about 1 would show little
        found = network.features(from_uint8(FAKE))
        network.head.weight.copy_(torch.randn(5, 6) / found.std(0))
        network.head.bias.copy_(-network.head.weight @ found.mean(0))
    return FeatureNetwork(network, "random", "0" * 64, 0.2, 6, 5, (1, 8, 8))


@pytest.fixture
def features() -> FeatureNetwork:
    return make_features()


@pytest.fixture
def scores(features: FeatureNetwork) -> GenerationScores:
    return GenerationScores(make_reference(features), FIRST_SEED)


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Heusel et al. 2017, eq. 6."""
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    offset = first.mean(0) - second.mean(0)
    return float(offset @ offset + np.trace(covariances[0] + covariances[1] - 2 * root))


def inception_score(logits: NDArray[np.float64]) -> float:
    """exp(E KL(p(y|x) || p(y))): Salimans et al. 2016, sec. 4."""
    probabilities = scipy.special.softmax(logits, axis=1)
    return float(np.exp(scipy.special.rel_entr(probabilities, probabilities.mean(0)).sum(1).mean()))


def numpy_features(features: FeatureNetwork, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found, logits = features(from_uint8(images))
    return found.double().numpy(), logits.double().numpy()


def test_fid_is_the_frechet_distance_of_the_features(features: FeatureNetwork, scores: GenerationScores) -> None:
    expected = frechet_distance(numpy_features(features, REAL)[0], numpy_features(features, FAKE)[0])
    assert scores.score(FAKE)["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_the_size_of_feature_batches_does_not_matter(features: FeatureNetwork, batch_size: int) -> None:
    for found, expected in zip(extract(features, FAKE, batch_size), extract(features, FAKE), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:std")  # of a single split
def test_inception_score_of_one_split_by_hand(
    features: FeatureNetwork, scores: GenerationScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "NUM_SPLITS", 1)
    expected = inception_score(numpy_features(features, FAKE)[1])
    assert expected > 1.1
    assert scores.score(FAKE)["inception_score"] == pytest.approx(expected, rel=1e-4)


def test_inception_score_is_the_mean_over_ten_splits(features: FeatureNetwork, scores: GenerationScores) -> None:
    values = scores.score(FAKE)
    torch.manual_seed(FIRST_SEED)
    logits = numpy_features(features, FAKE)[1][torch.randperm(NUM_SAMPLES).numpy()]
    splits = [inception_score(logits[rows]) for rows in torch.arange(NUM_SAMPLES).chunk(10)]
    assert len(splits) == 10
    assert values["inception_score"] == pytest.approx(np.mean(splits), rel=1e-4)
    assert values["inception_score_se"] == pytest.approx(np.std(splits, ddof=1) / math.sqrt(10), rel=1e-3)


def test_images_of_one_kind_have_an_inception_score_of_one(scores: GenerationScores) -> None:
    values = scores.score(FAKE[:1].expand(NUM_SAMPLES, -1, -1, -1))
    assert values["inception_score"] == pytest.approx(1.0, abs=1e-5)
    assert values["inception_score_se"] == pytest.approx(0.0, abs=1e-5)


def test_a_set_against_itself(features: FeatureNetwork) -> None:
    values = GenerationScores(make_reference(features, FAKE), FIRST_SEED).score(FAKE)
    assert values["fid"] < 1e-6
    assert values["kid"] < 0  # unbiased: the diagonal of a set with itself is counted between the sets only
    assert values["precision"] == values["recall"] == values["coverage"] == 1
    assert values["class_tv"] == 0


def test_training_images_are_caught_and_held_out_ones_are_not(scores: GenerationScores) -> None:
    copies = scores.score(TRAIN[:100])
    assert copies["copy_rate_pixels"] == copies["copy_rate_features"] == 1
    samples, neighbours = scores.neighbours or (REAL, FAKE)
    assert samples.equal(neighbours)
    assert scores.score(random_images(100, 9))["copy_rate_pixels"] < 0.1


def test_computing_again_gives_the_same_numbers(scores: GenerationScores) -> None:
    first = scores.score(FAKE, labels(FAKE))
    torch.rand(7)  # the second time finds another random state
    assert scores.score(FAKE, labels(FAKE)) == first
    assert scores.score(REAL) != first  # another set in between leaves nothing behind
    assert scores.score(FAKE, labels(FAKE)) == first


def test_seeds_count_up_from_the_given_one_and_ranks_share_them(scores: GenerationScores) -> None:
    model = KnownImages(FAKE)
    images, drawn_labels = scores.draw(model, NUM_SAMPLES)
    assert images.equal(FAKE)
    assert drawn_labels is None
    assert model.seeds == list(range(FIRST_SEED, FIRST_SEED + NUM_SAMPLES))


def _draw_and_score(rank: int, world_size: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    scores = GenerationScores(make_reference(make_features()), FIRST_SEED)
    model = KnownImages(FAKE)
    images, _ = scores.draw(model, NUM_SAMPLES, rank, world_size)
    torch.save((scores.score(images), model.seeds), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_share_the_drawing_and_find_the_scores_of_one(scores: GenerationScores, tmp_path: Path) -> None:
    processes = [Process(_draw_and_score, rank, 2, str(tmp_path), folder=tmp_path) for rank in range(2)]
    for ended in [process.wait() for process in processes]:
        assert ended.returncode == 0, ended.output
    expected = scores.score(scores.draw(KnownImages(FAKE), NUM_SAMPLES)[0])
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert found[0][1] + found[1][1] == list(range(FIRST_SEED, FIRST_SEED + NUM_SAMPLES))
    assert abs(len(found[0][1]) - len(found[1][1])) <= 1
    for values, _ in found:
        assert values == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.fixture
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the classifier that measures the accuracy: how good it gets does not matter here."""
    monkeypatch.setattr(accuracy, "NUM_STEPS", 5)


@pytest.mark.usefixtures("_short_training")
def test_the_global_random_state_is_left_alone(features: FeatureNetwork) -> None:
    scores = GenerationScores(make_reference(features), FIRST_SEED, has_accuracy=True)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    scores.score(FAKE, labels(FAKE))
    assert torch.get_rng_state().equal(torch_state)
    after = np.random.get_state()
    assert all(np.array_equal(x, y) for x, y in zip(numpy_state, after, strict=True))


@pytest.mark.usefixtures("_short_training")
def test_accuracy_is_measured_only_where_there_are_labels(features: FeatureNetwork) -> None:
    scores = GenerationScores(make_reference(features), FIRST_SEED, has_accuracy=True)
    assert "classification_accuracy" not in scores.score(FAKE)
    assert 0 <= scores.score(FAKE, labels(FAKE))["classification_accuracy"] <= 1


def test_classes_of_another_data_set_are_not_counted() -> None:
    """As those of the Inception network, whose 1008 have nothing to do with the labels."""
    features = make_features()
    features.num_classes = 1008
    values = GenerationScores(make_reference(features), FIRST_SEED, is_full=False).score(FAKE, labels(FAKE))
    assert set(values) == {"fid", "fid_se", "inception_score", "inception_score_se"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(labels(FAKE) + 1, "go from 1 to 5, but the data have the classes 0 to 4", id="too large"),
        pytest.param(labels(FAKE) - 1, "go from -1 to 3", id="negative"),
        pytest.param(labels(FAKE).float(), "must be whole numbers, got torch.float32", id="floats"),
    ],
)
def test_labels_that_are_no_classes_are_refused(features: FeatureNetwork, wrong: Tensor, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        GenerationScores(make_reference(features), FIRST_SEED, has_accuracy=True).score(FAKE, wrong)


def test_validation_computes_the_cheap_ones_only(features: FeatureNetwork) -> None:
    values = GenerationScores(make_reference(features), FIRST_SEED, is_full=False).score(FAKE)
    cheap = {"fid", "inception_score", "class_tv", "diversity"}
    assert set(values) == cheap | {f"{name}_se" for name in cheap} | {"missing_classes"}


def test_every_score_but_counts_has_an_error(scores: GenerationScores) -> None:
    values = scores.score(FAKE, labels(FAKE))
    named = {name for name in values if not name.endswith("_se")}
    assert {f"{name}_se" for name in named - {"missing_classes"}} <= set(values)
    assert all(math.isfinite(value) for value in values.values())


def test_fewer_samples_than_dimensions_warn(features: FeatureNetwork, scores: GenerationScores) -> None:
    rows = extract(features, FAKE)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores._frechet(rows)
    with pytest.warns(UserWarning, match="mostly bias"):
        scores._frechet(rows[:6])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (FAKE.float(), "uint8"),
        (FAKE[:, :, :7], "shape"),
        (FAKE.expand(-1, 3, -1, -1), "shape"),
        (FAKE[:9], "at least 10"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores: GenerationScores, images: Tensor, words: str) -> None:
    with pytest.raises(SampleError, match=words):
        scores.score(images)


def test_the_protocol_names_what_the_scores_depend_on(scores: GenerationScores) -> None:
    protocol = scores.protocol(NUM_SAMPLES)
    assert protocol["num_real"] == NUM_REAL
    assert protocol["num_generated"] == NUM_SAMPLES
    assert protocol["reference"] == "test split"
    assert protocol["seed"] == FIRST_SEED
    assert len(protocol["reference_sha256"]) == 64
    assert (protocol["features"], protocol["features_sha256"], protocol["feature_dim"]) == ("random", "0" * 64, 6)
