"""Quality against function evaluations: one diffusion model, drawn from by each sampler with more and more steps.

python benchmarks/diffusion_samplers.py logs/mnist/diffusion/<time> [--samples 1000] [--out docs/diffusion_samplers.png]
    [--evaluations 8 50 1000 --only own DDPM]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch

from imagegen.checkpoint import find_checkpoint, restore
from imagegen.config import build
from imagegen.data.module import to_uint8
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder
from imagegen.models import Diffusion
from imagegen.objectives.adaptive_sampler import adaptive
from imagegen.objectives.denoisers import Sampler, num_evaluations
from imagegen.objectives.samplers import ancestral, consistency, ddim, dpm_solver, euler, heun, stochastic_heun

SEED = 1_000_000
SAMPLERS: dict[str, Sampler] = {
    "DDPM": ancestral,
    "DDIM": ddim,
    "Euler": euler,
    "Heun": heun,
    "DPM-Solver++(2M)": dpm_solver,
    "stochastic Heun": stochastic_heun,
    "consistency": consistency,
}
Point = tuple[str, float, float, float, float]  # sampler, evaluations, FID, its error, ms per image


def scores_of(data_config: object) -> GenerationScores:
    data = build(data_config, "data")  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    from imagegen.metrics.features import FeatureSource

    features = FeatureSource().load(data.name, data.num_classes)
    assert features is not None, "a data set with bundled features"
    return GenerationScores(Reference(features, data.splits, "test", default_folder()), SEED, is_full=False)


def measured(model: Diffusion, scores: GenerationScores, num_samples: int, sampler: Sampler, num_steps: int) -> Point:
    start = time.perf_counter()
    images = model.sample(num_samples, seed=SEED, sampler=sampler, num_steps=num_steps)
    milliseconds = 1000 * (time.perf_counter() - start) / num_samples
    values = scores.score(to_uint8(images))
    is_adaptive = getattr(sampler, "func", sampler) is adaptive
    if is_adaptive:
        model.sampler = sampler
        evaluations = float(model.sampling_protocol()["num_function_evaluations"])
    else:
        evaluations = num_evaluations(sampler, model.time_grid(num_steps), model.noise_schedule)
    return "", evaluations, values["fid"], values["fid_se"], milliseconds


def plot(points: list[Point], out: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 4.5))
    for name in dict.fromkeys(point[0] for point in points):
        rows = sorted(point[1:4] for point in points if point[0] == name)
        x, y, error = zip(*rows, strict=True)
        axes.errorbar(x, y, error, marker="o", markersize=4, capsize=2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="function evaluations per image", ylabel="FID", title=title)
    axes.grid(which="both", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[3, 5, 9, 19, 39, 79])
    parser.add_argument("--only", nargs="+", default=None, help="own (the model's), DDPM, DDIM, ..., adaptive")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    model, trained_on = restore(find_checkpoint(arguments.run))
    assert isinstance(model, Diffusion)
    scores = scores_of(trained_on.data)
    points: list[Point] = []
    print("| sampler | evaluations | FID | ms/image |\n|---|---|---|---|")
    tolerances = {f"adaptive, {tolerance:g}": tolerance for tolerance in (0.1, 0.03, 0.01)}
    samplers = {"own": model.sampler, **SAMPLERS}
    jobs = [(name, sampler, budget) for name, sampler in samplers.items() for budget in arguments.evaluations]
    jobs += [(name, partial(adaptive, tolerance=tolerance), 1) for name, tolerance in tolerances.items()]
    if arguments.only is not None:
        jobs = [job for job in jobs if job[0].split(",")[0] in arguments.only]
    for name, sampler, budget in jobs:
        num_steps = (budget + 1) // 2 if name.endswith("Heun") else budget
        point = measured(model, scores, arguments.samples, sampler, num_steps)
        points.append(("adaptive" if name.startswith("adaptive") else name, *point[1:]))
        print(f"| {name} | {point[1]:g} | {point[2]:.2f} ± {point[3]:.2f} | {point[4]:.2f} |", flush=True)
    if arguments.out is not None:
        title = f"{trained_on.data.name}: {arguments.samples} samples of one network"
        plot(points, arguments.out, title)
        print(arguments.out)


if __name__ == "__main__":
    main()
