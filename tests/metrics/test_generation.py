from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagegen.data.module import from_uint8
from imagegen.metrics.features import FeatureNetwork
from imagegen.metrics.generation import GenerationScores
from imagegen.models.base import GenerativeModel
from imagegen.networks.residual_classifier import ResidualClassifier
from imagegen.objectives.lr_schedules import constant

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


@pytest.fixture
def features() -> FeatureNetwork:
    network = ResidualClassifier((1, 8, 8), num_classes=5, width=8, feature_dim=6)
    with torch.no_grad():  # a new head is sure of nothing, and a score of about 1 would show little
        found = network.features(from_uint8(FAKE))
        network.head.weight.copy_(torch.randn(5, 6) / found.std(0))
        network.head.bias.copy_(-network.head.weight @ found.mean(0))
    return FeatureNetwork(network, "random", "0" * 64, 0.2)


@pytest.fixture
def scores(features: FeatureNetwork) -> GenerationScores:
    return GenerationScores(features, REAL, NUM_SAMPLES, FIRST_SEED)


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
    assert scores.compute(KnownImages(FAKE))["fid"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_the_size_of_feature_batches_does_not_matter(scores: GenerationScores, batch_size: int) -> None:
    expected = scores.compute(KnownImages(FAKE))
    other = GenerationScores(scores.features, REAL, NUM_SAMPLES, FIRST_SEED)
    other.BATCH_SIZE = batch_size
    assert other.compute(KnownImages(FAKE)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:std")  # of a single split
def test_inception_score_of_one_split_by_hand(features: FeatureNetwork, scores: GenerationScores) -> None:
    scores.inception_score.splits = 1
    expected = inception_score(numpy_features(features, FAKE)[1])
    assert expected > 1.1
    assert scores.compute(KnownImages(FAKE))["inception_score"] == pytest.approx(expected, rel=1e-4)


def test_inception_score_is_the_mean_over_ten_splits(features: FeatureNetwork, scores: GenerationScores) -> None:
    values = scores.compute(KnownImages(FAKE))
    torch.manual_seed(FIRST_SEED)
    logits = numpy_features(features, FAKE)[1][torch.randperm(NUM_SAMPLES).numpy()]
    splits = [inception_score(logits[rows]) for rows in torch.arange(NUM_SAMPLES).chunk(10)]
    assert len(splits) == 10
    assert values["inception_score"] == pytest.approx(np.mean(splits), rel=1e-4)
    assert values["inception_score_std"] == pytest.approx(np.std(splits, ddof=1), rel=1e-3)


def test_images_of_one_kind_have_an_inception_score_of_one(scores: GenerationScores) -> None:
    alike = FAKE[:1].expand(NUM_SAMPLES, -1, -1, -1)
    values = scores.compute(KnownImages(alike))
    assert values["inception_score"] == pytest.approx(1.0, abs=1e-5)
    assert values["inception_score_std"] == pytest.approx(0.0, abs=1e-5)


def test_the_distance_of_a_set_to_itself_is_zero(features: FeatureNetwork) -> None:
    values = GenerationScores(features, FAKE, NUM_SAMPLES, FIRST_SEED).compute(KnownImages(FAKE))
    far = GenerationScores(features, REAL, NUM_SAMPLES, FIRST_SEED).compute(KnownImages(FAKE))
    assert abs(values["fid"]) < 1e-6
    assert far["fid"] > 100 * abs(values["fid"])


def test_computing_again_gives_the_same_numbers(scores: GenerationScores) -> None:
    model = KnownImages(FAKE)
    first = scores.compute(model)
    torch.rand(7)  # the second time finds another random state
    assert scores.compute(model) == first
    # Another model in between leaves nothing behind.
    assert scores.compute(KnownImages(REAL[:NUM_SAMPLES])) != first
    assert scores.compute(model) == first


def test_seeds_count_up_from_the_given_one(scores: GenerationScores) -> None:
    model = KnownImages(FAKE)
    scores.compute(model)
    assert model.seeds == list(range(FIRST_SEED, FIRST_SEED + NUM_SAMPLES))


def test_the_global_random_state_is_left_alone(scores: GenerationScores) -> None:
    model = KnownImages(FAKE)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    scores.compute(model)
    assert torch.get_rng_state().equal(torch_state)
    after = np.random.get_state()
    assert all(np.array_equal(x, y) for x, y in zip(numpy_state, after, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_draw_the_images_of_one(features: FeatureNetwork, world_size: int) -> None:
    alone, model = GenerationScores(features, REAL, NUM_SAMPLES, FIRST_SEED), KnownImages(FAKE)
    alone.compute(model)
    ranks = [GenerationScores(features, REAL, NUM_SAMPLES, FIRST_SEED) for _ in range(world_size)]
    models = [KnownImages(FAKE) for _ in ranks]
    for rank, (scores, rank_model) in enumerate(zip(ranks, models, strict=True)):
        scores.compute(rank_model, rank, world_size)
    assert sum((rank_model.seeds for rank_model in models), []) == model.seeds
    # Their statistics of the real images add up to those of all real images, each counted once.
    for name in ("real_features_num_samples", "real_features_sum", "real_features_cov_sum"):
        total = sum(getattr(scores.fid, name) for scores in ranks)
        torch.testing.assert_close(total, getattr(alone.fid, name), rtol=1e-6, atol=1e-6)
    assert int(alone.fid.real_features_num_samples) == NUM_REAL


def test_the_protocol_names_what_the_scores_depend_on(scores: GenerationScores) -> None:
    protocol = scores.protocol("val")
    assert protocol["num_real"] == NUM_REAL
    assert protocol["num_generated"] == NUM_SAMPLES
    assert protocol["reference"] == "val split"
    assert protocol["seed"] == FIRST_SEED
    assert (protocol["features"], protocol["features_sha256"], protocol["feature_dim"]) == ("random", "0" * 64, 6)
