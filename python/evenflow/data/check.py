"""What the columns of a table are, and what a flow should be told of them.

On columns of few values, or that follow from others, and on repeated rows the likelihood grows without bound, as the
peaks that a flow puts on them become narrower. Past an end of a column, such as zero, a flow draws what can't be.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from evenflow._border import arrays, checks
from evenflow._border.batch import Batch
from evenflow._border.bounds import Pairs
from evenflow.data.rows import shuffled
from evenflow.errors import ShapeError, wrong

MOST_ROWS, MOST_VALUES = 1 << 16, 1 << 22
"""That are looked at."""
OFTEN, LEAST = 0.01, 5
"""Share, and number, of the rows from which on a value is a frequent one. However many rows there are, those of a
normal distribution have frequent values only where they are rounded to a 40th of its deviation or more."""
MOST, MUCH = 0.5, 0.05
"""Shares of the rows that frequent values together, and one alone, may have; of few rows one may have twice LEAST."""
CLASSES, REPEATED, FEW = 20, 0.02, 50
"""Most values of a class; share of the rows that may repeat others; rows that tell nothing of ends and tails."""
APART, OFF, FAR = 3.0, 100.0, 1e4
"""Times the distance of the quartiles that a mark of missing values is from the others, that a row may be from the
middle for the column's dependence on others, and that a column's deviation may be; of a Cauchy distribution this is
some tens to hundreds."""
LONG = (0.001, 12.0), (0.01, 10.0)
"""(share of the rows at either end, times the distance of the quartiles that the others are wide) where tails are long,
of many rows and of few: 10 and 5 of Student's t with 4 degrees of freedom, 36 and 10 with 1.7."""
NEAR, FULL, SKEW = 0.05, 0.005, 2.5
"""Width of an end, and the share of the rows there that makes it one; how much longer the upper half of a positive
column's rows is than the lower where it has a long tail."""
ANGLES = [(low * half, high * half) for half in (180.0, 3.1416) for low, high in ((0, 1), (0, 2), (-1, 1), (-.5, .5))]
TOPS = 1.0, 100.0
"""Where fractions and percentages end."""
MOST_COLUMNS = 1024
"""Whose dependence is looked for, which takes as long as the cube of their number."""
SHOWN = 12
"""Lines that a training prints."""
BARS = " ▁▂▃▄▅▆▇█"
NO_LIMIT = "so the likelihood can grow without bound"


class Finding(NamedTuple):
    """What was seen of a column, the remedy in Python's words, and options of `evenflow train`, if it has any."""

    kind: str
    seen: str
    python: str
    options: str = ""


@dataclass
class Column:
    """A column as it was looked at."""

    name: str | int
    place: int
    values: np.ndarray
    """Those that are finite."""
    missing: int = 0
    found: list[Finding] = field(default_factory=list)
    """Nothing of a plain real number."""

    @property
    def kind(self) -> str:
        return ", ".join(dict.fromkeys(one.kind for one in self.found)) or "real"

    @property
    def ends(self) -> bool:
        """Whether many rows are near the least or the largest, as at the ends of a range."""
        low, high = self.values.min(), self.values.max()
        near = max(int((abs(self.values - end) < NEAR * (high - low)).sum()) for end in (low, high))
        return near >= max(LEAST, OFTEN * len(self.values))

    def option(self, name: str, *values: object) -> str:
        """--name COLUMN VALUES, as a shell takes it."""
        said = ("none" if value is None else f"{value:.9g}" if isinstance(value, float) else value for value in values)
        return " ".join(map(str, (f"--{name}", shlex.quote(str(self.name)), *said)))

    def within(self, low: float | None, high: float | None, step: float = 0.0) -> tuple[str, str]:
        """Bounds, and noise for values in steps, in the words of Python and of the command line."""
        python, options = list[str](), list[str]()
        if step:
            python = [f"add noise, rng.uniform({-step / 2:g}, {step / 2:g}, N), and round samples"]
            options = [self.option("noise", step)]
        if (low, high) != (None, None):
            ends = ("None" if end is None else f"{end:.9g}" for end in (low, high))
            python.append(f"bounds={{{self.place}: ({', '.join(ends)})}}")
            options.append(self.option("bounds", low, high))
        return ", with ".join(python), " ".join(options)


