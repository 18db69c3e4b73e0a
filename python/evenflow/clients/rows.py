"""Calls whose rows may fail alone, as a sampler expects of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenflow.errors import NumericError

Pair = tuple[np.ndarray, np.ndarray]


def each(flow: Any, call: str, rows: np.ndarray, context: np.ndarray | None = None) -> Pair:
    """The flow's method `call`, forward or inverse, in float64: values (N, D) and log-determinants (N).

    Rows that the flow refuses with a NumericError are NaN: a point far off must not end a run of hours. context:
    (N, C), (C,) or None.
    """
    given = {} if context is None else {"context": context}
    try:
        values, logdet = getattr(flow, call)(rows, **given)
        return values.astype(np.float64), logdet
    except NumericError:
        n = len(rows)
        values, logdet = np.full(rows.shape, np.nan), np.full(n, np.nan)
        if context is not None:
            context = np.broadcast_to(context, (n, flow.context))
        finite = _finite(rows, flow.dtype) if context is None else (
            _finite(rows, flow.dtype) & _finite(context, flow.dtype))
        halves = [np.arange(n)[:n // 2], np.arange(n)[n // 2:]] if finite.all() else [np.flatnonzero(finite)]
        for half in halves if n > 1 else ():
            if len(half):
                part = None if context is None else context[half]
                values[half], logdet[half] = each(flow, call, rows[half], part)
        return values, logdet


def _finite(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        finite: np.ndarray = np.isfinite(rows.astype(dtype)).all(1)
    return finite


def log_prob(flow: Any, rows: np.ndarray) -> np.ndarray:
    """Log-densities (N) of rows (N, D), NaN where the flow refuses a row."""
    z, logdet = each(flow, "forward", rows)
    finite = np.isfinite(z).all(1)
    logdet[finite] += flow.base_log_prob(z[finite])
    logdet[~finite] = np.nan
    return logdet
