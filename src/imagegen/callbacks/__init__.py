"""What happens around training: budget, progress, scores, pictures, checkpoints."""

from imagegen.callbacks.budget import Budget
from imagegen.callbacks.checkpoints import BestAndLast
from imagegen.callbacks.export_classifier import ExportClassifier
from imagegen.callbacks.generation_metrics import GenerationMetrics
from imagegen.callbacks.progress import Progress
from imagegen.callbacks.sample_grid import SampleGrid
from imagegen.callbacks.training_doctor import TrainingDoctor

__all__ = ["BestAndLast", "Budget", "ExportClassifier", "GenerationMetrics", "Progress", "SampleGrid", "TrainingDoctor"]
