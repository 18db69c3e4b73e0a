"""The progress bar of `Flow.fit`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evenflow import checks
from evenflow.errors import MissingExtra
from evenflow.extras import need

if TYPE_CHECKING:
    from evenflow.train import Trainer


Callback = Callable[[dict[str, Any]], None]


class Bar:
    """Shows a training's steps, its loss and the validation's, within a `with` block.

    shown: None shows a bar if tqdm is installed and the output is a terminal or a notebook.
    """

    def __init__(self, trainer: Trainer, epochs: int | None, steps: int | None, shown: bool | None):
        self._bar: Any = None
        self._valid, self._loss = "", math.nan
        self._make = self._bar_maker(shown)
        if epochs is None and steps is None:
            epochs = 10
        planned = [math.inf if steps is None else steps, math.inf if epochs is None else epochs * trainer.batches]
        self._total = min(planned)
        self._trainer = trainer

    def around(self, callback: Callback | None) -> Callback | None:
        """A callback that also moves the bar, if one is shown."""
        if self._make is None or callback is not None and not callable(callback):  # the trainer refuses the latter
            return callback

        def told(record: dict[str, Any]) -> None:
            if callback is not None:
                callback(record)
            self._show(record)

        return told

    def __enter__(self) -> Bar:
        if self._make is not None:
            self._bar = self._make(total=self._total, initial=self._trainer.progress.step, unit=" steps",
                                   dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @staticmethod
    def _bar_maker(shown: bool | None) -> Any:
        if shown is not None:
            checks.flag("fit", "verbose", shown)
        if shown is False or shown is None and not _is_watched():
            return None
        try:
            return need("fit verbose=True", "tqdm.auto", "tqdm", "cli").tqdm
        except MissingExtra:
            if shown:
                raise
            return None

    def _show(self, record: dict[str, Any]) -> None:
        prefix, unit = ("bits_per_dim", "bits/dim") if "bits_per_dim" in record else ("loss", "nats")
        value = record.get(prefix)
        if record["event"] == "step":
            if value is not None:
                self._loss = value if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * value
            self._bar.set_postfix_str(f"train {self._loss:.3f} {unit}{self._valid}", refresh=False)
            self._bar.update(record["step"] - self._bar.n)
        elif (valid := record.get(f"valid_{prefix}")) is not None:
            self._valid = f", valid {valid:.3f}"


def _is_watched() -> bool:
    """Whether a person sees the output: a terminal, or a notebook."""
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr is not None and sys.stderr.isatty()
