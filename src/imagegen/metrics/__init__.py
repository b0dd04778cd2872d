"""Scores of generated images: feature networks, distances, precision and recall, classes, memorisation."""

from imagegen.metrics.classes import ClassCoverage
from imagegen.metrics.features import FeatureSource
from imagegen.metrics.frechet import FrechetDistance
from imagegen.metrics.kernel import KernelDistance
from imagegen.metrics.manifold import PrecisionRecall
from imagegen.metrics.memorization import Memorization

__all__ = ["ClassCoverage", "FeatureSource", "FrechetDistance", "KernelDistance", "Memorization", "PrecisionRecall"]
