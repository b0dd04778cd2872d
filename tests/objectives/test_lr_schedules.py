from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from imagegen.objectives.lr_schedules import constant, cosine, linear_decay

PROGRESS = [i / 1000 for i in range(1001)]


@pytest.mark.parametrize("schedule", [constant, cosine, linear_decay])
def test_factors_stay_between_zero_and_one(schedule: Callable[[float], float]) -> None:
    factors = [schedule(progress) for progress in PROGRESS]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1.0)
    assert factors[0] > 0, "the first step must not be lost"


def test_constant_is_one() -> None:
    assert {constant(progress) for progress in PROGRESS} == {1.0}


def test_cosine_rises_in_a_line_then_falls_along_half_a_cosine() -> None:
    assert cosine(0.05, warmup=0.1) == pytest.approx(0.5)
    assert cosine(0.1, warmup=0.1) == pytest.approx(1.0)
    assert cosine(0.55, warmup=0.1) == pytest.approx(0.5)
    assert cosine(0.1 + 0.9 / 3, warmup=0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert cosine(1.0, warmup=0.1) == pytest.approx(0.0, abs=1e-12)


def test_cosine_is_continuous_and_has_one_peak() -> None:
    factors = [cosine(progress, warmup=0.2) for progress in PROGRESS]
    steps = [after - before for before, after in zip(factors, factors[1:], strict=False)]
    assert max(map(abs, steps)) < 0.01
    assert all(step > 0 for step in steps[:200])
    assert all(step < 0 for step in steps[200:])


def test_cosine_without_warmup_starts_at_one() -> None:
    assert cosine(0.0, warmup=0.0) == 1.0
    assert cosine(0.5, warmup=0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [cosine, linear_decay])
def test_progress_past_the_end_leaves_the_factor_at_zero(schedule: Callable[[float], float]) -> None:
    assert schedule(1.01) == pytest.approx(0.0, abs=1e-12)


def test_linear_decay_is_one_then_a_line_to_zero() -> None:
    assert linear_decay(0.2, start=0.6) == 1.0
    assert linear_decay(0.6, start=0.6) == pytest.approx(1.0)
    assert linear_decay(0.7, start=0.6) == pytest.approx(0.75)
    assert linear_decay(0.9, start=0.6) == pytest.approx(0.25)
    assert linear_decay(1.0, start=0.6) == 0.0
    assert linear_decay(0.5, start=0.0) == pytest.approx(0.5)


def test_schedules_that_never_fall() -> None:
    assert linear_decay(0.5, start=1.0) == 1.0
    assert cosine(1.0, warmup=1.0) == 1.0
