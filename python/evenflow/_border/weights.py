"""Weights of samples: what each counts for in a mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenflow._border import arrays
from evenflow.errors import ConfigError, NumericError, ShapeError, wrong


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
        raise wrong(ShapeError, where, name, f"expected {name} of shape ({n},), got {weights.shape}")
    weights = np.ascontiguousarray(weights, np.float64)
    for row in np.flatnonzero(~((weights >= 0) & (weights < np.inf)))[:1]:
        kind = ConfigError if np.isfinite(weights[row]) else NumericError
        raise wrong(kind, where, name, f"expected finite numbers >= 0 for {name}, got {weights[row]:g} in row "
                    f"{first + row}", row=first + int(row))
    return weights


def mean_one(where: str, weights: np.ndarray | None, name: str = "sample_weight") -> np.ndarray | None:
    """Weights over their mean; None: there are none. ConfigError where all are zero."""
    if weights is None:
        return None
    largest = weights.max()
    if largest == 0:
        raise wrong(ConfigError, where, name, f"expected a {name} > 0, got {len(weights)} zeros")
    parts = weights / largest  # whose sum is in range
    return np.asarray(parts / parts.mean())
