"""Masks of a table's couplings: the setting, as a scheme's name or as an array."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from evenflow._border.checks import choice
from evenflow.errors import ConfigError, wrong


def checked(where: str, mask: Any, schemes: tuple[str, ...], couplings: int, columns: int) -> str | list[list[int]]:
    """The setting as JSON holds it: a scheme's name, or the columns that each coupling changes. TypeError, ConfigError.

    Whether a model can have these columns the core says, which reads them from files too.
    """
    if isinstance(mask, str):
        return choice(where, "mask", mask, schemes)
    rows = mask if isinstance(mask, np.ndarray) else np.empty(0)
    if isinstance(mask, (list, tuple)):
        with contextlib.suppress(ValueError):  # rows of several lengths
            rows = np.asarray(mask)
    if rows.dtype != bool:
        raise wrong(TypeError, where, "mask", f"expected as mask one of {', '.join(schemes)}, or bools for every "
                    f"coupling and column, True where the column is changed, got {mask!r}")
    if rows.shape != (couplings, columns):
        wanted = f"expected a mask of shape (couplings, columns), {(couplings, columns)}"
        raise wrong(ConfigError, where, "mask", f"{wanted}, got {rows.shape}")
    return [[int(column) for column in np.flatnonzero(row)] for row in rows]
