"""Settings at the border: what a user hands in becomes a plain value, or an error with the argument's name."""

from __future__ import annotations

import math
import operator
import os
from typing import Any

import numpy as np

from evenflow.errors import ConfigError, IoError, wrong

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
            told = f"expected a whole number for {name}, got {_shown(name, value)}"
            raise wrong(TypeError, where, name, told) from None
    if low is not None and number < low or number > high:
        wanted = f"<= {high}" if number > high else f">= {low}"
        raise wrong(ConfigError, where, name, f"expected {name} {wanted}, got {number}")
    return number


def number(where: str, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """A finite number in [low, high]. TypeError, ConfigError."""
    if type(value) is float and low <= value <= high and math.isfinite(value):
        return value
    try:
        kind = str(getattr(value, "dtype", "float" if isinstance(value, (int, float)) else "")).rpartition(".")[2]
        if (isinstance(value, bool) or getattr(value, "shape", ()) != ()
                or not kind.startswith(("int", "uint", "float", "bfloat"))):
            raise TypeError
        result = float(value)
    except OverflowError:
        result = math.inf
    except Exception:  # of another library: JAX's tracers have no value
        raise wrong(TypeError, where, name, f"expected a number for {name}, got {_shown(name, value)}") from None
    if not (low <= result <= high) or not math.isfinite(result):
        wanted = ("to be finite" if not math.isfinite(result) else f">= {low:g}" if high == math.inf
                  else f"in {low:g} ... {high:g}")
        raise wrong(ConfigError, where, name, f"expected {name} {wanted}, got {value}")
    return result


def _shown(name: str, value: Any) -> str:
    """A value for an error; of an array its type and shape, and where it may have been meant for another argument."""
    try:
        shape = tuple(int(size) for size in value.shape)
    except Exception:  # of another library
        shape = ()
    hint = "; labels and contexts go by name, label=... or context=..." if name in ("seed", "temperature") else ""
    return f"{type(value).__name__} {shape}{hint}" if shape else repr(value)


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


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which JSON takes; anything else as it is."""
    return value.item() if isinstance(value, (np.integer, np.floating)) else value


def file_name(where: str, path: Any, name: str = "path") -> str:
    """A path as a string. TypeError; IoError for one that no file can have."""
    try:
        file = os.fsdecode(path)
        valid = b"\0" not in os.fsencode(file)
    except TypeError:  # a number too, which the system would take as an open file
        raise wrong(TypeError, where, name, f"expected a path, got {path!r}") from None
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise wrong(IoError, where, name, f"expected characters that a file's name can have, got {file!r}")
    return file
