"""What a person sees of a training: a bar on a terminal, else now and then a line; both on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from evenflow.console import abandon, tell
from evenflow.errors import MissingExtra
from evenflow.extras import need

EPOCH_SECONDS, STEP_SECONDS = 2.0, 15.0
"""Shortest time between two lines, of epochs and of steps."""
SMOOTH = 0.95


class Progress:
    """A callback of a training: speed, loss, time left. A bar needs tqdm."""

    def __init__(self, total: int | None, quiet: bool, images: bool):
        """total: steps, None for a training without an end in sight."""
        self.total, self.unit = total, "images" if images else "rows"
        self.quiet = quiet or sys.stderr is None
        self.bar: Any = None
        self.begun, self.first, self.samples = time.monotonic(), -1, 0
        self.printed = self.begun - EPOCH_SECONDS  # the first epoch is told of at once
        self.smooth: float | None = None
        self.valid = ""

    def __call__(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        try:
            self._show(record)
        except OSError:  # of the bar: the training goes on without a word
            abandon(sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            try:
                self.bar.close()
            except OSError:
                abandon(sys.stderr)

    def _show(self, record: dict[str, Any]) -> None:
        if self.first < 0:
            self.first = record["step"] - 1
            self.bar = self._make_bar()
        if record["event"] == "step":
            self._step(record)
        else:
            self._epoch(record)

    def _make_bar(self) -> Any:
        if not sys.stderr.isatty():
            return None
        try:
            tqdm = need("train", "tqdm", "tqdm", "cli").tqdm
        except MissingExtra:
            return None  # lines tell as much
        shape = ("{n_fmt} steps [{elapsed}{postfix}]" if self.total is None else
                 "{l_bar}{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]")
        try:
            known = min(os.get_terminal_size(sys.stderr.fileno())) > 0
        except OSError:
            known = False
        # Of a terminal that doesn't tell its size tqdm would use none.
        size = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
        return tqdm(total=self.total, initial=self.first, bar_format=shape, **size)

    def _step(self, record: dict[str, Any]) -> None:
        self.samples += record.get("samples", 0)
        value, unit = quality(record)
        if value is not None:
            self.smooth = value if self.smooth is None else SMOOTH * self.smooth + (1 - SMOOTH) * value
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join([self._rate(), *self._loss(unit)]), refresh=False)
            self.bar.update(record["step"] - self.bar.n)
        elif self._due(STEP_SECONDS):
            self._print(record, self._loss(unit))

    def _epoch(self, record: dict[str, Any]) -> None:
        (train, unit), (valid, _) = quality(record), quality(record, "valid_")
        self.valid = "" if valid is None else f"valid {valid:.3f}"
        if self.bar is None and (self._due(EPOCH_SECONDS) or record["step"] == self.total):
            shown = [f"train {train:.3f} {unit}"] if train is not None else []
            self._print(record, shown + ([f"{self.valid} {unit}"] if self.valid else []))

    def _loss(self, unit: str) -> list[str]:
        shown = [f"{self.smooth:.3f} {unit}"] if self.smooth is not None else []
        return shown + ([self.valid] if self.valid else [])

    def _rate(self) -> str:
        rate = self.samples / max(time.monotonic() - self.begun, 1e-9)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2f} {self.unit}/s"

    def _due(self, seconds: float) -> bool:
        return time.monotonic() - self.printed > seconds

    def _print(self, record: dict[str, Any], shown: list[str]) -> None:
        self.printed = time.monotonic()
        of, left = "", list[str]()
        if self.total is not None:
            of = f" of {self.total}"
            done = record["step"] - self.first
            left = [f"{clock((self.total - record['step']) / done * (self.printed - self.begun))} left"]
        line = f"epoch {record['epoch']}, step {record['step']}{of}: "
        tell(line + ", ".join([*shown, self._rate(), *left]))


def quality(record: dict[str, Any], prefix: str = "") -> tuple[float | None, str]:
    """(value, unit) of a record's loss: bits a dimension for images, else nats."""
    if f"{prefix}bits_per_dim" in record or "bits_per_dim" in record:
        return record.get(f"{prefix}bits_per_dim"), "bits/dim"
    return record.get(f"{prefix}loss"), "nats"


def clock(seconds: float) -> str:
    """3700 -> "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
