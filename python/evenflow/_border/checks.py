"""Settings at the border: what a user hands in becomes a plain value, or a typed error."""

from __future__ import annotations

import math
import operator
import os
from typing import Any

import numpy as np

from evenflow.errors import ConfigError, IoError

LARGEST = 2**63 - 1
"""Largest integer that the core accepts."""


def whole(where: str, name: str, value: Any, low: int | None = None, high: int = LARGEST) -> int:
    """A whole number in low ... high. TypeError, ConfigError."""
    number: int = value
    if type(value) is not int:  # a call for one row should not wait for the rest
        try:
            if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
                raise TypeError
            number = operator.index(value)
        except Exception:  # of another library: torch's on meta have no value
            raise TypeError(f"[{where}] expected a whole number for {name}, got {_shown(name, value)}") from None
    if low is not None and number < low:
        raise ConfigError(f"[{where}] expected {name} >= {low}, got {number}")
    if number > high:
        raise ConfigError(f"[{where}] expected {name} <= {high}, got {number}")
    return number


def number(where: str, name: str, value: Any, low: float, high: float = float("inf")) -> float:
    """A finite number in [low, high]. TypeError, ConfigError."""
    if type(value) is float and low <= value <= high and math.isfinite(value):
        return value
    # A span of time is one of numpy's whole numbers.
    usual = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64))
    try:
        if not usual and not _is_scalar(value):
            raise TypeError
        result = float(value)
    except OverflowError:
        result = math.inf
    except Exception:  # of another library: JAX's tracers have no value
        raise TypeError(f"[{where}] expected a number for {name}, got {_shown(name, value)}") from None
    if not (low <= result <= high) or not math.isfinite(result):
        wanted = ("to be finite" if not math.isfinite(result) else f">= {low:g}" if high == math.inf
                  else f"in {low:g} ... {high:g}")
        raise ConfigError(f"[{where}] expected {name} {wanted}, got {value}")
    return result


def _is_scalar(value: Any) -> bool:
    """Whether this is a real number as an array without axes, of any library."""
    kind = str(getattr(value, "dtype", "")).rpartition(".")[2]
    return getattr(value, "shape", None) == () and kind.startswith(("int", "uint", "float", "bfloat"))


def _shown(name: str, value: Any) -> str:
    """A value for an error; of an array its type and shape, and where it may have been meant for another argument."""
    try:
        shape = tuple(int(size) for size in value.shape)
    except Exception:  # of another library
        return repr(value)
    if not shape:
        return repr(value)
    hint = "; labels and contexts go by name, label=... or context=..." if name in ("seed", "temperature") else ""
    return f"{type(value).__name__} {shape}{hint}"


def flag(where: str, name: str, value: Any) -> bool:
    """True or False. TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"[{where}] expected True or False for {name}, got {value!r}")
    return bool(value)


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which JSON takes; anything else as it is."""
    if isinstance(value, np.integer):
        return int(value)
    return float(value) if isinstance(value, np.floating) else value


def file_name(where: str, path: Any) -> str:
    """A path as a string. TypeError; IoError for one that no file can have."""
    try:
        name = os.fsdecode(path)
    except TypeError:  # a number too, which the system would take as an open file
        raise TypeError(f"[{where}] expected a path, got {path!r}") from None
    try:
        valid = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise IoError(f"[{where}] expected characters that a file's name can have, got {name!r}")
    return name


def choice(where: str, name: str, value: Any, options: tuple[str, ...]) -> str:
    """One of a few words. ConfigError lists them."""
    if not isinstance(value, str) or value not in options:
        raise ConfigError(f"[{where}] expected {name} to be one of {', '.join(map(repr, options))}, "
                          f"got {value!r}")
    return str(value)
