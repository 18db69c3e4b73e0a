"""Tables that have no density: columns of few values, or that follow from others; repeated rows; lone outliers.

On such data the likelihood grows without bound, as the peaks that a flow puts on them become narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow._border.batch import Batch
from evenflow._border.bounds import Pairs, unbounded
from evenflow.data.rows import shuffled
from evenflow.errors import ShapeError, wrong

MOST_ROWS, MOST_VALUES = 1 << 16, 1 << 22
"""That are looked at."""
OFTEN, LEAST = 0.01, 5
"""Share, and number, of the rows from which on a value is a frequent one. However many rows there are, those of a
normal distribution have frequent values only where they are rounded to a 40th of its deviation or more."""
MOST, MUCH = 0.5, 0.05
"""Shares of the rows that frequent values together, and one alone, may have; of few rows one may have twice LEAST."""
REPEATED = 0.02
"""Share of the rows that may repeat others."""
FAR, OFF = 1e4, 100.0
"""Times the distance of its quartiles that a column's deviation may be, and that a row may be from the middle for the
column's dependence on others. Of a Cauchy distribution the first is some tens to hundreds."""
MOST_COLUMNS = 1024
"""Whose dependence is looked for, which takes as long as the cube of their number."""
SHOWN = 4
"""Columns that are named."""


def check_table(x: Any, context: Any = None, *, names: Sequence[str] | None = None, seed: int = 0) -> list[str]:
    """Looks for what keeps a table from having a density, as `fit` does before it trains.

    Parameters
    ----------
    x : array_like, (N, D)
        The table; of a large one 65,536 rows are looked at.
    context : array_like, (N, C), optional
        What its density is conditioned on. Rows that differ in it are no copies.
    names : sequence of str, optional
        Of the columns. None: those of a data frame, or numbers.
    seed : int
        Of the rows that are looked at.

    Returns
    -------
    list of str
        What is wrong, and what helps: nothing, or up to two sentences.

    Raises
    ------
    ShapeError, TypeError
        An argument is no table of numbers.

    Examples
    --------
    >>> import numpy as np, evenflow as ef
    >>> table = np.random.default_rng(0).normal(size=(1000, 2))
    >>> table[:, 1] = np.round(table[:, 1])
    >>> print(ef.data.check_table(table)[0][:45])
    this table has no density: few distinct value
    """
    where = "check_table"
    names = arrays.names_of(x) if names is None else names
    rows = arrays.as_array(where, x)
    if len(rows.shape) != 2:
        raise wrong(ShapeError, where, "x", f"expected a table (N, D), got {rows.shape}")
    given = None if context is None else arrays.as_numbers(where, "context", context).reshape(len(rows), -1)
    seed = checks.whole(where, "seed", seed, low=0)
    return found(Batch(rows, context=given), np.dtype(np.float64), names or (), seed)


