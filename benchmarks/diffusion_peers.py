"""The same minutes on MNIST for us and for the diffusion models of other packages, scored by our classifier.

pip install --target peers --no-deps denoising-diffusion-pytorch ema-pytorch accelerate einops torchcfm torchdiffeq \
    pot diffusers huggingface_hub
PYTHONPATH=peers python benchmarks/diffusion_peers.py --minutes 3

Each peer is trained in fp32 by the plain loop that its documentation shows, with its network, batch size, learning rate
and average of weights where it names them, and drawn from by the sampler it names, but for DDPM's 1000 steps, of which
`--ddim-steps` are taken. Ours is `model=diffusion` as it stands.
"""

from __future__ import annotations

import argparse
import copy
import importlib.machinery
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from imagegen.config import build
from imagegen.data.module import from_uint8, to_uint8
from imagegen.metrics.features import FeatureSource
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder

ROOT = Path(__file__).parents[1]
SEED = 1_000_000
Loss = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[torch.nn.Module, int], Tensor]  # images in [-1, 1]


def data_module() -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        data = build(compose("train", overrides=["data=mnist", "run_dir=unused"]).data, "data")
    data.prepare_data()
    data.setup()
    return data


def denoising_diffusion_pytorch(ddim_steps: int) -> tuple[torch.nn.Module, Loss, Draw, dict[str, float]]:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):  # which it needs for folders of files
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import GaussianDiffusion, Unet

    unet = Unet(dim=64, dim_mults=(1, 2, 4), channels=1)  # the fourth halving of its README does not fit 28 pixels
    model = GaussianDiffusion(unet, image_size=28, timesteps=1000, sampling_timesteps=ddim_steps)
    options = {"lr": 8e-5, "batch_size": 32, "ema": 0.995}
    return model, lambda x, y: model(0.5 * (x + 1)), lambda m, n: 2 * m.sample(batch_size=n) - 1, options


def diffusers(ddim_steps: int) -> tuple[torch.nn.Module, Loss, Draw, dict[str, float]]:
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    down, up = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    sizes: dict[str, Any] = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2}
    model = UNet2DModel(**sizes, block_out_channels=(32, 64, 64), down_block_types=down, up_block_types=up)
    schedule, drawing = DDPMScheduler(num_train_timesteps=1000), DDIMScheduler(num_train_timesteps=1000)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        return F.mse_loss(model(schedule.add_noise(x, noise, t), t).sample, noise)

    def draw(network: torch.nn.Module, num: int) -> Tensor:
        drawing.set_timesteps(ddim_steps)
        x = torch.randn(num, 1, 28, 28)
        for t in drawing.timesteps:
            x = drawing.step(network(x, t).sample, t, x).prev_sample
        return x

    return model, loss, draw, {"lr": 1e-3, "batch_size": 128}


def torchcfm(ddim_steps: int) -> tuple[torch.nn.Module, Loss, Draw, dict[str, float]]:
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel
    from torchdiffeq import odeint

    model = UNetModel(dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=10, class_cond=True)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (model(t, x_t, y) - velocity).square().mean()

    def draw(network: torch.nn.Module, num: int) -> Tensor:
        labels, ends = torch.arange(num) % 10, torch.linspace(0, 1, 2)
        options = {"atol": 1e-4, "rtol": 1e-4, "method": "dopri5"}
        return odeint(lambda t, x: network(t, x, labels), torch.randn(num, 1, 28, 28), ends, **options)[-1]

    return model, loss, draw, {"lr": 1e-3, "batch_size": 128}


PEERS = {"denoising-diffusion-pytorch": denoising_diffusion_pytorch, "diffusers": diffusers, "torchcfm": torchcfm}


def train(model: torch.nn.Module, loss: Loss, data: Any, seconds: float, options: dict[str, float]) -> tuple[Any, int]:
    """Train for so long; the averaged model if there is an average, and the images seen."""
    images, labels = data.splits["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=options["lr"])
    average = copy.deepcopy(model).eval() if "ema" in options else None
    seen, size, start = 0, int(options["batch_size"]), time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows = torch.randint(0, len(images), (size,))
        loss(from_uint8(images[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += size
        if average is not None:
            with torch.no_grad():
                torch._foreach_lerp_([*average.parameters()], [*model.parameters()], 1 - options["ema"])
    return (model.eval() if average is None else average), seen


def drawn(draw: Draw, model: Any, num: int) -> tuple[Tensor, float]:
    start, parts = time.perf_counter(), []
    with torch.inference_mode():
        for first in range(0, num, 100):
            parts.append(to_uint8(draw(model, min(100, num - first))))
    return torch.cat(parts), 1000 * (time.perf_counter() - start) / num


def ours(minutes: float, num: int) -> tuple[Tensor, float, int]:
    with tempfile.TemporaryDirectory() as folder:
        budget = f"trainer.max_time=00:00:{int(minutes):02d}:{round(minutes % 1 * 60):02d}"
        arguments = ["model=diffusion", "data=mnist", budget, f"run_dir={folder}/run", "logger=csv"]
        arguments += ["metrics/features=none", "trainer.enable_progress_bar=false"]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True, stdout=subprocess.DEVNULL)
        start, out = time.perf_counter(), f"{folder}/samples.npz"
        sample = [f"ckpt={folder}/run", f"num_samples={num}", f"seed={SEED}", f"out={out}"]
        subprocess.run([sys.executable, str(ROOT / "sample.py"), *sample], check=True, stdout=subprocess.DEVNULL)
        milliseconds = 1000 * (time.perf_counter() - start) / num
        seen = json.loads((Path(folder) / "run" / "scores.json").read_text())["images_seen"]
        with np.load(out) as arrays:
            return torch.from_numpy(arrays["images"]).movedim(-1, 1), milliseconds, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--ddim-steps", type=int, default=50)
    parser.add_argument("--only", nargs="+", default=["imagegen", *PEERS], choices=["imagegen", *PEERS])
    arguments = parser.parse_args()
    data, minutes, num = data_module(), arguments.minutes, arguments.samples
    features = FeatureSource().load("mnist", 10)
    assert features is not None
    scores = GenerationScores(Reference(features, data.splits, "test", default_folder()), SEED)
    print("| package | FID | precision | recall | coverage | parameters | images seen | ms/image |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.only:
        torch.manual_seed(0)
        if name == "imagegen":
            (images, milliseconds, seen), parameters = ours(minutes, num), 968_836
        else:
            model, loss, draw, options = PEERS[name](arguments.ddim_steps)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            trained, seen = train(model, loss, data, 60 * minutes, options)
            images, milliseconds = drawn(draw, trained, num)
        values = scores.score(images)
        row = f"| {name} | {values['fid']:.2f} ± {values['fid_se']:.2f} | "
        row += " | ".join(f"{values[key]:.3f}" for key in ("precision", "recall", "coverage"))
        print(f"{row} | {parameters:,} | {seen:,} | {milliseconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
