"""History: what a training returns."""

from __future__ import annotations

import os
from typing import Any


class History(list[dict[str, Any]]):
    """A list with one dict an epoch: epoch, step, loss [nats a sample], lr, seconds, ..., valid_loss.

    An epoch that the training did not finish is the last one, without a valid_loss.
    """

    def __init__(self, records: list[dict[str, Any]], rows: int = 0, valid_rows: int = 0):
        super().__init__(records)
        self.rows, self.valid_rows = rows, valid_rows

    def __repr__(self) -> str:  # a notebook shows what a cell ends with, and a training has hundreds of epochs
        if not self:
            return "History: no step"
        last, best = self[-1], [r for r in self if r.get("valid_loss") is not None]
        told = ", ".join(f"{name} {last[name]:.4f}" for name in ("loss", "valid_loss") if last.get(name) is not None)
        held = ""
        if best:
            kept = min(best, key=lambda r: r["valid_loss"])
            held = (f"; trained on {self.rows:,} rows and validated on {self.valid_rows:,}, best in epoch "
                    f"{kept['epoch']} with valid_loss {kept['valid_loss']:.4f}")
        elif self.valid_rows:
            held = f"; trained on {self.rows:,} rows and not validated, for want of a whole epoch"
        count = "1 epoch" if len(self) == 1 else f"{len(self)} epochs"
        return f"History: {count}, {last['step']} steps{held}; last epoch: {told} nats"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the losses by epoch, with matplotlib.

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
