"""The Inception network of published FIDs, an extra: pip install "imagegen[inception]"."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from imagegen.data.module import to_uint8
from imagegen.metrics.features import FeatureError, FeatureNetwork

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"


class InceptionFeatures(FeatureNetwork):
    """InceptionV3 of 2015 as torch-fidelity builds it: pooled features (N, 2048), logits (N, 1008) without bias.

    Images are rounded to uint8 here, grey ones are repeated over three channels, and the network resizes them to
    299x299 as TensorFlow 1 did, without antialiasing: the published protocol.
    """

    preprocessing = "uint8, 299x299 as TensorFlow 1"

    def __init__(self, weights: str | Path | None = None, sha256: str = SHA256) -> None:
        """Read the weights from a path, or from the caches where torch-fidelity and torch.hub keep them.

        Raises:
            FeatureError: torch-fidelity is not installed, or the file is missing, or another one.

        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not match torch
            reason = str(error).splitlines()[0]
            raise FeatureError(
                f"the Inception network needs torch-fidelity ({reason}): pip install 'imagegen[inception]'"
            ) from None
        path = find_weights(weights)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise FeatureError(f"{path} has sha256 {found[:16]}..., expected {sha256[:16]}...; nothing was loaded")
        with tempfile.TemporaryDirectory() as folder:
            # torch-fidelity would unpickle anything: it gets a copy of the tensors that were read safely.
            copy = Path(folder) / FILE_NAME
            torch.save(torch.load(path, map_location="cpu", weights_only=True), copy)
            network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(copy))
        super().__init__(network, "inception", found, float("nan"), 2048, 1008, image_shape=None)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and logits (N, 1008) of images (N, 1 or 3, H, W) in [-1, 1]."""
        if images.shape[1] not in (1, 3):
            raise FeatureError(f"the Inception network takes grey or RGB images, got {images.shape[1]} channels")
        features, logits = self.network(to_uint8(images).expand(-1, 3, -1, -1))
        return features, logits


def find_weights(weights: str | Path | None) -> Path:
    """The file given, or else the first found in the usual caches. Raises FeatureError."""
    if weights is not None:
        if not Path(weights).is_file():
            raise FeatureError(f"no Inception weights at {weights} (metrics.features.weights)")
        return Path(weights)
    hub = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    for name in (FILE_NAME, FILE_NAME.replace("weights-inception", "pt_inception")):
        if (hub / name).is_file():
            return hub / name
    raise FeatureError(f"no Inception weights: put {ADDRESS} into {hub}, or give metrics.features.weights=PATH")
