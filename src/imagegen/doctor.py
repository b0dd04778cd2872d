"""What a machine has for this project, and what stands in its way: python -m imagegen.doctor [<data folder>]."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "wandb", "numpy", "scikit-learn")
EXTRAS = {
    "optuna": "tune.py",
    "hydra-joblib-launcher": "hydra/launcher=joblib",
    "hydra-submitit-launcher": "hydra/launcher=slurm",
    "matplotlib": "plots",
    "torch-fidelity": "metrics/features=inception",
    "tensorboard": "logger=tensorboard",
    "mlflow": "logger=mlflow",
}
# Plugins that break every Hydra program by being installed, and what happens.
BREAKING = {
    "hydra-ax-sweeper": "crashes every program that uses Hydra",
    "hydra-optuna-sweeper": "needs optuna<3 and crashes with today's SQLAlchemy; tune.py does without",
}
DATA = ("mnist", "fashion_mnist", "cifar10")  # what is downloaded into folders of these names
MIN_FREE_GB = 2.0
WIDTH = max(map(len, (*PACKAGES, *EXTRAS, *BREAKING)))


class Finding(NamedTuple):
    """A line of the report; `is_good` is None where nothing is at stake."""

    what: str
    text: str
    is_good: bool | None = None


def main(arguments: list[str]) -> int:
    """Print each finding as it is found; the exit status is 1 if something stands in the way."""
    given = arguments[0] if arguments else os.environ.get("IMAGEGEN_DATA_DIR")
    is_good = True
    for finding in examine(Path(given).expanduser() if given else None):
        mark = {True: "ok", False: "!!", None: "  "}[finding.is_good]
        print(f"{mark} {finding.what:<{WIDTH}}  {finding.text}", flush=True)
        is_good = is_good and finding.is_good is not False
    return int(not is_good)


def examine(data_dir: Path | None) -> Iterator[Finding]:
    """All that there is to say."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        version = version_of(name)
        yield Finding(name, version or "missing: pip install -e .", version is not None)
    for name, purpose in EXTRAS.items():
        yield Finding(name, version_of(name) or f"absent, needed for {purpose} only")
    for name, what in BREAKING.items():
        if version := version_of(name):
            yield Finding(name, f"{version} {what}: pip uninstall {name}", False)
    yield torchvision()
    yield from guarded("processor", devices)
    yield from guarded("precision and W&B", settings)
    yield from guarded("data", lambda: data(data_dir))
    yield from places()


def guarded(what: str, find: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What `find` finds; where it fails, as by an import that breaks, a line that says so."""
    try:
        yield from find()
    except Exception as error:
        yield Finding(what, f"unknown: {in_a_line(error)}", False)


def in_a_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def version_of(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torchvision() -> Finding:
    """Nothing here needs it, but one that does not fit PyTorch breaks the import of torchmetrics and Lightning."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "absent, not needed", True)
    try:
        import torchvision
    except Exception as error:  # `operator torchvision::nms does not exist` is a RuntimeError
        text = f"does not fit this PyTorch ({in_a_line(error)}): pip uninstall torchvision"
        return Finding("torchvision", text, False)
    return Finding("torchvision", f"{torchvision.__version__}, can be imported", True)


def devices() -> Iterator[Finding]:
    """What computes."""
    import torch

    yield Finding("processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by PyTorch")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Finding(f"GPU {i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", True)
    if not torch.cuda.is_available():
        yield Finding("GPU", "none")


def settings() -> Iterator[Finding]:
    """In which precision it computes, and what W&B would do: what takes Lightning to know."""
    from imagegen.tracking import has_api_key
    from imagegen.trainer import has_bf16

    precision = "bf16-mixed" if has_bf16("auto") else "32-true, no bf16 arithmetic in the hardware"
    yield Finding("trainer.precision=auto", precision)
    mode = os.environ.get("WANDB_MODE") or ("online, a key is configured" if has_api_key() else "offline, no key")
    yield Finding("W&B", mode)


def data(data_dir: Path | None) -> Iterator[Finding]:
    """Which data sets are in the folder, or without one in the cache."""
    import pooch

    # As resolve_data_dir has it, which is not asked: its package imports Lightning.
    place = Path(pooch.os_cache("imagegen")) if data_dir is None else data_dir
    present = [name for name in DATA if any((place / name).glob("*"))]  # a failed download leaves an empty folder
    text = f"{place}: {', '.join(present) or 'none of ' + ', '.join(DATA)}"
    if data_dir is None:
        text += "; IMAGEGEN_DATA_DIR is not set: what is missing is downloaded there when first used"
        yield Finding("data", text, bool(present) or None)
    elif not data_dir.is_dir():
        yield Finding("data", f"{data_dir} is no folder", False)
    else:
        yield Finding("data", text, bool(present))


def places() -> Iterator[Finding]:
    """Where runs and temporary files are written."""
    for what, place in (
        ("here", Path.cwd()),
        ("temporary files", Path(os.environ.get("TMPDIR", tempfile.gettempdir()))),
    ):
        if not place.is_dir():
            yield Finding(what, f"{place} does not exist", False)
            continue
        free = shutil.disk_usage(place).free / 1e9
        can_write = os.access(place, os.W_OK)
        text = f"{place}: {free:.1f} GB free" + ("" if can_write else ", cannot be written")
        yield Finding(what, text, can_write and free > MIN_FREE_GB)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
