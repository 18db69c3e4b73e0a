"""Ctrl-C, SIGTERM and SIGHUP: a request to stop at the next good moment, or an exception."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

if sys.platform == "win32":  # of a closing terminal
    HANGUP = signal.SIGBREAK
else:
    HANGUP = signal.SIGHUP

SAME_SECONDS = 1.0
"""Signals that follow the first one this closely are the same wish to stop."""


@contextlib.contextmanager
def interrupt_flag() -> Iterator[list[int]]:
    """A list that takes the number of the first signal, so that no step is cut in two and the checkpoint is written.
    A later Ctrl-C or SIGTERM raises KeyboardInterrupt at once, but not within SAME_SECONDS: the impatient press twice.
    A closing terminal may send SIGHUP twice, itself and through its shell.
    """
    flag: list[int] = []
    first = 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not flag:
            flag.append(number)
            first = time.monotonic()
        elif number != HANGUP and time.monotonic() - first > SAME_SECONDS:
            raise KeyboardInterrupt(number)

    with _handled(handle, signal.SIGINT, signal.SIGTERM, HANGUP):
        yield flag


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that half-written files are removed."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    with _handled(handle, signal.SIGTERM, HANGUP):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Python lets the main thread alone handle signals. nohup has SIGHUP ignored, and so it stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in numbers
                if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
