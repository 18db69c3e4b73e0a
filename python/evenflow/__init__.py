"""evenflow: normalizing flows with exact likelihood, exact inverse and hand-written gradients.

    import evenflow as ef

    data = ef.data.load("digits")
    flow = ef.Glow((8, 8, 1), levels=2, steps=8, hidden=64, bits=4)
    flow.fit(data.train, valid=data.test, epochs=10)
    images = flow.to_uint8(flow.sample(16, temperature=0.8))
"""

import importlib
from typing import TYPE_CHECKING, Any

from evenflow import _openmp  # first: it decides how the core is loaded  # noqa: F401, I001
from evenflow import errors
from evenflow._core import DeviceArray, matmul_precision
from evenflow._core import version as __version__
from evenflow.arrays import to_uint8
from evenflow.checkpoint import load
from evenflow.errors import (ConfigError, DataWarning, DeviceError, Error, IoError, MissingExtra, NumericError,
                             RanksError, ShapeError)
from evenflow.flow import Flow
from evenflow.models import NICE, Glow, RealNVP, set_matmul_precision
from evenflow.optim import SGD, Adam, Adamax, MovingAverage, RMSProp, Schedule, clip_grad_norm

__all__ = ["Flow", "Glow", "RealNVP", "NICE", "load", "DeviceArray", "to_uint8", "data", "errors", "Adam",
           "Adamax", "SGD", "RMSProp", "Schedule", "MovingAverage", "clip_grad_norm", "distributed",
           "set_matmul_precision", "matmul_precision", "Error", "ShapeError", "ConfigError", "DeviceError",
           "IoError", "NumericError", "RanksError", "MissingExtra", "DataWarning", "__version__"]

if TYPE_CHECKING:
    from evenflow import data
    from evenflow.ranks import distributed


def __getattr__(name: str) -> Any:
    """What not every program needs is loaded when it is asked for."""
    if name == "data":
        return importlib.import_module("evenflow.data")
    if name == "distributed":
        from evenflow.ranks import distributed
        return distributed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
