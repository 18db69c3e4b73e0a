"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any

from evenflow.errors import MissingExtra


def need(where: str, module: str, package: str, extra: str) -> Any:
    """The module of a package that is not a dependency. MissingExtra says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f'[{where}] expected {package} to be installed (pip install "evenflow[{extra}]"), '
                           f"got: {error}", name=module) from error
