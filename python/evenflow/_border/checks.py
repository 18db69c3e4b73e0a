"""Settings at the border: what a user hands in becomes a plain value, or an error with the argument's name."""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from evenflow.errors import ConfigError, IoError, wrong

LARGEST = 2**63 - 1
"""Largest integer that the core accepts."""


def whole(where: str, name: str, value: Any, low: int | None = None, high: int = LARGEST) -> int:
    """A whole number in low ... high. TypeError, ConfigError."""
    if type(value) is not int:  # a call for one row should not wait for the rest
        try:
            if isinstance(value, bool):
                raise TypeError
            value = operator.index(value)
        except Exception:  # of another library: torch's on meta have no value
            raise wrong(TypeError, where, name,
                        f"expected a whole number for {name}, got {reprlib.repr(value)}") from None
    if low is not None and value < low or value > high:
        wanted = f"<= {high}" if value > high else f">= {low}"
        raise wrong(ConfigError, where, name, f"expected {name} {wanted}, got {value}")
    return value  # type: ignore[no-any-return]


def number(where: str, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A finite number in [low, high]. TypeError, ConfigError."""
    try:
        given = value if isinstance(value, (int, float)) else np.asarray(value)  # of another library, without axes
        if isinstance(value, bool) or isinstance(given, np.ndarray) and (given.shape or given.dtype.kind not in "iuf"):
            raise TypeError
        result = float(given)
    except OverflowError:
        result = math.inf
    except Exception:  # of another library: JAX's tracers have no value
        raise wrong(TypeError, where, name, f"expected a number for {name}, got {reprlib.repr(value)}") from None
    if not (low <= result <= high) or not math.isfinite(result):
        wanted = ("to be finite" if not math.isfinite(result) else f">= {low:g}" if high == math.inf
                  else f"in {low:g} ... {high:g}")
        raise wrong(ConfigError, where, name, f"expected {name} {wanted}, got {value}")
    return result


def flag(where: str, name: str, value: Any) -> bool:
    """True or False. TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong(TypeError, where, name, f"expected True or False for {name}, got {value!r}")
    return bool(value)


def choice(where: str, name: str, value: Any, options: tuple[str, ...]) -> str:
    """One of a few words. ConfigError lists them."""
    if not isinstance(value, str) or value not in options:
        wanted = ", ".join(map(repr, options))
        raise wrong(ConfigError, where, name, f"expected {name} to be one of {wanted}, got {value!r}")
    return str(value)


def is_sequence(value: Any) -> bool:
    """Whether it has an order and a length; an array of numpy without axes has none."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which JSON takes; anything else as it is."""
    return value.item() if isinstance(value, (np.integer, np.floating)) else value


def file_name(where: str, path: Any, name: str = "path") -> str:
    """A path as a string. TypeError; IoError for one that no file can have."""
    try:
        file = os.fsdecode(path)
    except TypeError:  # a number too, which the system would take as an open file
        raise wrong(TypeError, where, name, f"expected a path, got {path!r}") from None
    if "\0" in file:
        raise wrong(IoError, where, name, f"expected characters that a file's name can have, got {file!r}")
    return file
