"""How far the variance of a step of an ancestral sampler is from the best, in bits per dimension.

The true step from x_t to an earlier time s, given the images, is normal with a mean linear in x_t and the images and
the variance small_t. The model's has the mean of the denoised images and a variance between small_t and large_t:

    log variance = share * log large_t + (1 - share) * log small_t     (Nichol & Dhariwal 2021, eq. 15)

Their divergence is a term of the variational bound (eq. 4).
"""

import math

import torch
from torch import Tensor

from imagegen.objectives.noise_schedules import NoiseSchedule
from imagegen.objectives.samplers import posterior_mean, posterior_variance, transition_variance


def variance_loss(
    images: Tensor, denoised: Tensor, share: Tensor, t: Tensor, schedule: NoiseSchedule, num_steps: int
) -> Tensor:
    """Divergence of the true step of 1 / num_steps from the model's, its mean left out of the gradient (eq. 16).

    Images and denoised (N, C, H, W), `share` (N, C, H, W) as the network says it, -1 to 1 being small_t to large_t.
    Steps that would pass t=0 stop half way.
    """
    earlier = torch.maximum(t - 1 / num_steps, t / 2)
    small = posterior_variance(t, earlier, schedule).log()
    large = transition_variance(t, earlier, schedule).log()
    share = 0.5 * (share + 1)
    log_variance = share * large + (1 - share) * small
    _, on_images = posterior_mean(t, earlier, schedule)
    error = (on_images * (images - denoised)).detach().square()
    ratio = torch.exp(small - log_variance)
    nats = 0.5 * (log_variance - small + ratio + error * torch.exp(-log_variance) - 1)
    return nats.mean() / math.log(2)
