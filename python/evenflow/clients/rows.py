"""Calls whose rows may fail alone, as a sampler expects of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow.errors import NumericError


def each(call: Callable[..., tuple[np.ndarray, np.ndarray]], *rows: np.ndarray,
         context: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """call(*rows, context=...) in float64, NaN for rows that it refuses with a NumericError: a point far off must not
    end a run of hours.
    """
    given: dict[str, Any] = {} if context is None else {"context": context}
    try:
        first, second = call(*rows, **given)
        return first.astype(np.float64), second
    except NumericError:
        n = len(rows[0])
        if n == 1:
            return np.full(rows[0].shape, np.nan), np.full(1, np.nan)
        parts = [each(call, *(row[part] for row in rows), context=None if context is None else context[part])
                 for part in (slice(None, n // 2), slice(n // 2, None))]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