@dataclass
class Inspection:
    """What `inspect` saw of the columns, and what concerns several of them. `print` shows a table."""

    rows: int
    columns: list[Column]
    table: list[str]

    def lines(self, command: bool = False, most: int | None = None) -> list[str]:
        """A line for each column that is no plain real number, and those that concern several; or the first of them.

        command: remedies are told as options of `evenflow train`, where it has them, not in Python's words.
        """
        told = [f"column {column.name!r} " + "; ".join(f"{one.seen}: {command and one.options or one.python}"
                                                       for one in column.found)
                for column in self.columns if column.found] + self.table
        return told if most is None or len(told) <= most else [
            *told[:most], f"{len(told) - most} more lines: evenflow inspect, or evenflow.data.inspect, has all"]

    def options(self, table: bool = True) -> str:
        """Those of `evenflow train` that the lines name, of alternatives the first; or bounds alone, as for arrays."""
        found = (one.options.partition(", or ")[0] for column in self.columns for one in column.found)
        return " ".join(one for one in found if one.startswith("--" if table else "--bounds"))

    def __str__(self) -> str:
        table = [["column", "kind", "missing", "least", "1 %", "median", "99 %", "most", ""]]
        for one in self.columns:
            quantiles = np.quantile(one.values, [0, 0.01, 0.5, 0.99, 1]) if len(one.values) else [math.nan] * 5
            table.append([str(one.name), one.kind, str(one.missing), *[f"{q:.4g}" for q in quantiles],
                          _histogram(one.values)])
        wide = [max(map(len, cells)) for cells in zip(*table)]
        return "\n".join("  ".join(f"{cell:{'<' if i in (0, 1, 8) else '>'}{wide[i]}}" for i, cell in enumerate(row)
                                   ).rstrip() for row in table)


def inspect(x: Any, context: Any = None, *, names: Sequence[str] | None = None, seed: int = 0) -> Inspection:
    """Looks at the columns of a table, as `fit` does before it trains.

    Parameters
    ----------
    x : array_like, (N, D)
        The table, in which values may be missing (NaN); of a large one 65,536 rows are looked at.
    context : array_like, (N, C), optional
        What its density is conditioned on. Rows that differ in it are no copies.
    names : sequence of str, optional
        Of the columns. None: those of a data frame, or numbers.
    seed : int
        Of the rows that are looked at.

    Returns
    -------
    Inspection
        `print` shows a table of the columns; `lines()` says of each that is no plain real number what was seen, and
        the argument that serves it.

    Raises
    ------
    ShapeError, TypeError
        An argument is no table of numbers.

    Examples
    --------
    >>> import numpy as np, evenflow as ef
    >>> table = np.random.default_rng(0).normal(size=(1000, 2))
    >>> table[:, 1] = np.exp(table[:, 1])
    >>> print(*ef.data.inspect(table, names=["speed", "flux"]).lines())
    column 'flux' is positive with a long tail: bounds={1: (0, None)}
    """
    where = "inspect"
    names = arrays.names_of(x) if names is None else names
    texts = dict[int, list[str]]()
    if hasattr(x, "select_dtypes"):  # of pandas
        others = x.columns.get_indexer(x.select_dtypes(exclude="number").columns).tolist()
        texts = {j: sorted(map(str, x.iloc[:, j].dropna().unique())) for j in others}
        x = x.assign(**dict.fromkeys(x.columns[others], math.nan))
    rows = arrays.as_array(where, x)
    if len(rows.shape) != 2:
        raise wrong(ShapeError, where, "x", f"expected a table (N, D), got {rows.shape}")
    given = None if context is None else arrays.as_numbers(where, "context", context).reshape(len(rows), -1)
    seed = checks.whole(where, "seed", seed, low=0)
    seen = look(Batch(rows, context=given), np.dtype(np.float64), names or (), seed)
    for one, count in zip(seen.columns, (~np.isfinite(rows)).sum(0).tolist() if rows.dtype.kind == "f" else ()):
        one.missing = count
        one.found[:0] = [Finding("missing", f"has {count} missing values", "leave these rows out, or fill them in",
                                 one.option("omit", "missing"))] if count else []
    name_texts(seen, texts)
    return seen


