"""Standard output, for results, which must be written, and standard error, for what is said to a person."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from evenflow.errors import IoError


def write(text: str) -> None:
    """Prints a result, if there is a standard output. IoError; BrokenPipeError where whoever read it has gone."""
    if sys.stdout is None:  # closed before the process began
        return
    try:
        # A path need not be valid text.
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise IoError(f"[output] expected to write the result, got: {error}") from error


def tell(text: str) -> None:
    """Prints a line, or goes on without."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def tell_error(text: str) -> None:
    """Prints an error, which is one line whatever names are in it."""
    tell("\\n".join(text.splitlines()))


def abandon(stream: Any) -> None:
    """After an error: what the stream still holds, which Python would write at its end, and what comes go nowhere."""
    with contextlib.suppress(OSError):  # of a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
