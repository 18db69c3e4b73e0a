"""What a person sees of a training, on standard error: tqdm's bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from evenflow._border import checks
from evenflow._border.console import silence, tell
from evenflow.errors import MissingExtra
from evenflow._border.extras import need

LINE_SECONDS = 15.0
"""Shortest time between two lines."""
FIRST_SECONDS = 3.0
"""Until the first one: the rate of a few steps tells little of the time that is left."""


Callback = Callable[[dict[str, Any]], None]


def wanted(where: str, verbose: bool | None) -> bool:
    """Whether to show a bar. None: if tqdm is installed and a person watches, at a terminal or in a notebook."""
    if verbose is not None and not checks.flag(where, "verbose", verbose):
        return False
    if verbose is None and not (_is_terminal() or "ipykernel" in sys.modules):
        return False
    try:
        need(f"{where} verbose=True", "tqdm.auto", "tqdm", "cli")
    except MissingExtra:
        if verbose:
            raise
        return False
    return True


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it was closed
        return False


class Progress:
    """A callback of a training.

    total: steps; None for a training without an end in sight. lines: print lines where there is no bar.
    """

    def __init__(self, total: int | None, quiet: bool, images: bool, lines: bool = True):
        self.total, self.quiet, self.lines = total, quiet or sys.stderr is None, lines
        self.unit = "images" if images else "rows"
        self.begun, self.first, self.samples = time.monotonic(), -1, 0
        self.printed = self.begun + FIRST_SECONDS - LINE_SECONDS
        self.bar: Any = None
        self.valid = ""

    def around(self, callback: Callback | None) -> Callback | None:
        """A callback that also shows the progress."""
        if self.quiet or callback is not None and not callable(callback):  # the trainer refuses the latter
            return callback

        def both(record: dict[str, Any]) -> None:
            if callback is not None:
                callback(record)
            self(record)

        return both

    def __call__(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        if self.first < 0:
            self.first = record["step"] - 1
            self.bar = self._make_bar()
        self.samples += record.get("samples", 0)
        if record["event"] == "epoch" and (valid := _loss(record, "valid_")):
            self.valid = f", valid {valid}"
        shown = f"{_loss(record)}{self.valid}, {self._rate()}"
        last = record["event"] == "epoch" and record["step"] == self.total
        if self.bar is not None:
            try:
                self.bar.set_postfix_str(shown, refresh=False)
                self.bar.update(record["step"] - self.bar.n)
            except (OSError, ValueError):  # of a stream that is gone: the training goes on without a word
                silence(sys.stderr)
        elif self.lines and (time.monotonic() - self.printed > LINE_SECONDS or last):
            self.printed = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            tell(f"epoch {record['epoch']}, step {record['step']}{of}: {shown}{self._left(record['step'])}")

    def say(self, text: str) -> None:
        if not self.quiet:
            tell(text)

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

    def _make_bar(self) -> Any:
        if self.lines and not _is_terminal():
            return None
        try:
            tqdm = need("train", "tqdm.auto", "tqdm", "cli").tqdm
            bar = tqdm(total=self.total, initial=self.first, unit=" steps", dynamic_ncols=True)
            if bar.ncols == 0:  # of a terminal that does not know its size
                bar.dynamic_ncols, bar.ncols = None, 80
            return bar
        except MissingExtra:
            return None  # lines tell as much

    def _rate(self) -> str:
        rate = self.samples / max(time.monotonic() - self.begun, 1e-9)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2f} {self.unit}/s"

    def _left(self, step: int) -> str:
        if self.total is None:
            return ""
        seconds = round((self.total - step) / (step - self.first) * (time.monotonic() - self.begun))
        return f", {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


def _loss(record: dict[str, Any], prefix: str = "") -> str:
    """Bits a dimension for images, else nats; nothing where there is no loss."""
    name, unit = ("bits_per_dim", "bits/dim") if "bits_per_dim" in record else ("loss", "nats")
    value = record.get(prefix + name)
    return "" if value is None else f"{value:.3f} {unit}"
