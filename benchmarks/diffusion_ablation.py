"""What the parts of `model=diffusion` are worth: the same minutes, or images, with one of them changed at a time.

python benchmarks/diffusion_ablation.py --data digits --minutes 0.5
python benchmarks/diffusion_ablation.py --images 20000 --samples 1000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGES = {
    "as it is": [],
    "uniform times": ["time_distribution@model.time_distribution=uniform"],
    "times nearer to the data": ["model.time_distribution.mean=-0.5"],
    "optimal transport within classes": ["coupling@model.coupling=optimal_transport"],
    "cosine schedule": ["noise_schedule@model.noise_schedule=cosine"],
    "preconditioned": ["parameterization@model.parameterization=preconditioned"],
    "asked for the noise": ["parameterization@model.parameterization=noise", "model.bounds_images=true"],
    "asked for the images": ["parameterization@model.parameterization=data"],
    "min-SNR weights": ["weighting@model.weighting=min_snr"],
    "width 48": ["model.network.width=48"],
    "width 96": ["model.network.width=96"],
    "a transformer": ["network@model.network=dit", "model.lr=1e-2"],
    "AdamW": ["model.optimizer._target_=torch.optim.AdamW", "model.lr=2e-3", "model.optimizer.betas=[0.9,0.99]"],
    "half the learning rate": ["model.lr=2e-3"],
    "twice the learning rate": ["model.lr=8e-3"],
    "no average of weights": ["model.ema_half_life=1"],
    "no weight decay": ["model.optimizer.weight_decay=0"],
    "consistency, 4 evaluations": ["sampler@model.sampler=consistency", "model.num_steps=4"],
    "Euler, 9 evaluations": ["sampler@model.sampler=euler", "model.num_steps=9"],
    "DPM-Solver++(2M), 9 evaluations": ["sampler@model.sampler=dpm_solver", "model.num_steps=9"],
}


def scores(folder: Path, overrides: list[str]) -> dict[str, float]:
    arguments = ["model=diffusion", "logger=csv", f"run_dir={folder}", "trainer.enable_progress_bar=false", *overrides]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "scores.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--images", type=int, help="train each on so many, instead of for minutes")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    arguments = parser.parse_args()
    minutes, seconds = divmod(round(60 * arguments.minutes), 60)
    budget = f"max_time=00:00:{minutes:02d}:{seconds:02d}"
    if arguments.images is not None:
        budget = f"max_images={arguments.images}"
    same = [
        f"data={arguments.data}",
        f"trainer.{budget}",
        f"metrics.num_test_samples={arguments.samples}",
        "val_every_images=1_000_000_000",
    ]
    print("| change | FID | precision | recall | images seen | images/s |\n|---|---|---|---|---|---|")
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            found = scores(Path(folder) / "run", [*same, *CHANGES[name]])
        row = f"{found['test/fid']:.2f} ± {found['test/fid_se']:.2f} | {found['test/precision']:.3f} | "
        row += f"{found['test/recall']:.3f} | {found['images_seen']:,} | "
        print(f"| {name} | {row}{found['images_seen'] / found['train_seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
