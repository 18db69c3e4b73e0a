"""What processes say on standard error, to a person: where that can't be written they go on."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def tell(text: str) -> None:
    """Prints a line, if there is anywhere to."""
    if sys.stderr is None:  # closed before the process began
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: Any) -> None:
    """After an error: what the stream still holds, which Python would write at its end, and what comes go nowhere."""
    with contextlib.suppress(OSError):  # of a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
