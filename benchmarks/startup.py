"""How soon the command line answers: wall-clock seconds of help, a printed config and a mistyped override.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
CASES = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "model=difusion": ["model=difusion"],
    "model.lrr=1": ["model.lrr=1"],
    "import lightning": [],
}


def seconds(arguments: list[str]) -> float:
    command = [sys.executable, str(TRAIN), *arguments] if arguments else [sys.executable, "-c", "import lightning"]
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    for name, arguments in CASES.items():
        times = [seconds(arguments) for _ in range(5)]
        print(f"{name:<18} median {statistics.median(times):.2f} s  (min {min(times):.2f}, max {max(times):.2f})")


if __name__ == "__main__":
    main()
