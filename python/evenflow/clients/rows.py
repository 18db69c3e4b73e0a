"""Calls whose rows may fail alone, as a sampler expects of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow.errors import NumericError

Pair = tuple[np.ndarray, np.ndarray]


def each(call: Callable[..., Any], rows: np.ndarray, context: np.ndarray | None = None) -> Pair:
    """call(rows, context=...) in float64, with NaN for rows that it refuses with a NumericError: a point far off must
    not end a run of hours. context: (N, C), (C,) or None.
    """
    try:
        return _whole(call, rows, context)
    except NumericError:
        n = len(rows)
        first, second = np.full(rows.shape, np.nan), np.full(n, np.nan)
        finite = np.isfinite(rows).all(1)
        if context is not None and context.ndim > 1:
            finite &= np.isfinite(context).all(1)
        halves = [np.arange(n)[:n // 2], np.arange(n)[n // 2:]] if finite.all() else [np.flatnonzero(finite)]
        for half in halves if n > 1 else ():
            if len(half):
                part = context[half] if context is not None and context.ndim > 1 else context
                first[half], second[half] = each(call, rows[half], part)
        return first, second


def _whole(call: Callable[..., Any], rows: np.ndarray, context: np.ndarray | None) -> Pair:
    first, second = call(rows) if context is None else call(rows, context=context)
    return first.astype(np.float64), second
