"""Calls whose rows may fail alone, as a sampler expects of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenflow._border.bounds import outside
from evenflow.density import limits_of
from evenflow.errors import NumericError


def each(flow: Any, call: str, rows: np.ndarray, context: np.ndarray | None = None) -> Any:
    """What the flow's method `call` gives, in float64: forward, inverse (values (N, D) and log-determinants (N,)) or
    log_prob ((N,), alone).

    Rows that the flow refuses with a NumericError are NaN: a point far off must not end a run of hours. context:
    (N, C), (C,) or None.
    """
    try:
        found = getattr(flow, call)(rows, **({} if context is None else {"context": context}))
        return tuple(np.asarray(part, np.float64) for part in (found if isinstance(found, tuple) else (found,)))
    except NumericError:
        n = len(rows)
        results = (np.full(rows.shape, np.nan), np.full(n, np.nan))[-1 if call == "log_prob" else 0:]
        context = None if context is None else np.broadcast_to(context, (n, flow.context))
        with np.errstate(over="ignore"):
            taken = rows.astype(flow.dtype)
            good = np.isfinite(taken).all(1)
            if context is not None:
                good &= np.isfinite(context.astype(flow.dtype)).all(1)
        if call != "inverse":
            good &= ~outside(limits_of(flow), taken).any(1)
        numbers = np.flatnonzero(good)
        for half in np.array_split(numbers, 2) if len(numbers) == n > 1 else (numbers,):
            if 0 < len(half) < n:
                part = each(flow, call, rows[half], None if context is None else context[half])
                for result, values in zip(results, part):
                    result[half] = values
        return results


def log_prob(flow: Any, rows: np.ndarray) -> np.ndarray:
    """Log-densities (N,) of rows (N, D), NaN where the flow refuses a row."""
    return np.asarray(each(flow, "log_prob", rows)[0])
