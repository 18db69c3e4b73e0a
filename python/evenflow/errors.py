"""The errors that evenflow raises. Texts read `[where] expected ..., got ...`.

Error          root of all
ShapeError     an array whose shape does not fit the model or the operation (also a ValueError)
ConfigError    a setting, column or label outside its documented range (also a ValueError)
DeviceError    a device that is absent or not in this build (also a RuntimeError)
IoError        a file that is missing, truncated, foreign or not writable (also an OSError)
NumericError   a value that is not finite, or a transform that can't be inverted (also an ArithmeticError)
RanksError     a rank of a training on several that has died or does not go on (also a RuntimeError)
MissingExtra   an optional package that is not installed (a ConfigError, also an ImportError)
DataWarning    a warning, no error: data that a training takes, but that no density describes (a UserWarning)

An array of the wrong dtype, or an argument of the wrong type, is a plain TypeError.
"""

from __future__ import annotations

from evenflow._core import ConfigError, DeviceError, Error, IoError, NumericError, ShapeError

__all__ = ["Error", "ShapeError", "ConfigError", "DeviceError", "IoError", "NumericError", "RanksError",
           "MissingExtra", "DataWarning"]


class RanksError(Error, RuntimeError):
    """A rank of a training on several that has died or does not go on."""

    __module__ = "evenflow"  # as that of the others


class MissingExtra(ConfigError, ImportError):
    """An optional package that is not installed; `name` is its module, the text how to install it."""

    __module__ = "evenflow"

    def __init__(self, text: str, name: str | None = None):
        ImportError.__init__(self, text, name=name)


class DataWarning(UserWarning):
    """Data that a training takes, but that no density describes: its likelihood means nothing."""

    __module__ = "evenflow"


def on_all_ranks(error: Exception, rank: int) -> Exception:
    """Marks an error that every rank raises, so that none waits for another, and rank 0 alone tells of it."""
    error.on_all_ranks, error.told_elsewhere = True, rank > 0  # type: ignore[attr-defined]
    return error
