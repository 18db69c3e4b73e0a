"""Ctrl-C, SIGTERM and SIGHUP: a request to stop at the next good moment, or an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupt_flag() -> Iterator[list[int]]:
    """A list that takes the number of the first signal, so that no step is cut in two; a second Ctrl-C or SIGTERM
    raises KeyboardInterrupt at once. A closing terminal may send SIGHUP twice, itself and through its shell.
    """
    flag: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if not flag:
            flag.append(number)
        elif number != signal.SIGHUP:
            raise KeyboardInterrupt(number)

    with _handled(handle, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield flag


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that half-written files are removed."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    with _handled(handle, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Python lets the main thread alone handle signals. nohup has SIGHUP ignored, and so it stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in numbers
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
