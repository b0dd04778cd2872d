from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from imagegen.networks.code_embedding import CodeNetwork
from imagegen.networks.gated_pixelcnn import GatedPixelCNN
from imagegen.networks.pixelcnn import PixelCNN

NETWORKS = [partial(PixelCNN, width=12, num_blocks=2), partial(GatedPixelCNN, width=6, num_layers=3)]
NUM_CODES, SHAPE = 5, (1, 4, 3)


def build(network: partial[nn.Module]) -> CodeNetwork:
    torch.manual_seed(0)
    built = CodeNetwork(partial(network, num_classes=2), SHAPE, dim=6, num_parameters=NUM_CODES).double()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def pictures(codes: Tensor) -> Tensor:
    return codes[:, None].double() / ((NUM_CODES - 1) / 2) - 1


CODES = torch.randint(NUM_CODES, (2, 4, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_sees_the_vector_of_each_code(network: partial[nn.Module]) -> None:
    built = build(network)
    vectors = built.embedding.weight[CODES].permute(0, 3, 1, 2)
    labels = torch.tensor([0, 1])
    assert torch.equal(built(pictures(CODES), labels), built.network(vectors, labels))


@pytest.mark.parametrize("network", NETWORKS)
def test_only_later_codes_depend_on_a_code(network: partial[nn.Module]) -> None:
    built, labels = build(network), torch.tensor([0, 1])
    logits = built(pictures(CODES), labels).flatten(3)  # (N, P, 1, H W)
    assert logits.shape == (2, NUM_CODES, 1, 12)
    changed = CODES.clone()
    changed[:, 2, 1] = (changed[:, 2, 1] + 1) % NUM_CODES
    place = 2 * 3 + 1
    other = built(pictures(changed), labels).flatten(3)
    assert torch.equal(other[..., : place + 1], logits[..., : place + 1])
    assert not torch.equal(other[..., place + 1], logits[..., place + 1])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_cache_says_what_whole_passes_say(network: partial[nn.Module]) -> None:
    built, labels = build(network).eval(), torch.tensor([0, 1])
    images = pictures(CODES)
    logits = built(images, labels)
    cache = built.start(2, labels)
    logits, images = logits[:, :, 0].permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)
    for row, col in cache.places:
        torch.testing.assert_close(cache.parameters(row, col, 0), logits[:, row, col], atol=1e-9, rtol=0)
        cache.write(row, col, 0, images[:, row, col])
