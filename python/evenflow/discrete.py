"""Tables that have no density: columns of few values, one value in many rows, rows that are there twice.

On such data the likelihood grows without bound, as the peaks that a flow puts on them become narrower.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from evenflow.errors import DataWarning
from evenflow.rows import scramble, shuffled

if TYPE_CHECKING:
    from evenflow.train import Trainer

MOST_ROWS, MOST_VALUES = 1 << 16, 1 << 22
"""That are looked at."""
OFTEN, LEAST = 0.01, 5
"""Share, and number, of the rows from which on a value is a frequent one. However many rows there are, those of a
normal distribution have frequent values only where they are rounded to a 40th of its deviation or more."""
MOST, MUCH = 0.5, 0.05
"""Shares of the rows that frequent values together, and one alone, may have; of few rows one may have twice LEAST."""
REPEATED, BY_CHANCE = 0.02, 10.0
"""Share of the rows that may repeat others; and how many times as many as independent columns of the same values would
have, since rows that agree after rounding are no copies."""
SHOWN = 4
"""Columns that are named."""


def warn(where: str, trainer: Trainer) -> None:
    """A DataWarning, at the line that called the package, where `found` finds something."""
    text = found(where, trainer)
    if text is not None:
        level, frame = 1, sys._getframe()
        while _is_ours(frame) and frame.f_back is not None:
            level, frame = level + 1, frame.f_back
        warnings.warn(text, DataWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "evenflow"


def found(where: str, trainer: Trainer, names: Sequence[str] = ()) -> str | None:
    """What is wrong with a trainer's table (N, D) in this way, and what helps; None where nothing is.

    Rows that differ in their context are no copies. Rows of weight 0 are left out, others count alike: a weight says
    how much of the distribution a row stands for, not that its values were drawn again.
    names: of the columns, else numbers.
    """
    x, context, dtype = trainer.x, trainer.given, trainer.flow.dtype
    most = max(1, min(MOST_ROWS, MOST_VALUES // x.shape[1]))
    index = shuffled(x, trainer.settings.seed)[:most] if len(x) > most else slice(None)
    with np.errstate(over="ignore"):
        rows = np.asarray(x[index]).astype(dtype)
    given = np.empty((len(rows), 0), dtype) if context is None else context[index]
    good = np.isfinite(rows).all(1)  # those of a file are checked later
    if trainer.weights is not None:
        good &= trainer.weights[index] > 0
    rows, given = rows[good], given[good]
    of = f"of {len(rows)} {'sampled ' if len(x) > most else ''}rows"
    few, peaks = [], []
    for j, column in enumerate(rows.T):
        name = f"column {names[j]!r}" if len(names) else f"column {j}"
        values, counts = np.unique(column, return_counts=True)
        often = counts >= max(LEAST, OFTEN * len(rows))
        if often.sum() > 1 and counts[often].sum() >= MOST * len(rows):
            apart = np.diff(values[often].astype(np.float64)).min()
            few.append(f"{name} ({often.sum()} values, {apart:.3g} apart, in {counts[often].sum()} {of})")
        elif counts.max(initial=0) >= max(2 * LEAST, MUCH * len(rows)):
            peaks.append(f"{name} ({values[counts.argmax()]:.6g} in {counts.max()} {of})")
    copies = _copies(np.concatenate([rows, given], axis=1))
    said = [f"few values in {_listed(few)}: add uniform noise as wide as they are apart"] if few else []
    if peaks:
        said.append(f"one value often in {_listed(peaks)}: leave these rows out, or add noise to them")
    if copies:
        said.append(f"{copies} {of} that repeat others: leave them out")
    if not said:
        return None
    return (f"[{where}] expected rows of a continuous distribution, got {'; '.join(said)}. On such data the likelihood "
            "can grow without bound, and its size means nothing; see docs/tutorials/tables.md, Discrete columns and "
            "repeated rows")


def _copies(rows: np.ndarray) -> int:
    """How many rows repeat others, or 0 where that may be by chance."""
    n, marks, alike = len(rows), np.zeros(len(rows), np.uint64), 1.0
    for column in rows.T:
        column = np.ascontiguousarray(column) + 0.0  # of -0.0 as well
        marks = scramble(marks + column.view(f"u{column.itemsize}").astype(np.uint64))
        counts = np.unique(column, return_counts=True)[1]
        alike *= float((counts * (counts - 1.0)).sum()) / max(1, n * (n - 1))  # chance that two rows agree in it
    copies = n - len(np.unique(marks))
    return copies if copies >= max(LEAST, REPEATED * n, BY_CHANCE * alike * n * n / 2) else 0


def _listed(found: list[str]) -> str:
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")
