"""Scripts and functions in processes of their own that begin with everything imported: a fork costs no five seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
IMPORTED = ["tests.forked", "torch", "lightning", "torchmetrics", "hydra", "wandb", "imagegen.run", "imagegen.preview"]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(IMPORTED)


class Ended(NamedTuple):
    returncode: int  # negative: by that signal
    output: str  # what it wrote to stdout and stderr


class Process:
    """A function that runs in a process with a working folder, an environment and an output file of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, folder: Path, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"output_{len(list(folder.glob('output_*')))}.txt"
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("WANDB_", "IMAGEGEN_"))}
        own = {
            "IMAGEGEN_CACHE_DIR": os.environ.get("IMAGEGEN_CACHE_DIR", str(folder / "cache")),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        environment |= own | {"NETRC": str(folder / "netrc")} | variables
        self._process = context.Process(target=_run, args=(folder, environment, self.log, function, arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self._process.is_alive(), self.log.read_text()
            assert time.monotonic() < deadline, "nothing came of it"
            time.sleep(0.01)

    def wait(self) -> Ended:
        self._process.join(240)
        assert not self._process.is_alive()
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, self.log.read_text())


def script(name: str, *arguments: str, folder: Path, **variables: str) -> Process:
    """A script of the project with its arguments. `FILE_SIZE` limits the bytes of a file that it can write."""
    return Process(_script, name, arguments, folder=folder, **variables)


def _script(name: str, arguments: tuple[str, ...]) -> None:
    if "FILE_SIZE" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_SIZE"]), resource.RLIM_INFINITY))
    sys.argv = [str(ROOT / name), *arguments]
    atexit._clear()  # what the server registered is the server's
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


def _run(folder: Path, environment: dict[str, str], log: Path, function: Callable[..., Any], arguments: Any) -> None:
    import torch

    os.setpgrp()  # a signal to it reaches nobody else
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*arguments)
