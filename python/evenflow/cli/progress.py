"""What a person sees of a training: tqdm's bar on a terminal, else a line now and then; both on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

from evenflow.console import silence, tell
from evenflow.errors import MissingExtra
from evenflow.extras import need

LINE_SECONDS = 15.0
"""Shortest time between two lines."""


class Progress:
    """A callback of a training."""

    def __init__(self, total: int | None, quiet: bool, images: bool):
        """total: steps, None for a training without an end in sight."""
        self.total, self.quiet, self.unit = total, quiet or sys.stderr is None, "images" if images else "rows"
        self.begun, self.first, self.samples, self.printed = time.monotonic(), -1, 0, 0.0
        self.bar: Any = None
        self.valid = ""

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
            except OSError:  # the training goes on without a word
                silence(sys.stderr)
        elif time.monotonic() - self.printed > LINE_SECONDS or last:
            self.printed = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            tell(f"epoch {record['epoch']}, step {record['step']}{of}: {shown}{self._left(record['step'])}")

    def say(self, text: str) -> None:
        if not self.quiet:
            tell(text)

    def close(self) -> None:
        if self.bar is not None:
            try:
                self.bar.close()
            except OSError:
                silence(sys.stderr)

    def _make_bar(self) -> Any:
        if not sys.stderr.isatty():
            return None
        try:
            return need("train", "tqdm", "tqdm", "cli").tqdm(total=self.total, initial=self.first, unit=" steps",
                                                             dynamic_ncols=True)
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
