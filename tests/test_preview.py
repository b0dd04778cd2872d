from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig
from torch.utils._python_dispatch import _get_current_dispatch_mode

from imagegen.preview import Clock, preview

Compose = Callable[..., DictConfig]


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())


def test_what_a_run_would_cost(composed: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = composed("model=vae", "model.network.hidden=[16]", "run_dir=unused", "trainer.max_images=6400", "trainer=cpu")
    preview(cfg)
    found = {key.strip(): value.strip() for key, value in rows(capsys).items()}
    # three times two operations per weight: forward, gradients of inputs (but those of the images) and of weights
    weights, first = 64 * 16 + 16 * 32 + 16 * 16 + 16 * 128, 64 * 16  # a location and a scale for each pixel
    assert found["FLOPs per image"].split(" ")[0] == f"{6 * weights - 2 * first:,}"
    assert found["training"].endswith("for 6,400 images")
    assert "5,000 images" in found["the final scores"]
    assert float(found["images/s"].split(",")[0].replace(",", "")) > 0


def test_epochs_and_time(composed: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model=gan", "model.network.hidden=[16]", "run_dir=unused", "trainer=cpu"]
    preview(composed(*small, "trainer.max_epochs=3"))
    assert "3,591 images" in capsys.readouterr().out
    preview(composed(*small, "trainer.max_time=00:02:00:00"))
    assert "2.0 h, some" in capsys.readouterr().out


def test_of_a_slow_model_one_step_and_one_image_are_enough(
    composed: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("imagegen.preview.ENOUGH", 0.0)
    monkeypatch.setattr("imagegen.models.GAN.sample", lambda self, num, *_, **__: drawn.append(num))
    clocks: list[Clock] = []
    monkeypatch.setattr("imagegen.preview.Clock", lambda: clocks.append(Clock()) or clocks[0])
    preview(composed("model=gan", "model.network.hidden=[16]", "run_dir=unused", "trainer=cpu"))
    assert drawn == [1]
    assert (clocks[0].num_timed, clocks[0].flops > 0) == (1, True)
    assert "images/s" in capsys.readouterr().out


def test_nothing_is_counted_any_more_after_a_failed_step(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("imagegen.models.VAE.losses", fail)
    with pytest.raises(ZeroDivisionError):
        preview(composed("model=vae", "model.network.hidden=[16]", "run_dir=unused", "trainer=cpu"))
    assert _get_current_dispatch_mode() is None
