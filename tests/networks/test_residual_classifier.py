from __future__ import annotations

import pytest
import torch

from imagegen.networks.residual_classifier import ResidualClassifier

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
Shape = tuple[int, int, int]


def classifier(image_shape: Shape, dropout: float = 0.0) -> ResidualClassifier:
    return ResidualClassifier(image_shape, num_classes=5, width=8, feature_dim=6, dropout=dropout)


@pytest.mark.parametrize("image_shape", SHAPES)
def test_features_and_logits(image_shape: Shape) -> None:
    network = classifier(image_shape)
    images = torch.rand(4, *image_shape) * 2 - 1
    features = network.features(images)
    assert features.shape == (4, 6)
    logits = network(images)
    assert logits.shape == (4, 5)
    torch.testing.assert_close(network.logits(features), logits)
    assert features.std(0).min() > 1e-4, "features tell images apart"


@pytest.mark.parametrize("image_shape", SHAPES)
def test_every_parameter_gets_a_gradient(image_shape: Shape) -> None:
    network = classifier(image_shape)
    network(torch.rand(8, *image_shape) * 2 - 1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("training", [True, False])
def test_rows_of_a_batch_do_not_influence_each_other(training: bool) -> None:
    network = classifier((1, 8, 8)).train(training)
    images = torch.randn(3, 1, 8, 8, requires_grad=True)
    logits = network(images)
    [gradient] = torch.autograd.grad(logits[1].sum(), images)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()
    torch.testing.assert_close(network(images[1:2]), logits[1:2], atol=1e-5, rtol=1e-4)


def test_dropout_acts_on_logits_in_training_only() -> None:
    network = classifier((1, 8, 8), dropout=0.5)
    images = torch.randn(4, 1, 8, 8)
    assert not network.train()(images).equal(network(images))
    assert network.features(images).equal(network.features(images))
    assert network.eval()(images).equal(network(images))


@pytest.mark.parametrize("image_shape", [(1, 17, 17), (3, 32, 31)])
def test_sizes_that_cannot_be_folded_are_refused(image_shape: Shape) -> None:
    with pytest.raises(ValueError, match=f"{image_shape[1]}x{image_shape[2]}"):
        classifier(image_shape)


def test_it_learns_labels() -> None:
    network = classifier((1, 8, 8))
    images, labels = torch.randn(10, 1, 8, 8), torch.arange(10) % 5
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network(images).argmax(1) == labels).all()
