"""Rows that initialise a flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from evenflow.data.rows import Order
from evenflow.errors import NumericError


def in_proportion(order: np.ndarray | Order, weights: np.ndarray | None, n: int) -> np.ndarray:
    """n numbers of rows from the start of a random order, of a row with a weight of 2.5, say, two or three.

    weights: of mean one, by the number of the row; equal ones, or None, leave the first n as they are.
    """
    if weights is None:
        return np.asarray(order[:n])
    n, count = min(n, len(order)), n
    while True:
        rows: np.ndarray = order[:count]
        ends = np.cumsum(weights[rows])
        if count >= len(order) or ends[-1] >= n:
            places = (np.arange(n) + 0.5) * min(1.0, ends[-1] / n)
            return np.asarray(rows[np.searchsorted(ends, places, side="right")])
        count *= 2


@contextlib.contextmanager
def few_rows_told(where: str, rows: np.ndarray, few: int) -> Iterator[None]:
    """Within it, a NumericError of rows that `in_proportion` gave says whether weights left only a few of them."""
    try:
        yield
    except NumericError as error:
        different = len(np.unique(rows))
        if different == len(rows) or different > few:
            raise
        raise NumericError(f"[{where}] expected weights that more than a few rows share, got some by which the "
                           f"initialisation drew {different} different of {len(rows)} rows") from error
