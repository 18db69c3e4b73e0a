"""Standard output, for results, which must be written, and standard error, for what is said to a person."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from evenflow.errors import IoError


def write(text: str) -> None:
    """Prints a result. IoError; BrokenPipeError where whoever read it has gone."""
    try:
        # A path need not be valid text.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
        raise
    except OSError as error:
        silence(sys.stdout)
        raise IoError(f"[output] the result can't be written: {error}") from error


def tell(text: str) -> None:
    """Prints a line, or goes on without."""
    try:
        if sys.stderr is not None:  # which print would take for standard output
            print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def tell_error(text: str) -> None:
    """Prints an error, which is one line whatever names are in it."""
    tell("\\n".join(text.splitlines()))


def silence(stream: Any) -> None:
    """Drops what a broken stream still holds, which Python would write again at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, or a closed one
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
