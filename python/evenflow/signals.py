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
    raises KeyboardInterrupt at once. A terminal that closes may send SIGHUP twice, itself and by its shell.
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
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that what is half-written is removed."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    with _handled(handle, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP come after the block. Within an import, Python can turn the exception into another:
    before 3.12 that of a `__set_name__` into a RuntimeError.
    """
    numbers: list[int] = []
    try:
        with _handled(lambda number, _: numbers.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    finally:
        for number in numbers:
            signal.raise_signal(number)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 after Ctrl-C or SIGTERM, 129 after SIGHUP."""
    return 128 + (signal.SIGHUP if interrupt.args == (signal.SIGHUP,) else signal.SIGINT)


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Signals reach the main thread only; elsewhere nothing is changed. Nor is SIGHUP where nohup has it ignored."""
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
