"""Ctrl-C and SIGTERM as a request to stop at the next good moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupt_flag() -> Iterator[list[bool]]:
    """A list that the first Ctrl-C or SIGTERM fills, so that no step is cut in two; a second one raises
    KeyboardInterrupt at once.

    Signals reach the main thread only; elsewhere nothing is changed.
    """
    flag: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(True)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
