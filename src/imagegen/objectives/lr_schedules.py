"""Learning-rate factors as functions of progress, the used share of the training budget in [0, 1]."""

import math


def constant(progress: float) -> float:
    """Factor 1 throughout."""
    return 1.0


def cosine(progress: float, warmup: float = 0.02) -> float:
    """Rise linearly to 1 during the share `warmup` of the budget, then fall to 0 along half a cosine."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1.0 + math.cos(math.pi * min((progress - warmup) / max(1.0 - warmup, 1e-9), 1.0)))


def linear_decay(progress: float, start: float = 0.5) -> float:
    """Factor 1 until progress `start`, then a straight line to 0."""
    return 1.0 if progress <= start else max(1.0 - progress, 0.0) / max(1.0 - start, 1e-9)
