"""Weights of samples: what each counts for in a mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenflow._border import arrays
from evenflow.errors import ConfigError, NumericError, ShapeError


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
