"""Tables that have no density, and columns of which few values, far from the rest, set the scale.

Columns of few values, or that follow from others, one value in many rows, rows that are there twice: on such data the
likelihood grows without bound, as the peaks that a flow puts on them become narrower.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from evenflow._border.bounds import Pairs, unbounded
from evenflow.errors import DataWarning
from evenflow.data.rows import scramble, shuffled

if TYPE_CHECKING:
    from evenflow.training.loop import Trainer

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
FAR = 1e4
"""Times the distance of its quartiles that a column's deviation may be. Of a Cauchy distribution it is some tens to
hundreds; beyond, half of the rows differ by less than a ten-thousandth once they are standardised."""
MOST_COLUMNS = 1024
"""Whose dependence is looked for, which takes as long as the cube of their number."""
OFF = 100.0
"""Times the distance of a column's quartiles that a row may be from the middle for its dependence on others."""
NOISE = 4.0
"""Times the rounding of columns, as a variance, that they may differ by and still follow from each other."""
SHOWN = 4
"""Columns that are named."""


_TOLD: set[str] = set()
"""Texts of fits that scikit-learn made, which cross-validates: its searches undo Python's own memory of warnings."""


def warn(where: str, trainer: Trainer) -> None:
    """A DataWarning, at the line that called the package, of each thing that `found` finds."""
    for text in found(where, trainer):
        level, frame = 1, sys._getframe()
        while _is_ours(frame) and frame.f_back is not None:
            level, frame = level + 1, frame.f_back
        if str(frame.f_globals.get("__name__")).startswith("sklearn."):
            if text in _TOLD:
                continue
            _TOLD.add(text)
        warnings.warn(text, DataWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "evenflow"


def found(where: str, trainer: Trainer, names: Sequence[str] | None = None) -> list[str]:
    """What is wrong with a trainer's table (N, D) in this way, and what helps: no text, one, or two.

    Rows that differ in their context are no copies. Rows of weight 0 are left out, others count alike: a weight says
    how much of the distribution a row stands for, not that its values were drawn again.
    names: of the columns; None: those that the flow remembers, or else numbers.
    """
    x, context, dtype = trainer.x, trainer.given, trainer.flow.dtype
    names = list(names or trainer.flow.columns or ())
    most = max(1, min(MOST_ROWS, MOST_VALUES // x.shape[1]))
    index = shuffled(x, trainer.settings.seed)[:most] if len(x) > most else slice(None)
    with np.errstate(over="ignore"):
        rows = np.asarray(x[index]).astype(dtype)
    given = np.empty((len(rows), 0), dtype) if context is None else context[index]
    good = np.isfinite(rows).all(1)  # those of a file are checked later
    if trainer.weights is not None:
        good &= trainer.weights[index] > 0
    rows, given = rows[good], given[good]
    known = [repr(name) for name in names] if names else [str(j) for j in range(rows.shape[1])]
    said = []
    few, peaks = [], []
    for name, column in zip(known, rows.T):
        values, counts = np.unique(column, return_counts=True)
        often = counts >= max(LEAST, OFTEN * len(rows))
        if often.sum() > 1 and counts[often].sum() >= MOST * len(rows):
            apart = np.diff(values[often].astype(np.float64)).min()
            few.append(f"{name} ({often.sum()} values, {apart:.3g} apart)")
        elif counts.max(initial=0) >= max(2 * LEAST, MUCH * len(rows)):
            peaks.append(f"{name} ({values[counts.argmax()]:.6g} in {_share(counts.max(), len(rows))} of the rows)")
    if few:
        said.append(f"few distinct values in {_columns(few)} (add uniform noise as wide as they are apart)")
    if peaks:
        said.append(f"one value many times in {_columns(peaks)} (leave these rows out, or add noise to them)")
    if copies := _copies(np.concatenate([rows, given], axis=1)):
        said.append(f"{_share(copies, len(rows))} of the rows repeat others (leave them out)")
    dependent = [known[j] for j in _dependent(rows, given)]
    if dependent:
        of_what = "linearly dependent" if len(dependent) > 1 else "a linear function of the context"
        are = "are" if len(dependent) > 1 else "is"
        said.append(f"{_columns(dependent)} {are} {of_what} (leave one of them out)")
    texts = []
    if said:
        texts.append(f"[{where}] this table has no density: {'; '.join(said)}. The likelihood can grow without bound, "
                     'and its size means nothing; see "Discrete columns and repeated rows" in the documentation')
    far = _scales_of_few(trainer.flow._bounds, rows, given, known) if trainer.standardises else []
    if far:
        texts.append(f"[{where}] a few outliers dominate the standard deviation of {_listed(far)}: leave their rows "
                     "out, or clip or transform the column")
    return texts


def _share(count: int, of: int) -> str:
    """A percentage to one digit, so that other folds of the same data give the same text, which is then shown once."""
    return f"{float(f'{100 * count / of:.1g}'):g} %"


def _columns(names: list[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {_listed(names)}"


def _scales_of_few(bounds: Pairs | None, rows: np.ndarray, given: np.ndarray, known: list[str]) -> list[str]:
    """Columns, of a context too, whose deviation is much larger than what half of their rows lie within."""
    found = []
    with np.errstate(all="ignore"):  # rows of a file that lie out of bounds are found later
        x = rows if bounds is None else unbounded(bounds, rows)
        names = [f"column {name}" for name in known] + [f"context column {j}" for j in range(given.shape[1])]
        for name, column in zip(names, [*x.T, *given.T]):
            column = column[np.isfinite(column)]
            low, high = np.quantile(column, [0.25, 0.75], method="nearest") if len(column) else (0.0, 0.0)
            half, deviation = float(high) - float(low), float(column.std(dtype=np.float64)) if len(column) else 0.0
            if deviation > FAR * half > 0:
                found.append(f"{name} (deviation {deviation:.1g}, half of the rows within {half:.1g})")
    return found


def _dependent(rows: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The columns of rows that are linear combinations of others and of those of given, up to rounding."""
    x = np.concatenate([rows, given], axis=1).astype(np.float64)
    with np.errstate(all="ignore"):
        low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0) if len(x) else np.zeros((3, x.shape[1]))
        far = (np.abs(x - middle) > OFF * (high - low)) & (high > low)
    x = x[~far.any(1)]  # a row that is far off in several columns puts all on a line
    at = np.flatnonzero((x != x[:1]).any(0))
    if len(at) > MOST_COLUMNS or len(x) < 2 * len(at):
        return np.empty(0, int)
    x = x[:, at]
    x /= np.abs(x).max(0, initial=0)  # squares of large numbers are too large
    size = np.square(x).mean(0) / x.var(0)  # of what is rounded, against the deviation
    x = (x - x.mean(0)) / x.std(0)
    spread, ways = np.linalg.eigh(x.T @ x / len(x))
    rounding = np.square(np.finfo(rows.dtype).eps) * (np.square(ways).T @ size)
    flat = spread < NOISE * np.maximum(rounding, 1e-16)
    share = np.abs(ways[:, flat]).max(1, initial=0)
    part: np.ndarray = at[(share > 1e-3) & (at < rows.shape[1])]
    return part


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
