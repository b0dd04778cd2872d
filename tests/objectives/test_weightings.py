from __future__ import annotations

import pytest
import torch

from imagegen.objectives.noise_schedules import EDM, Cosine
from imagegen.objectives.parameterizations import Data, Noise, Parameterization, Preconditioned, Velocity
from imagegen.objectives.weightings import edm, min_snr, uniform

T = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


def snr_and_scale(kind: Parameterization) -> tuple[torch.Tensor, torch.Tensor]:
    return Cosine().log_snr(T).exp(), kind.coefficients(T, Cosine())[1]


def test_uniform_is_one() -> None:
    assert uniform(*snr_and_scale(Noise())).equal(torch.ones_like(T))


def test_min_snr_by_the_formulas_of_the_paper() -> None:
    """Hang et al. 2023, eq. 10 to 12, for each of the three outputs."""
    snr = Cosine().log_snr(T).exp()
    torch.testing.assert_close(min_snr(*snr_and_scale(Data())), snr.clamp(max=5))
    torch.testing.assert_close(min_snr(*snr_and_scale(Noise())), snr.clamp(max=5) / snr)
    # their v is the velocity over pi / 2
    of_velocity = min_snr(*snr_and_scale(Velocity())) * (torch.pi / 2) ** 2
    torch.testing.assert_close(of_velocity, snr.clamp(max=5) / (snr + 1))


def test_edm_weighs_preconditioned_outputs_alike() -> None:
    t = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64) / 80
    _, scale = Preconditioned(0.7).coefficients(t, EDM())
    weight = edm(EDM().log_snr(t).exp(), scale, 0.7)
    torch.testing.assert_close(weight, torch.ones_like(t))
    assert edm(EDM().log_snr(t).exp(), torch.ones_like(t), 0.7)[1].item() == pytest.approx(
        (0.25 + 0.49) / (0.5 * 0.7) ** 2
    )
