"""Which noise goes with which image of a batch: functions of images, noise and, if there are any, labels.

Any pairing with the right marginals is right; one whose paths cross less is easier to learn and to follow in few steps.
"""

import torch
from torch import Tensor


def independent(images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
    """As they come."""
    return noise


def optimal_transport(images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
    """Noise (N, C, H, W) reordered so that the squared distances to its images are least in sum.

    Mini-batch optimal transport (Pooladian et al. 2023, arXiv:2304.14772), exact. With labels only within each class:
    otherwise the noise of a class would no longer be normally distributed, as it is when that class is drawn.
    """
    from scipy.optimize import linear_sum_assignment  # takes a third of a second

    groups = torch.zeros(len(images)) if labels is None else labels
    paired = noise.clone()
    for group in groups.unique():  # type: ignore[no-untyped-call]
        rows = (groups == group).nonzero()[:, 0]
        distances = torch.cdist(images[rows].flatten(1).float(), noise[rows].flatten(1).float())
        _, order = linear_sum_assignment(distances.square().cpu().numpy())
        paired[rows] = noise[rows[torch.as_tensor(order, device=rows.device)]]
    return paired
