"""Bounds of a table's columns: the setting, and which rows lie strictly between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evenflow._border import checks
from evenflow._border.checks import is_sequence
from evenflow.errors import ConfigError, NumericError, wrong

Pairs = Sequence[Sequence[float | None]]
"""(low, high) of every column, None for an open end."""


class Box(list[tuple[float, float]]):
    """(low, high) of every column, ends included: where rows of a flow with a uniform base lie."""


def checked(where: str, bounds: Any, columns: int) -> list[list[float | None]] | None:
    """The setting as JSON holds it, or None where all ends are open. None: a column with two open ends. TypeError,
    ConfigError.

    What the numbers have to be the core says, which reads them from files too.
    """
    if bounds is None:
        return None
    if not is_sequence(bounds) or not all(pair is None or is_sequence(pair) and len(pair) == 2 for pair in bounds):
        raise wrong(TypeError, where, "bounds",
                    f"expected bounds as a pair (low, high) or None for every column, got {bounds!r}")
    if len(bounds) != columns:
        raise wrong(ConfigError, where, "bounds", f"expected bounds for each of {columns} columns, got {len(bounds)}")
    pairs = [[None if end is None else checks.number(where, "bounds", end, -math.inf)
              for end in ((None, None) if pair is None else pair)] for pair in bounds]
    return pairs if any(end is not None for pair in pairs for end in pair) else None


def by_column(where: str, bounds: Any, names: Sequence[Any], columns: int) -> Any:
    """A mapping of columns, by name or place (0, 1, ...), to pairs, as pairs of all columns; others as they are.

    A whole number that is the name of a column is that column, wherever it stands. ConfigError for an unknown column,
    or one that is named twice.
    """
    if not isinstance(bounds, Mapping):
        return bounds
    known: dict[Any, int] = {**{c: c for c in range(columns)}, **{name: c for c, name in enumerate(names)}}
    pairs: dict[int, Any] = {}
    for column, pair in bounds.items():
        if column not in known:
            choice = ", ".join(map(str, names)) if len(names) else f"0 ... {columns - 1}"
            raise wrong(ConfigError, where, "bounds", f"expected columns out of {choice}, got {column!r}")
        if known[column] in pairs:
            raise wrong(ConfigError, where, "bounds", f"expected each column once, got {column!r} by name and by place")
        pairs[known[column]] = pair
    return [pairs.get(c, (None, None)) for c in range(columns)]


def outside(bounds: Pairs | None, x: np.ndarray) -> np.ndarray:
    """(N, D) or, without bounds, (N, 1) bool: which values of x lie on a bound or beyond it, in x's own dtype.

    On an end of a Box they lie inside.
    """
    if bounds is None:
        return np.zeros((len(x), 1), bool)
    low, high = _ends(bounds, x.dtype)
    if isinstance(bounds, Box):
        return ~((x >= low) & (x <= high))
    return ~((x > low) & (x < high))


def require_inside(where: str, bounds: Pairs | None, x: np.ndarray, rows: np.ndarray | None = None,
                   names: Sequence[str] = ()) -> None:
    """NumericError for the first value that is `outside`; `rows` are the numbers of x's rows."""
    bad = outside(bounds, x)
    if bounds is None or not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    (low, high), value, number = bounds[column], x[row, column], row if rows is None else int(rows[row])
    name = names[column] if len(names) else column
    wanted = (f"above {_shown(low)}" if high is None else f"below {_shown(high)}" if low is None
              else f"in [{_shown(low)}, {_shown(high)}]" if isinstance(bounds, Box)
              else f"between {_shown(low)} and {_shown(high)}")
    if isinstance(bounds, Box):
        what, todo = "outside of the box of a uniform base", "scale the columns to it"
    else:
        what, todo = "on or outside of their bounds", "widen these"
    near = x.dtype == np.float32 and value in [end if end is None else x.dtype.type(end) for end in (low, high)]
    raise wrong(NumericError, where, "x",
                f"expected values {wanted} for column {name}, got {_shown(value)} for sample {number}; "
                f"{int(bad.any(1).sum())} of {len(x)} rows lie {what}: {todo}, or leave "
                f"the rows out{'; if float32 has rounded them to it, use dtype float64' * near}", number, name)


def _shown(number: Any) -> str:
    """With as many digits as tell it from others of its type: a bound may be near."""
    return str(number).removesuffix(".0")


def rounded(bounds: Pairs, dtype: np.dtype) -> list[list[float | None]]:
    """The bounds that a model of this dtype computes with."""
    return [[None if end is None else float(dtype.type(end)) for end in pair] for pair in bounds]


def _ends(bounds: Pairs, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Two (D,) arrays of `dtype`, infinite where open."""
    return (np.array([-math.inf if low is None else low for low, _ in bounds], dtype),
            np.array([math.inf if high is None else high for _, high in bounds], dtype))
