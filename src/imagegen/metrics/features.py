"""Feature networks: the classifiers whose features and class probabilities stand in for the Inception network's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imagegen.data.module import from_uint8
from imagegen.networks.residual_classifier import ResidualClassifier

WEIGHTS = Path(__file__).parent / "weights"


class FeatureError(RuntimeError):
    """A feature network is missing, damaged or does not fit the images."""


class FeatureNetwork(nn.Module):
    """A trained classifier, frozen, with what a score must say about it.

    Attributes: `name`, `sha256` of its file, `accuracy` on its test split, `feature_dim`, `num_classes`, `image_shape`
    (None: any), and the `preprocessing` of images between their 8 bits and the network.
    """

    preprocessing = "none"

    def __init__(
        self,
        network: nn.Module,
        name: str,
        sha256: str,
        accuracy: float,
        feature_dim: int,
        num_classes: int,
        image_shape: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.sha256 = sha256
        self.accuracy = accuracy
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.image_shape = image_shape

    def check_shape(self, image_shape: tuple[int, ...]) -> None:
        """Refuse images (C, H, W) of another shape. Raises FeatureError."""
        if self.image_shape is not None and image_shape != self.image_shape:
            raise FeatureError(
                f"feature network '{self.name}' takes images of shape {self.image_shape}, got {image_shape};"
                " choose another with metrics/features="
            )

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, num_classes) of images (N, C, H, W), 8-bit levels scaled to [-1, 1]."""
        self.check_shape(tuple(images.shape[1:]))
        features = self.network.features(images)  # type: ignore[operator]
        return features, self.network.logits(features)  # type: ignore[operator]


def extract(network: FeatureNetwork, images: Tensor, batch_size: int = 100) -> tuple[Tensor, Tensor]:
    """Features (N, D) and logits (N, num_classes) of uint8 images (N, C, H, W), on the device of the network."""
    device = next(network.parameters()).device
    batches = [network(from_uint8(batch.to(device))) for batch in torch.split(images, batch_size)]
    return torch.cat([features for features, _ in batches]), torch.cat([logits for _, logits in batches])


class FeatureSource:
    """Where the feature network comes from, loaded when the data set is known.

    `source`: `auto` (the bundled network of the data set at hand), the name of a bundled one, `inception`, the path of
    a classifier.safetensors, or null for no scores. `weights`: the file of the Inception network.
    """

    def __init__(self, source: str | None = "auto", weights: str | None = None) -> None:
        self.source = source
        self.weights = weights

    def load(
        self, data_name: str, num_classes: int, image_shape: tuple[int, ...] | None = None
    ) -> FeatureNetwork | None:
        """The network, or None where there is none to be had. Raises FeatureError."""
        if self.source is None or (self.source == "auto" and data_name not in bundled_features()):
            return None
        if self.source == "inception":
            from imagegen.metrics.inception import InceptionFeatures

            return InceptionFeatures(self.weights)
        network = load_features(data_name if self.source == "auto" else self.source)
        if network.num_classes != num_classes:
            raise FeatureError(
                f"feature network '{network.name}' knows {network.num_classes} classes, data '{data_name}' has"
                f" {num_classes}; choose another with metrics/features="
            )
        if image_shape is not None:
            network.check_shape(image_shape)
        return network


def bundled_features() -> list[str]:
    """The names of the feature networks that come with the package: those of data sets."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load_features(source: str) -> FeatureNetwork:
    """A bundled feature network by name (that of its data set), or one by the path of its safetensors file.

    Bundled files are checked against their sha256. Raises FeatureError in one line.
    """
    bundled = bundled_features()
    path = WEIGHTS / f"{source}.safetensors" if source in bundled else Path(source)
    if not path.is_file():
        raise FeatureError(
            f"no feature network '{source}': bundled are {', '.join(bundled)}; train one with"
            " `python train.py model=classifier` and give metrics.features.source=<run folder>/classifier.safetensors"
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if source in bundled and sha256 != _recorded_sha256(path.name):
        raise FeatureError(f"{path} is damaged (its sha256 is not the recorded one); reinstall imagegen")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["imagegen"])
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        network = ResidualClassifier(**about["network"])
        network.load_state_dict(state)
        return FeatureNetwork(
            network,
            source,
            sha256,
            about["accuracy"],
            network.feature_dim,
            network.num_classes,
            network.image_shape,
        )
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FeatureError(f"{path} is not a feature network of this project: {reason}") from error


def save_features(network: ResidualClassifier, accuracy: float, path: Path) -> None:
    """Write a trained classifier as one safetensors file (16-bit weights) that says how to rebuild it."""
    about = {
        "network": {
            "image_shape": network.image_shape,
            "num_classes": network.num_classes,
            "width": network.width,
            "feature_dim": network.feature_dim,
        },
        "accuracy": accuracy,
    }
    state = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
    save_file(state, path, metadata={"imagegen": json.dumps(about)})


def _recorded_sha256(name: str) -> str | None:
    for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines():
        digest, recorded_name = line.split()
        if recorded_name == name:
            return digest
    return None
