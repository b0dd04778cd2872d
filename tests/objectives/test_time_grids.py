from __future__ import annotations

import pytest
import torch

from imagegen.objectives.noise_schedules import EDM
from imagegen.objectives.time_grids import karras, power, uniform


@pytest.mark.parametrize("grid", [uniform, karras, power])
@pytest.mark.parametrize("num_steps", [1, 2, 18])
def test_grids_fall_from_noise_to_data(grid: object, num_steps: int) -> None:
    assert callable(grid)
    times = grid(num_steps)
    assert times.shape == (num_steps + 1,)
    assert times[0] == pytest.approx(1.0)
    assert times[-1] == 0.0
    assert (times.diff() < 0).all()


def test_the_noise_levels_of_karras_et_al() -> None:
    sigmas = EDM().sigma(karras(18))
    assert sigmas[0].item() == pytest.approx(80.0)
    assert sigmas[-2].item() == pytest.approx(0.002)
    roots = sigmas[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(17))


def test_powers_shorten_towards_the_data() -> None:
    lengths = -power(10, 2.0).diff()
    assert (lengths.diff() < 0).all()
    assert power(4, 1.0).equal(uniform(4))
