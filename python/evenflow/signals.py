"""Ctrl-C and SIGTERM: a request to stop at the next good moment, or an exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupt_flag() -> Iterator[list[bool]]:
    """A list that the first Ctrl-C or SIGTERM fills, so that no step is cut in two; a second one raises
    KeyboardInterrupt at once.
    """
    flag: list[bool] = []

    def handle(number: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(True)

    with _handled(handle, signal.SIGINT, signal.SIGTERM):
        yield flag


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that what is half-written is removed."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handled(handle, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Signals reach the main thread only; elsewhere nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
