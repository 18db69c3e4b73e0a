"""Weights of samples: what each counts for in a mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.errors import ConfigError, NumericError, ShapeError
from evenflow.rows import Order


def check_weights(where: str, sample_weight: Any, n: int, first: int = 0,
                  name: str = "sample_weight") -> np.ndarray | None:
    """Weights of n samples as (n,) float64; None: there are none.

    For errors: first, the number of the first row, and the argument's name.

    TypeError for what is no array of numbers, ShapeError for another shape, NumericError for one that is not finite,
    ConfigError for a negative one.
    """
    if sample_weight is None:
        return None
    weights = arrays.as_numbers(where, name, sample_weight)
    if weights.shape != (n,):
        raise ShapeError(f"[{where}] expected {name} of shape ({n},), got {weights.shape}")
    weights = np.ascontiguousarray(weights, np.float64)
    row = first_bad(weights)
    if row is None:
        return weights
    if not np.isfinite(weights[row]):
        raise NumericError(f"[{where}] expected finite numbers in {name}, got {weights[row]} for row {first + row}")
    raise ConfigError(f"[{where}] expected {name} >= 0, got {weights[row]:g} for row {first + row}")


def first_bad(weights: np.ndarray) -> int | None:
    """The first row whose weight is negative or not finite."""
    bad = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    return int(bad[0]) if bad.size else None


def mean_one(where: str, weights: np.ndarray | None, name: str = "sample_weight") -> np.ndarray | None:
    """Weights over their mean; None: there are none. ConfigError where all are zero."""
    if weights is None:
        return None
    largest = weights.max()
    if largest == 0:
        raise ConfigError(f"[{where}] expected a {name} > 0, got {len(weights)} zeros")
    parts = weights / largest  # whose sum is in range
    return np.asarray(parts / parts.mean())


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
