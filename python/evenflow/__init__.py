"""evenflow: normalizing flows with exact likelihood, exact inverse and hand-written gradients.

    import evenflow as ef

    flow = ef.CouplingFlow(6)
    flow.fit(x_train)
    log_prob = flow.log_prob(x_new)                # nats, in the columns' own units
    samples = flow.sample(1000)
"""

import importlib
from typing import TYPE_CHECKING, Any

from evenflow._border import interpreter as _interpreter  # noqa: F401  # before the compiled core
from evenflow import errors
from evenflow._core import DeviceArray, matmul_precision
from evenflow._core import version as __version__
from evenflow._border.arrays import to_uint8
from evenflow.errors import (ConfigError, DataWarning, DeviceError, Error, IoError, MissingExtra, NumericError,
                             RanksError, ShapeError)
from evenflow.flow import Flow
from evenflow.models import NICE, CouplingFlow, Glow, RealNVP, load, set_matmul_precision
from evenflow.optim import SGD, Adam, Adamax, AdamW, MovingAverage, RMSProp, Schedule, clip_grad_norm

__all__ = ["Flow", "CouplingFlow", "Glow", "RealNVP", "NICE", "load", "convert", "calibration", "DeviceArray",
           "to_uint8", "data", "importance", "plot", "errors", "Adam", "AdamW", "Adamax", "SGD", "RMSProp", "Schedule",
           "Settings", "MovingAverage", "clip_grad_norm", "set_matmul_precision", "matmul_precision", "Error",
           "ShapeError", "ConfigError", "DeviceError", "IoError", "NumericError", "RanksError", "MissingExtra",
           "DataWarning", "__version__"]

if TYPE_CHECKING:
    from evenflow import data, importance, plot
    from evenflow.calibrate import calibration
    from evenflow.converters import convert
    from evenflow.training.settings import Settings

LATE = {"calibration": "calibrate", "convert": "converters", "Settings": "training.settings"}
"""Names that are loaded from a module when they are asked for."""


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Loads what not every program needs."""
    if name in ("data", "importance", "plot"):
        return importlib.import_module(f"evenflow.{name}")
    if name in LATE:
        return getattr(importlib.import_module(f"evenflow.{LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
