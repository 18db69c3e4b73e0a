"""What a person sees of a training, on standard error: tqdm's bar, or a line now and then."""

from __future__ import annotations

import datetime
import math
import sys
import time
from typing import Any

from evenflow._border import checks
from evenflow._border.console import silence, tell
from evenflow._border.extras import need
from evenflow.errors import MissingExtra

LINE_SECONDS = 15.0
"""Shortest time between two lines."""


def find_bar(where: str, verbose: bool | None = None) -> Any:
    """tqdm's class, or None. verbose None: if tqdm is installed and a person watches, at a terminal or in a notebook.

    MissingExtra for verbose=True without tqdm.
    """
    wanted = verbose is not None and checks.flag(where, "verbose", verbose)
    if verbose is None:
        wanted = not getattr(sys.stderr, "closed", True) and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    try:
        return need(f"{where} verbose=True", "tqdm.auto", "tqdm", "cli").tqdm if wanted else None
    except MissingExtra:
        if verbose:
            raise
        return None


class Display:
    """A callback of a training.

    total: steps; None for a training without an end in sight. make: tqdm's class, or None. lines: print lines where
    there is no bar.
    """

    def __init__(self, total: int | None, make: Any, lines: bool = False):
        self.total, self.make, self.lines = total, make, lines
        self.printed = -math.inf
        self.bar: Any = None
        self.valid = ""

    def __call__(self, record: dict[str, Any]) -> None:
        if valid := _loss(record, "valid_"):
            self.valid = f", valid {valid}"
        shown = _loss(record) + self.valid
        if self.make is not None:
            try:
                if self.bar is None:
                    self.bar = self.make(total=self.total, initial=record["step"] - 1, unit=" steps",
                                         dynamic_ncols=True)
                self.bar.set_postfix_str(shown, refresh=False)
                self.bar.update(record["step"] - self.bar.n)
            except (OSError, ValueError):  # of a stream that is gone: the training goes on without a word
                silence(sys.stderr)
        elif self.lines and (time.monotonic() - self.printed > LINE_SECONDS
                             or record["event"] == "epoch" and record["step"] == self.total):
            self.printed = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            took = datetime.timedelta(seconds=round(record["seconds"]))
            tell(f"epoch {record['epoch']}, step {record['step']}{of}: {shown}, {took}")

    def close(self, stopped: bool = False) -> None:
        """stopped: the training ended early because `patience` ran out, which tqdm would show as a failure."""
        if self.bar is not None:
            try:
                if stopped:
                    self.bar.total = self.bar.n
                    self.bar.set_description_str("stopped early")
                self.bar.close()
            except (OSError, ValueError):
                silence(sys.stderr)


def _loss(record: dict[str, Any], prefix: str = "") -> str:
    """Bits a dimension for images, else nats; nothing where there is no loss."""
    name, unit = ("bits_per_dim", "bits/dim") if "bits_per_dim" in record else ("loss", "nats")
    value = record.get(prefix + name)
    return "" if value is None else f"{value:.3f} {unit}"
