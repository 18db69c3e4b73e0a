"""Packages that only some functions need."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from evenflow.errors import DeviceError, MissingExtra


def need(where: str, module: str, package: str, extra: str) -> Any:
    """The module of a package that is not a dependency. MissingExtra says how to install it."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that does not fit its own dependencies raises what it likes
        raise MissingExtra(f'[{where}] expected {package} to be installed (pip install "evenflow[{extra}]"), '
                           f"got: {error}", name=module) from error


def outdated(where: str, package: str, least: str, got: str) -> MissingExtra:
    """The error where a package is there, and too old."""
    return MissingExtra(f"[{where}] expected {package} {least} or newer, got {got}", name=package)


def load_library(package: str, file: str, variable: str) -> None:
    """Loads a shared object of a package from PyPI, where there is one and the environment's variable names no other.

    The loader would not look there by itself, and now finds it by its name. The core says what is missing.
    """
    if os.environ.get(variable):
        return
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, file)
        if path.exists():
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                raise DeviceError(f"[{package}] expected a library that loads, got: {error}") from None


def load_backend(device: str) -> None:
    """Loads the device's kernels from their package, where it is installed; comes before the core looks for them."""
    if device == "cuda":
        load_library("evenflow_cuda", "libevenflow_cuda.so", "EVENFLOW_CUDA_LIBRARY")
