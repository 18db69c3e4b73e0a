"""What a person sees of a training, on standard error: tqdm's bar, or a line now and then."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from evenflow._border.console import silence, tell
from evenflow._border.extras import need
from evenflow.errors import MissingExtra

LINE_SECONDS = 15.0
"""Shortest time between two lines."""
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""Without tqdm's rate, so that 80 columns hold it."""


def find_bar() -> Any:
    """tqdm's class if it is installed and a person watches, at a terminal or in a notebook; else None."""
    watched = not getattr(sys.stderr, "closed", True) and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    try:
        return need("fit", "tqdm.auto", "tqdm", "cli").tqdm if watched else None
    except MissingExtra:
        return None


def ahead(total: int | None, done: int) -> str:
    """How long a training is, in words."""
    if total is None:
        return "until it is stopped"
    return f"{total - done:,} of {total:,} steps are left" if done else f"{total:,} steps"


class Display:
    """A callback of a training.

    total: steps; None for a training without an end in sight. make: tqdm's class, or None. lines: print lines where
    there is no bar.
    """

    def __init__(self, total: int | None, make: Any, lines: bool = False):
        self.total, self.make, self.lines = total, make, lines
        self.printed, self.line = -math.inf, ""
        self.bar: Any = None
        self.key, self.unit = "loss", "nats a row"
        self.losses: dict[str, float] = {}

    def __call__(self, record: dict[str, Any]) -> None:
        if "bits_per_dim" in record:
            self.key, self.unit = "bits_per_dim", "bits/dim"
        for what, key in (("loss", self.key), ("valid", f"valid_{self.key}")):
            if record.get(key) is not None:
                self.losses[what] = record[key]
        shown = ", ".join(f"{what} {value:.3f}" for what, value in self.losses.items())
        shown = f"{shown} {self.unit}" if shown else ""
        if self.make is not None:
            try:
                if self.bar is None:
                    self.bar = self.make(total=self.total, initial=record["step"] - 1, unit=" steps",
                                         dynamic_ncols=True, bar_format=BAR if self.total else None)
                self.bar.set_postfix_str(shown, refresh=False)
                self.bar.update(record["step"] - self.bar.n)
            except (OSError, ValueError):  # of a stream that is gone: the training goes on without a word
                silence(sys.stderr)
        elif self.lines:
            of = "" if self.total is None else f" of {self.total:,}"
            self.line = f"epoch {record['epoch']}, step {record['step']:,}{of}: {shown}"
            if time.monotonic() - self.printed > LINE_SECONDS:
                self._print()

    def _print(self) -> None:
        if self.line:
            tell(self.line)
        self.printed, self.line = time.monotonic(), ""

    def close(self, stopped: bool = False) -> None:
        """stopped: the training ended early because `patience` ran out, which tqdm would show as a failure."""
        self._print()
        if self.bar is not None:
            try:
                if stopped:
                    self.bar.total = self.bar.n
                    self.bar.set_description_str("stopped early")
                self.bar.close()
            except (OSError, ValueError):
                silence(sys.stderr)
