"""What several processes bring, and what checkpoints and a resume cost: `python benchmarks/scaling.py`, on digits.

Each process has one thread. "sweep": two jobs of a multirun, one after the other and two at a time by joblib. "ranks":
images per second of one process and of two that share each step by gloo, with the same number of images per process.
"resume": from the start of `train.py resume=...` to the first step, less the imports, for a run of `--images` images.
"checkpoint": writing `last.ckpt` every 30 seconds, as runs do, as a share of that time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from imagegen.checkpoint_io import AtomicCheckpointIO

ROOT = Path(__file__).parents[1]
QUIET = ["logger=csv", "metrics/features=none", "val_every_images=1_000_000_000"]
STEP = re.compile(r"first step after ([\d.]+) s")
FIRST_STEP = """
import runpy, sys, time
import imagegen.run, imagegen.preview, imagegen.models, imagegen.callbacks
started = time.perf_counter()
budget = imagegen.callbacks.Budget
begin = budget.on_train_batch_start
def said(*args):
    print(f"first step after {time.perf_counter() - started} s", flush=True)
    begin(*args)
budget.on_train_batch_start = said
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str, program: list[str] | None = None) -> tuple[float, str]:
    """Seconds and output of train.py."""
    command = [sys.executable, *(program or []), str(ROOT / "train.py"), *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, done.stdout


def sweep(folder: Path, images: int) -> tuple[float, float]:
    """Seconds of two jobs one after the other, and at once."""
    jobs = ["--multirun", "model=gan", "seed=0,1", f"trainer.max_images={images}", *QUIET]
    alone, _ = run(*jobs, f"log_dir={folder}/alone")
    at_once, _ = run(*jobs, f"log_dir={folder}/at_once", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    return alone, at_once


def ranks(folder: Path, model: str, images: int) -> tuple[float, float]:
    """Images per second of one process and of two."""
    speeds = []
    for devices in (1, 2):
        path = folder / f"ranks_{devices}"
        many = ["trainer=ddp", f"trainer.devices={devices}"] if devices > 1 else ["trainer=cpu"]
        budget = f"trainer.max_images={images * devices}"
        run(f"model={model}", *many, "trainer.accelerator=cpu", budget, f"run_dir={path}", *QUIET)
        scores = json.loads((path / "scores.json").read_text())
        speeds.append(scores["images_seen"] / scores["train_seconds"])
    return speeds[0], speeds[1]


def resume(folder: Path, images: int) -> tuple[float, float]:
    """Seconds to the first step of a resumed run, and to write its checkpoint."""
    path = folder / "resumed"
    run("model=diffusion", f"trainer.max_images={images}", f"run_dir={path}", *QUIET)
    more = [f"resume={path}", f"trainer.max_images={images + 640}"]
    _, output = run(*more, program=["-c", FIRST_STEP])
    seconds = STEP.findall(output)[0]  # it is said at every step
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    start = time.perf_counter()
    for _ in range(5):
        AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "again.ckpt")
    return float(seconds), (time.perf_counter() - start) / 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000, help="of the diffusion model; the GAN gets 20 times more")
    parser.add_argument("--model", default="diffusion", help="whose ranks are compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, at_once = sweep(folder, 20 * arguments.images)
        print(
            f"sweep       one after the other {alone:.1f} s, two at a time {at_once:.1f} s: {alone / at_once:.2f} times"
        )
        one, two = ranks(folder, arguments.model, arguments.images)
        print(f"ranks       one process {one:.0f} images/s, two {two:.0f}: {two / one:.2f} times")
        seconds, writing = resume(folder, arguments.images)
        print(f"resume      first step {seconds:.1f} s after the imports")
        print(f"checkpoint  {1000 * writing:.0f} ms every 30 s: {writing / 30:.2%}")


if __name__ == "__main__":
    main()
