from __future__ import annotations

import pytest
import torch

from imagegen.networks.vector_quantizer import VectorQuantizedAutoencoder, VectorQuantizer


def test_each_vector_becomes_its_nearest_code() -> None:
    quantizer = VectorQuantizer(7, 3).eval()
    x = torch.randn(2, 3, 4, 5)
    vectors, codes, commitment = quantizer(x)
    flat = x.permute(0, 2, 3, 1).reshape(-1, 3)
    assert codes.flatten().equal(torch.cdist(flat, quantizer.codebook).argmin(1))
    torch.testing.assert_close(vectors, quantizer.look_up(codes))
    torch.testing.assert_close(commitment, (x - vectors).square().mean())


def test_gradients_pass_through_the_codes() -> None:
    quantizer = VectorQuantizer(7, 3).eval()
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    weights = torch.randn(2, 3, 4, 5)
    (quantizer(x).vectors * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)


def test_the_codebook_finds_the_centres_of_clusters() -> None:
    torch.manual_seed(0)
    centres = 10 * torch.randn(8, 2)
    quantizer = VectorQuantizer(24, 2).train()
    for _ in range(2000):
        x = centres[torch.randint(8, (64,))] + 0.01 * torch.randn(64, 2)
        quantizer(x[:, :, None, None])
    distances = torch.cdist(centres, quantizer.codebook).min(1).values
    assert distances.max() < 0.1, "dead codes were moved to where nobody was"


def test_evaluation_leaves_the_codebook_alone() -> None:
    quantizer = VectorQuantizer(7, 3).eval()
    before = quantizer.codebook.clone()
    quantizer(torch.randn(2, 3, 4, 5))
    assert quantizer.codebook.equal(before)


@pytest.mark.parametrize(
    ("image_shape", "grid"), [((1, 8, 8), (2, 2)), ((1, 28, 28), (7, 7)), ((3, 32, 32), (8, 8))], ids=str
)
def test_codes_stand_on_a_grid_of_a_quarter_of_the_size(
    image_shape: tuple[int, int, int], grid: tuple[int, int]
) -> None:
    network = VectorQuantizedAutoencoder(image_shape, 16, 4, 8, num_mixtures=2).eval()
    images = torch.randn(3, *image_shape)
    parameters, quantized = network(images)
    assert quantized.codes.shape == (3, *grid)
    assert network.encode(images).equal(quantized.codes)
    for found, expected in zip(network.decode(quantized.codes), parameters, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
