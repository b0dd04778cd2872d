"""Signals that ask a process to stop: obeyed at once, or where training can be left without losing a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
REQUEUES = (signal.SIGUSR1, signal.SIGUSR2)  # the time of a job in a queue is nearly up; submitit sends the second


class StopSignals:
    """A context in which SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 raise SystemExit(128 + signal).

    While `is_held`, a first signal is only noted in `received`: whoever holds it calls `leave` at a good moment. A
    second one does not wait. Only the main thread can catch signals; in another the context does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.is_held = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received, self.is_held = None, False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        before, self._before, self.is_held = self._before, {}, False
        for number, handler in before.items():
            signal.signal(number, handler)
        if self.received in REQUEUES and callable(before.get(self.received)):
            signal.raise_signal(self.received)  # whoever started this job puts it back into its queue

    def install(self) -> None:
        """Catch the signals, again if others have taken them meanwhile; only within the context."""
        for number in self._before:
            signal.signal(number, self._handle)

    def release(self) -> None:
        """No longer wait, and obey at once what was received while held."""
        self.is_held = False
        if self.received is not None:
            self.leave()

    def leave(self) -> NoReturn:
        """Raise what the signal that was received asks for."""
        assert self.received is not None
        raise SystemExit(128 + self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self.received is not None
        self.received = signal.Signals(number)
        if is_second or not self.is_held:
            self.leave()


# Signals belong to the process, and so does this.
STOP = StopSignals()
