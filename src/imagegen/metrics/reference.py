"""Statistics of real images, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pooch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imagegen.data.module import Splits
from imagegen.metrics.accuracy import VERSION as ACCURACY_VERSION
from imagegen.metrics.accuracy import classification_accuracy
from imagegen.metrics.features import FeatureNetwork, extract
from imagegen.metrics.frechet import covariance_factor, mean_and_covariance
from imagegen.metrics.manifold import neighbour_radii
from imagegen.metrics.memorization import nearest

CACHE_VARIABLE = "IMAGEGEN_CACHE_DIR"
FORMAT = 2  # of the files; to be raised when what they hold changes


class Reference:
    """What scores need to know of the real images: features, moments, distances between the splits.

    Everything is computed at its first use and kept under a key of the images, the split, the feature network and the
    preprocessing. A damaged file is made anew, with a word. `folder=None` keeps nothing.
    """

    def __init__(self, features: FeatureNetwork, splits: Splits, split: str, folder: Path | None = None) -> None:
        self.network = features
        self.splits = splits
        self.split = split
        self.images, self.labels = splits[split]
        self.folder = folder
        self._digests: dict[str, str] = {}
        self._memory: dict[str, dict[str, Tensor]] = {}

    @property
    def num_classes(self) -> int:
        """Of the labels of all splits."""
        return 1 + max(int(labels.max()) for _, labels in self.splits.values())

    @property
    def device(self) -> torch.device:
        """Where the feature network is."""
        return next(self.network.parameters()).device

    def features(self, split: str | None = None) -> Tensor:
        """Features (N, D) of the images of a split, by default that of the scores."""
        return self._extracted(split or self.split)["features"]

    def logits(self) -> Tensor:
        """Logits (N, num_classes)."""
        return self._extracted(self.split)["logits"]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and factor of the covariance (D, R), float64."""
        content = self._cached("moments", [self.split], self._moments)
        return content["mean"], content["factor"]

    def radii(self, k: int) -> Tensor:
        """Distance (N,) of each of the features to its k-th nearest neighbour among the others."""
        content = self._cached(f"radii{k}", [self.split], lambda: {"radii": neighbour_radii(self.features(), k)})
        return content["radii"]

    def held_out_distances(self, space: str) -> Tensor:
        """Distance (N,) of each image of the split to its nearest training image, in "pixels" or "features"."""

        def measure() -> dict[str, Tensor]:
            if space == "pixels":
                train_images = self.splits["train"][0].to(self.device)
                return {"distances": nearest(self.images.to(self.device), train_images)[0]}
            return {"distances": nearest(self.features(), self.features("train"))[0]}

        return self._cached(f"held_out_{space}", [self.split, "train"], measure)["distances"]

    def some_of_train(self, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
        """At most `num_images` training images and their labels, on the device, chosen by the seed."""
        images, labels = self.splits["train"]
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:num_images]
        return images[rows].to(self.device), labels[rows].to(self.device)

    def classification_accuracy(self, num_images: int, seed: int) -> float:
        """What `some_of_train` give in place of samples."""

        def train() -> dict[str, Tensor]:
            images, labels = self.some_of_train(num_images, seed)
            value = classification_accuracy(images, labels, self.images, self.labels, self.num_classes, seed)[0]
            return {"accuracy": torch.tensor(value, dtype=torch.float64)}

        what = f"accuracy_{ACCURACY_VERSION}_{num_images}_{seed}"
        return float(self._cached(what, ["train", self.split], train)["accuracy"])

    def _extracted(self, split: str) -> dict[str, Tensor]:
        def run() -> dict[str, Tensor]:
            features, logits = extract(self.network, self.splits[split][0])
            return {"features": features, "logits": logits}

        return self._cached("features", [split], run)

    def _moments(self) -> dict[str, Tensor]:
        mean, covariance = mean_and_covariance(self.features())
        return {"mean": mean, "factor": covariance_factor(covariance)}

    def _cached(self, what: str, splits: list[str], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        key = self._key(what, splits)
        if key not in self._memory:
            path = None if self.folder is None else self.folder / f"{what}-{key[:32]}.safetensors"
            content = None if path is None else _read(path, key)
            if content is None:
                content = compute()
                if path is not None:
                    self._write(path, {name: value.cpu().contiguous() for name, value in content.items()}, key)
            self._memory[key] = {name: value.to(self.device) for name, value in content.items()}
        return self._memory[key]

    def _write(self, path: Path, content: dict[str, Tensor], key: str) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(content, temporary, metadata={"key": key})
            temporary.replace(path)
        except OSError as error:  # a full or read-only disk only costs time
            with suppress(OSError):
                temporary.unlink()
            print(f"cannot keep the statistics of the real images in {path.parent}: {error.strerror or error}")

    def _key(self, what: str, splits: list[str]) -> str:
        about = [
            FORMAT,
            what,
            self.network.sha256,
            self.network.preprocessing,
            [(split, len(self.splits[split][0]), self.digest(split)) for split in splits],
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def digest(self, split: str) -> str:
        """sha256 of the images and labels of a split."""
        if split not in self._digests:
            self._digests[split] = data_hash(*self.splits[split])
        return self._digests[split]


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        pass
    print(f"the cached statistics {path} are damaged: made anew")
    return None


def data_hash(images: Tensor, labels: Tensor) -> str:
    """sha256 of uint8 images and their labels."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.cpu().contiguous().numpy().data)
    digest.update(labels.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def default_folder() -> Path:
    """The folder given by the environment variable IMAGEGEN_CACHE_DIR, or one in the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("imagegen")) / "references"
