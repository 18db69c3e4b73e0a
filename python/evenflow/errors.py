"""The errors that evenflow raises. Texts read `[where] expected ..., got ...`.

Error          root of all
ShapeError     an array whose shape does not fit the model or the operation (also a ValueError)
ConfigError    a setting, column or label outside its documented range (also a ValueError)
DeviceError    a device that is absent or not in this build (also a RuntimeError)
IoError        a file that is missing, truncated, foreign or not writable (also an OSError)
NumericError   a value that is not finite, or a transform that can't be inverted (also an ArithmeticError)

An array of the wrong dtype, or an argument of the wrong type, is a plain TypeError.
"""

from evenflow._core import ConfigError, DeviceError, Error, IoError, NumericError, ShapeError

__all__ = ["Error", "ShapeError", "ConfigError", "DeviceError", "IoError", "NumericError"]
