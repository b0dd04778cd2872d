"""From a diffusion model to one that denoises at once: consistency tuning (Geng et al. 2024, arXiv:2406.14548).

The differential equation brings x_t, at whatever t, to one picture f(x_t, t). Two times t > r on the same line from an
image to its noise lie on nearly the same path if they are close, so that

    f(x_t, t)  is drawn to  f(x_r, r), held fixed,     with f(x_0, 0) = x_0

At r = 0 this is how a denoiser is trained; as r / t rises to 1, f becomes what the sampler would have needed many steps
for. What one run does in turn.
"""


def halving(progress: float, diffusion_share: float = 0.5, num_stages: int = 4) -> float:
    """The ratio r / t at that progress in [0, 1]: 0 for the first share, then in equal stages 1/2, 3/4, 7/8, ...."""
    if progress < diffusion_share:
        return 0.0
    stage = 1 + int((progress - diffusion_share) / (1 - diffusion_share) * num_stages)
    return 1.0 - 0.5 ** min(stage, num_stages)