def name_texts(seen: Inspection, texts: Mapping[int, list[str]]) -> None:
    """Says of columns, by their numbers, that they hold texts, and which, as of no number."""
    for j, found in texts.items():
        one, todo = seen.columns[j], "write numbers in its place"
        one.found = [Finding("text", f"has text ({', '.join(found[:3])})", f"leave it out, or {todo}",
                             f"{one.option('drop')}, or {todo}, for --context")]


def look(data: Batch, dtype: np.dtype, names: Sequence[str] = (), seed: int = 0, bounds: Pairs | None = None,
         scales: bool = True) -> Inspection:
    """`inspect`, for a flow of a dtype, with bounds, whose columns need no others.

    Rows of weight 0 are left out, others count alike: a weight says how much of the distribution a row stands for, not
    that its values were drawn again. scales: whether the table also decides how the flow standardises.
    """
    n, d = data.x.shape
    most = max(1, min(MOST_ROWS, MOST_VALUES // d))
    index = shuffled(data.x, seed)[:most] if n > most else np.arange(n)
    index = index if data.weight is None else index[data.weight[index] > 0]
    with np.errstate(over="ignore"):
        rows = np.asarray(data.x[index]).astype(dtype)
    given = np.empty((len(rows), 0), dtype) if data.context is None else data.context[index].astype(dtype)
    finite, columns, told = np.isfinite(rows), list[Column](), list[str]()
    for j in range(d):
        columns.append(one := Column(names[j] if len(names) else j, j, rows[finite[:, j], j].astype(np.float64)))
        one.found += _found(one, bounds is None or (None, None) == tuple(bounds[j]), scales)
    some = [one for one in columns if len(one.values)]
    finite, rows = finite[:, finite.any(0)], rows[:, finite.any(0)]
    rows, given = rows[finite.all(1)], given[finite.all(1)]
    for j, others in _follow(rows, given):
        of = dict.fromkeys("the context" if i < 0 else f"{some[i].name!r}" for i in others)
        some[j].found[:] = [Finding("copy", f"is a linear function of {', '.join([*of][:4])}, {NO_LIMIT}",
                                    "leave it out", some[j].option("drop"))]
    if copies := _copies(np.concatenate([rows, given], axis=1)):
        told.append(f"{_share(copies / len(rows))} of the rows repeat others, {NO_LIMIT}: leave them out")
    told += [f"context column {j} {one.seen}: {one.python}" for j in range(given.shape[1] if scales else 0)
             for one in _outliers(given[:, j].astype(np.float64))]
    return Inspection(n, columns, told)


def compare(rows: np.ndarray, drawn: np.ndarray) -> list[tuple[float, float]]:
    """For each column the share of drawn values outside of the rows' range, and Kolmogorov's distance of the two."""
    found = []
    for a, b in zip(np.sort(rows, axis=0).T, np.sort(drawn, axis=0).T):
        one, other = (np.searchsorted(x, np.concatenate([a, b]), side="right") / len(x) for x in (a, b))
        found.append((float(((b < a[0]) | (b > a[-1])).mean()), float(np.abs(one - other).max())))
    return found


def _found(column: Column, free: bool, scales: bool) -> Iterator[Finding]:
    """What there is to say of a column by itself. free: it has no bounds yet."""
    v, n, out = column.values, len(column.values), "leave these rows out"
    for mark in _marks(v):
        share, v = (v == mark).mean(), v[v != mark]
        yield Finding("mark", f"has {mark:.6g} in {_share(share)} of the rows, far from the others, as a mark of "
                      "missing values is", out, column.option("omit", mark))
    values, counts = np.unique(v, return_counts=True)
    if len(values) < 2:
        if len(v) > 1:
            yield Finding("constant", "is constant, which has no density", "leave it out", column.option("drop"))
        return
    often, two = counts >= max(LEAST, OFTEN * n), len(values) == 2 and counts.min() >= LEAST
    if two or often.sum() > 1 and counts[often].sum() >= MOST * n:
        yield _few(column, values, two or bool(often.all()) and len(values) <= CLASSES, free)
        return
    often = counts >= max(2 * LEAST, MUCH * n)
    for at, beside in ((0, 1), (-1, -2)):  # where values were cut off
        often[at] |= counts[at] >= max(LEAST, FULL * n, 10 * counts[beside])
    for limit in values[often].tolist():
        share, v = (v == limit).mean(), v[v != limit]
        yield Finding("peak", f"has {limit:.6g} in {_share(share)} of the rows, {NO_LIMIT}",
                      f"{out}, or add noise to them", column.option("omit", limit))
    if scales and free:
        yield from _outliers(v)
    if len(v) < FEW or not free:
        return
    kind, seen, low, high = _ends(v)
    if kind:
        touched, step = [end for end in (low, high) if end in (v.min(), v.max())], 0.0
        if touched:
            step = next((0.1 ** k for k in range(7) if (abs(v - np.round(v, k)) <= 1e-7 * abs(v)).all()), 0.0)
            seen += ", with values on the bound"
        for end in touched if not step else ():
            yield Finding(kind, f"has {end:g} in {_share((v == end).mean())} of the rows", out,
                          column.option("omit", end))
        low, high = None if low is None else low - step, None if high is None else high + step
        yield Finding(kind, seen, *column.within(low, high, step))
        return
    rare, times = LONG[n < 1000]
    q = np.quantile(v, [rare, 0.25, 0.5, 0.75, 1 - rare])
    if q[4] - q[0] > times * (scale := q[3] - q[1]) > 0:
        shift = f"(x {-q[2]:+.2g})" if abs(q[2]) > scale else "x"
        formula = f"np.arcsinh({shift} / {scale:.2g})"
        yield Finding("long tails", "has long tails", f"take {formula} for it", f"write {formula} in its place")


def _few(column: Column, values: np.ndarray, classes: bool, free: bool) -> Finding:
    """A column of few values: a class, or numbers in steps."""
    step = float(f"{np.diff(values).min():.3g}")
    low = values[0] - step if free and values[0] in (0, step) else None
    high = values[-1] + step if low is not None and values[-1] in TOPS else None
    python, options = column.within(low, high, step)
    if classes:
        return Finding("class", f"has {len(values)} values, {NO_LIMIT}", f"take a class as the context, or {python}",
                       f"{column.option('context')}, or {options}")
    return Finding("count" if step == 1 and low is not None else "steps", f"has few values, {step:g} apart, {NO_LIMIT}",
                   python, options)


def _marks(v: np.ndarray) -> Iterator[float]:
    """Values that several rows have, before or after all others: far from them, the only negative one, or in nines."""
    values, counts = np.unique(v, return_counts=True)
    at = 0
    while at > -2 and len(values) > CLASSES:
        rest = slice(1, None) if at == 0 else slice(-1)
        others = np.repeat(values[rest], counts[rest])
        low, high = others[len(others) // 4], others[3 * len(others) // 4]
        mark, gap = float(values[at]), abs(values[at] - values[rest][at])
        nines = abs(mark) > 9 and set(f"{abs(mark):.0f}") == {"9"} and gap > high - low
        negative = at == 0 and mark < 0 <= values[1]
        if counts[at] >= LEAST and (gap > APART * (high - low) > 0 or nines or negative):
            yield mark
            values, counts = values[rest], counts[rest]
        else:
            at -= 1


def _ends(v: np.ndarray) -> tuple[str, str, float | None, float | None]:
    """(kind, what it is, the ends of its range), None for an open end; no kind of a column without ends."""
    least = max(3, FULL * len(v))
    for low, high in ANGLES:
        width = NEAR * (high - low)
        if low <= v.min() and v.max() <= high and min((v < low + width).sum(), (v > high - width).sum()) >= least:
            return "angle", f"is an angle ({low:g} ... {high:g})", low, high
    low, middle, high = np.quantile(v, [0.01, 0.5, 0.99])
    if v.min() < 0:
        return "", "", None, None
    for top in TOPS:  # of percentages one has to be 100, since much else is below
        if (v.max() == top or v.max() < top == 1) and high > top / 2 and max(
                (v < NEAR * top).sum(), (v > top - NEAR * top).sum()) >= least:
            return "fraction", f"is a fraction (0 ... {top:g})", 0.0, top
    if low < middle / 2 and high - middle > SKEW * (middle - low):
        return "positive", "is positive with a long tail", 0.0, None
    many = (v < NEAR * high).sum() >= max(LEAST, least)
    return ("positive", "begins at 0, with many rows", 0.0, None) if many else ("", "", None, None)


def _outliers(v: np.ndarray) -> Iterator[Finding]:
    """Of a column whose deviation is much larger than what half of its rows lie within."""
    low, high = np.quantile(v, [0.25, 0.75], method="nearest") if len(v) else (0.0, 0.0)
    with np.errstate(over="ignore"):
        if high > low and (deviation := v.std()) > FAR * (high - low):
            yield Finding("outliers", f"has a few outliers, which dominate its deviation ({deviation:.1g}, half of the "
                          f"rows within {high - low:.1g})", "leave these rows out, or clip or transform it")


def _copies(rows: np.ndarray) -> int:
    """How many rows repeat others; 0 where few do, or where a column of whole numbers, say, lets them by chance."""
    copies = len(rows) - len(np.unique(rows, axis=0)) if rows.shape[1] else 0
    values = [len(np.unique(column)) for column in rows.T]
    by_chance = len(rows) ** 2 / 2 / float(np.prod(np.array(values, np.float64))) if values and copies else 0.0
    return copies if copies >= max(LEAST, REPEATED * len(rows), 10 * by_chance) else 0


def _follow(rows: np.ndarray, given: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Columns that are linear combinations of those before them and of the context's, up to rounding, with these; the
    context's have negative numbers.
    """
    x = np.concatenate([given, rows], axis=1).astype(np.float64)
    with np.errstate(all="ignore"):
        low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0) if len(x) else np.zeros((3, x.shape[1]))
        far = (np.abs(x - middle) > OFF * (high - low)) & (high > low)
    x = x[~far.any(1)]  # a row that is far off in several columns puts all on a line
    at = np.flatnonzero((x != x[:1]).any(0))
    if not 0 < len(at) <= min(MOST_COLUMNS, len(x) // 2):
        return
    x = x[:, at] / np.abs(x[:, at]).max(0, initial=0)  # squares of large numbers are too large
    size = np.square(x).mean(0) / x.var(0)  # of what is rounded, against the deviation
    r = np.asarray(np.linalg.qr((x - x.mean(0)) / x.std(0) / math.sqrt(len(x)), mode="r"))
    free = np.zeros(len(at), bool)
    for j in range(len(at)):
        left = np.square(r[:j + 1, j][~free[:j + 1]]).sum()  # of its variance, by those that are free before it
        of = np.flatnonzero(free)
        share = np.linalg.solve(r[np.ix_(of, of)], r[of, j]) if left < 1e-4 else np.zeros(len(of))
        rounding = np.square(np.finfo(rows.dtype).eps) * (size[j] + np.square(share) @ size[of])
        free[j] = left >= 4 * max(rounding, 1e-16) or at[j] < given.shape[1]
        if not free[j]:
            yield int(at[j]) - given.shape[1], [int(at[i]) - given.shape[1] for i in of[np.abs(share) > 1e-3]]


def _histogram(v: np.ndarray) -> str:
    """Of the middle 98 % of the values, in a line of text."""
    ends = np.quantile(v, [0.01, 0.99]) if len(v) else (0.0, 0.0)
    bins = len(np.unique(v[(v >= ends[0]) & (v <= ends[1])])[:16])
    counts, _ = np.histogram(v, max(1, bins), range=tuple(ends))
    return "".join(BARS[math.ceil(8 * count / max(1, counts.max()))] for count in counts)


def _share(of: float) -> str:
    """A percentage to one digit, so that other folds of the same data give the same text, which is then shown once."""
    return f"{float(f'{100 * of:.1g}'):g} %"
