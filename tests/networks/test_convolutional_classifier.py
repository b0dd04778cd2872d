from __future__ import annotations

import pytest
import torch

from imagegen.networks.convolutional_classifier import ConvolutionalClassifier


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 4, 6)])
def test_logits_and_gradients(image_shape: tuple[int, int, int]) -> None:
    network = ConvolutionalClassifier(image_shape, num_classes=5, width=4)
    logits = network(torch.rand(8, *image_shape) * 2 - 1)
    assert logits.shape == (8, 5)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_images_that_cannot_be_folded_are_refused() -> None:
    with pytest.raises(ValueError, match="28x17 must be even"):
        ConvolutionalClassifier((1, 28, 17), num_classes=5, width=4)
