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
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Process:
    """A function that runs in a process with a working folder, an environment and output files of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, folder: Path, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("stdout_*")))
        self._outputs = [folder / f"{name}_{number}.txt" for name in ("stdout", "stderr")]
        for path in self._outputs:
            path.touch()
        all_variables = environment(folder) | variables
        self._process = context.Process(target=_run, args=(folder, all_variables, self._outputs, function, arguments))
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
            assert self._process.is_alive(), self._ended().output
            assert time.monotonic() < deadline, "nothing came of it"
            time.sleep(0.01)

    def wait(self) -> Ended:
        self._process.join(300)
        if self._process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
        return self._ended()

    def _ended(self) -> Ended:
        stdout, stderr = (path.read_text() for path in self._outputs)
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, stdout, stderr)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a user who lives in a folder and has set nothing: no API key."""
    inherited = {
        name: text for name, text in os.environ.items() if not name.startswith(("WANDB_", "IMAGEGEN_", "HYDRA_"))
    }
    cache = os.environ.get("IMAGEGEN_CACHE_DIR", str(folder / "cache"))
    return inherited | {"IMAGEGEN_CACHE_DIR": cache, "HOME": str(folder), "NETRC": str(folder / "netrc")}


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


def _run(
    folder: Path, variables: dict[str, str], outputs: list[Path], function: Callable[..., Any], arguments: Any
) -> None:
    os.setpgrp()  # a signal to it reaches nobody else
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for stream, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*arguments)
