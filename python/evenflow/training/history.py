"""History: what a training returns."""

from __future__ import annotations

import os
from typing import Any

from evenflow.training.settings import Settings

CUT_SHORT = "the last epoch was the best, so a longer training may be better"


def best_of(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """That of the epoch with the best validation loss, which is kept."""
    known = [record for record in records if record.get("valid_loss") is not None]
    return min(known, key=lambda record: record["valid_loss"], default=None)


class History(list[dict[str, Any]]):
    """A list with one dict an epoch: epoch, step, loss [nats a sample], lr, seconds, ..., valid_loss.

    An epoch that the training did not finish is the last one. `settings` are those of the training, without "auto", and
    `stopped` says whether `patience` ended it.
    """

    def __init__(self, records: list[dict[str, Any]], rows: int, valid_rows: int, settings: Settings, stopped: bool):
        super().__init__(records)
        self.rows, self.valid_rows, self.settings, self.stopped = rows, valid_rows, settings, stopped

    def __repr__(self) -> str:  # a notebook shows what a cell ends with, and a training has hundreds of epochs
        if not self:
            return "History: no step"
        last, best = self[-1], best_of(self)
        told = ", ".join(f"{name} {last[name]:.4f}" for name in ("loss", "valid_loss") if last.get(name) is not None)
        held = end = ""
        if best is not None:
            held = (f"; trained on {self.rows:,} rows and validated on {self.valid_rows:,}, best in epoch "
                    f"{best['epoch']} with valid_loss {best['valid_loss']:.4f}")
            end = f"; {CUT_SHORT}" if best is last else (
                f"; ended after {self.settings.patience} epochs that were not better" if self.stopped else "")
        count = "1 epoch" if len(self) == 1 else f"{len(self)} epochs"
        return f"History: {count}, {last['step']} steps{held}; last epoch: {told} nats a row{end}"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the losses by step, with matplotlib.

        Parameters
        ----------
        path : path, optional
            Where to write the picture, as PNG or whatever the name ends in; None: nowhere.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        """
        from evenflow import plot
        return plot.learning_curve(self, path)
