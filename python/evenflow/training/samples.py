"""What a training is given: checked samples, and those that it holds back to validate on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow._border.batch import Batch
from evenflow._border.bounds import require_inside
from evenflow._border.rows import stays_outside
from evenflow._border.weights import mean_one
from evenflow.data.rows import drawn, pick
from evenflow.density import Density, check, check_levels, column_names, limits_of
from evenflow.errors import ConfigError, wrong

PARTS = ("x", "label", "context", "sample_weight")


def checked(flow: Density, where: str, x: Any, label: Any = None, context: Any = None,
            sample_weight: Any = None) -> Batch:
    """Samples, what their density is given, and their weights, of mean one.

    Data in memory become floats of the flow's dtype and lie within its bounds; data in files stay there, unread.
    """
    batch = check(flow, where, x, label, context, sample_weight, least=1)
    x, names = batch.x, column_names(flow).get("x")
    if not stays_outside(x):
        check_levels(flow, where, x)
        if x.dtype != np.uint8:
            x = arrays.to_floats(where, x, flow.dtype, names=names)
            require_inside(where, limits_of(flow), x, names=names or ())
    return Batch(x, batch.label, batch.context, mean_one(where, batch.weight))


def in_proportion(order: np.ndarray, weights: np.ndarray | None, n: int) -> np.ndarray:
    """n numbers of rows from the start of a random order, of a row with a weight of 2.5, say, two or three.

    weights: of mean one, by the number of the row; equal ones, or None, leave the first n as they are.
    """
    if weights is None:
        return order[:n]
    n, ends = min(n, len(order)), np.cumsum(weights[order])
    places = (np.arange(n) + 0.5) * min(1.0, ends[-1] / n)
    return np.asarray(order[np.searchsorted(ends, places, side="right")])


def parts(flow: Density, where: str, data: Batch, valid: Any, seed: int) -> tuple[Batch, Batch | None]:
    """Samples to train on, and to validate on.

    valid: None, a share of the data, an array of samples, or a dict of them with label, context or sample_weight.
    """
    if valid is None:
        return data, None
    if isinstance(valid, (int, float)) and not isinstance(valid, bool):
        share = checks.number(where, "valid", valid, 0.0, 1.0)
        return (data, None) if share == 0 else held_out(where, data, share, seed)
    given = valid if isinstance(valid, Mapping) else {"x": valid}
    if "x" not in given or not given.keys() <= set(PARTS):
        raise wrong(ConfigError, where, "valid", f"expected a dict of x and perhaps {', '.join(PARTS[1:])} for valid, "
                                                 f"got {', '.join(map(str, given))}")
    return data, checked(flow, f"{where} valid", *map(given.get, PARTS))


def held_out(where: str, data: Batch, share: float, seed: int) -> tuple[Batch, Batch | None]:
    """(the rest, a share of the rows) by a random order, each in its old order; a single row is not divided."""
    n = len(data)
    count = max(1, round(share * n))
    if n == 1:
        return data, None
    if count == n:
        raise wrong(ConfigError, where, "valid", f"expected a share that leaves rows to train on, got {share:g} of {n}")
    valid, rest = (Batch(pick(data.x, rows), *(None if values is None else values[rows[:]] for values in (
        data.label, data.context, data.weight))) for rows in drawn(data.x, count, seed))
    for part in (valid, rest):
        part.weight = mean_one(where, part.weight)
    return rest, valid