def found(data: Batch, dtype: np.dtype, names: Sequence[str] = (), seed: int = 0, bounds: Pairs | None = None,
          scales: bool = True) -> list[str]:
    """What is wrong with a table for a flow of a dtype, with bounds.

    Rows of weight 0 are left out, others count alike: a weight says how much of the distribution a row stands for, not
    that its values were drawn again. scales: whether the table also decides how the flow standardises.
    """
    n = len(data)
    most = max(1, min(MOST_ROWS, MOST_VALUES // data.x.shape[1]))
    index = shuffled(data.x, seed)[:most] if n > most else np.arange(n)
    with np.errstate(over="ignore"):
        rows = np.asarray(data.x[index]).astype(dtype)
    given = np.empty((len(rows), 0), dtype) if data.context is None else data.context[index].astype(dtype)
    good = np.isfinite(rows).all(1)  # those of a file are checked later
    if data.weight is not None:
        good &= data.weight[index] > 0
    rows, given = rows[good], given[good]
    known = [repr(name) for name in names] or [str(j) for j in range(rows.shape[1])]
    said = [*_frequent(rows, known)]
    if copies := _copies(np.concatenate([rows, given], axis=1)):
        said.append(f"{_share(copies, len(rows))} of the rows repeat others (leave them out)")
    if dependent := [known[j] for j in _dependent(rows, given)]:
        what = "are linearly dependent" if len(dependent) > 1 else "is a linear function of the context"
        said.append(f"{_columns(dependent)} {what} (leave one of them out)")
    texts = []
    if said:
        texts.append(f"this table has no density: {'; '.join(said)}. The likelihood can grow without bound, and its "
                     'size means nothing; see "Discrete columns and repeated rows" in the documentation')
    if far := _scales_of_few(bounds, rows, given, known) if scales else []:
        texts.append(f"a few outliers dominate the standard deviation of {_listed(far)}: leave their rows out, or clip "
                     "or transform the column")
    return texts


def _frequent(rows: np.ndarray, known: list[str]) -> list[str]:
    """Columns of few values, and columns with one value in many rows."""
    few, peaks = [], []
    for name, column in zip(known, rows.T):
        values, counts = np.unique(column, return_counts=True)
        often = counts >= max(LEAST, OFTEN * len(rows))
        if often.sum() > 1 and counts[often].sum() >= MOST * len(rows):
            apart = np.diff(values[often].astype(np.float64)).min()
            few.append(f"{name} ({len(values)} values, {apart:.3g} apart)")
        elif counts.max(initial=0) >= max(2 * LEAST, MUCH * len(rows)):
            peaks.append(f"{name} ({values[counts.argmax()]:.6g} in {_share(counts.max(), len(rows))} of the rows)")
    noise, out = "add uniform noise as wide as they are apart", "leave these rows out, or add noise to them"
    found = [(few, "few distinct values in", f"{noise}, or take a class as a context"),
             (peaks, "one value many times in", out)]
    return [f"{what} {_columns(columns)} ({remedy})" for columns, what, remedy in found if columns]


def _copies(rows: np.ndarray) -> int:
    """How many rows repeat others; 0 where few do, or where a column of whole numbers, say, lets them by chance."""
    copies = len(rows) - len(np.unique(rows, axis=0)) if rows.shape[1] else 0
    values = [len(np.unique(column)) for column in rows.T]
    by_chance = len(rows) ** 2 / 2 / float(np.prod(np.array(values, np.float64))) if values and copies else 0.0
    return copies if copies >= max(LEAST, REPEATED * len(rows), 10 * by_chance) else 0


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
    x = x[:, at] / np.abs(x[:, at]).max(0, initial=0)  # squares of large numbers are too large
    size = np.square(x).mean(0) / x.var(0)  # of what is rounded, against the deviation
    x = (x - x.mean(0)) / x.std(0)
    spread, ways = np.linalg.eigh(x.T @ x / len(x))
    rounding = np.square(np.finfo(rows.dtype).eps) * (np.square(ways).T @ size)
    share = np.abs(ways[:, spread < 4 * np.maximum(rounding, 1e-16)]).max(1, initial=0)
    return np.asarray(at[(share > 1e-3) & (at < rows.shape[1])])


def _scales_of_few(bounds: Pairs | None, rows: np.ndarray, given: np.ndarray, known: list[str]) -> list[str]:
    """Columns, of a context too, whose deviation is much larger than what half of their rows lie within."""
    far = []
    with np.errstate(all="ignore"):  # rows of a file that lie out of bounds are found later
        x = rows if bounds is None else unbounded(bounds, rows)
        names = [f"column {name}" for name in known] + [f"context column {j}" for j in range(given.shape[1])]
        for name, column in zip(names, [*x.T, *given.T]):
            column = column[np.isfinite(column)].astype(np.float64)
            if len(column):
                low, high = np.quantile(column, [0.25, 0.75], method="nearest")
                if column.std() > FAR * (high - low) > 0:
                    far.append(f"{name} (deviation {column.std():.1g}, half of the rows within {high - low:.1g})")
    return far


def _share(count: int, of: int) -> str:
    """A percentage to one digit, so that other folds of the same data give the same text, which is then shown once."""
    return f"{float(f'{100 * count / of:.1g}'):g} %"


def _columns(names: list[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
