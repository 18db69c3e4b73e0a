"""The errors that evenflow raises. Texts read `[where] expected ..., got ...`.

Error          root of all
ShapeError     an array whose shape does not fit the model or the operation (also a ValueError)
ConfigError    a setting, column or label outside its documented range (also a ValueError)
DeviceError    a device that is absent or not in this build (also a RuntimeError)
IoError        a file that is missing, truncated, foreign or not writable (also an OSError)
NumericError   a value that is not finite, or a transform that can't be inverted (also an ArithmeticError)
RanksError     a rank of a training on several that has died or does not go on (also a RuntimeError)
MissingExtra   an optional package that is not installed (a ConfigError, also an ImportError)
DataWarning    a warning, no error: data that a training takes, but should be told more of (a UserWarning)

An array of the wrong dtype, or an argument of the wrong type, is a plain TypeError.

Errors have `argument` (the name of the argument that is meant), `row` and `column` (a number, or a name where the flow
knows the columns' names), each None where there is none.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any, TypeVar

from evenflow._core import ConfigError, DeviceError, Error, IoError, NumericError, ShapeError

__all__ = ["Error", "ShapeError", "ConfigError", "DeviceError", "IoError", "NumericError", "RanksError",
           "MissingExtra", "DataWarning"]


def _init(self: Error, *args: Any, argument: str | None = None, row: int | None = None,
          column: int | str | None = None) -> None:
    super(Error, self).__init__(*args)
    self.argument, self.row, self.column = argument, row, column


Error.__init__ = _init  # type: ignore[method-assign]  # the class is of the compiled core, as its errors are


class RanksError(Error, RuntimeError):
    """A rank of a training on several that has died or does not go on."""

    __module__ = "evenflow"  # as that of the others


class MissingExtra(ConfigError, ImportError):
    """An optional package that is not installed; `name` is its module, the text how to install it."""

    __module__ = "evenflow"

    def __init__(self, text: str, name: str | None = None):
        super().__init__(text)
        self.name = name


class DataWarning(UserWarning):
    """Data that no density describes, or that a flow should be told more of; or samples that were drawn anew."""

    __module__ = "evenflow"


Kind = TypeVar("Kind", bound=Exception)
_told: set[tuple[str, str, int]] = set()
"""Warnings, and where: the ones that were shown."""


def wrong(kind: type[Kind], where: str, argument: str | None, text: str, row: int | None = None,
          column: int | str | None = None) -> Kind:
    """An error of a call's argument, whose text begins with the call. A TypeError has what errors of evenflow have."""
    error = kind(f"[{where}] {text}")
    vars(error).update(argument=argument, row=row, column=column)
    return error


def warn(text: str) -> None:
    """A DataWarning, at the line that called the package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "evenflow":
        level, frame = level + 1, frame.f_back
    # Python forgets what it has shown whenever filters change, as scikit-learn does in every fold.
    action = next((one for one, message, kind, *_ in warnings.filters
                   if issubclass(DataWarning, kind) and (message is None or message.match(text))), "default")
    if (place := (text, frame.f_code.co_filename, frame.f_lineno)) not in _told or action != "default":
        _told.add(place)
        warnings.warn(text, DataWarning, stacklevel=level)


def on_all_ranks(error: Exception, rank: int) -> Exception:
    """Marks an error that every rank raises, so that none waits for another, and rank 0 alone tells of it."""
    error.on_all_ranks, error.told_elsewhere = True, rank > 0  # type: ignore[attr-defined]
    return error
