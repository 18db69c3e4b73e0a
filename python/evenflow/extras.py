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


def load_backend(device: str) -> None:
    """Loads the device's kernels from their package, where it is installed and EVENFLOW_CUDA_LIBRARY names no others.

    The loader would not look there by itself, and now finds them by their name. The core says what is missing.
    """
    if device != "cuda" or os.environ.get("EVENFLOW_CUDA_LIBRARY"):
        return
    found = importlib.util.find_spec("evenflow_cuda")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "libevenflow_cuda.so")
        if path.exists():
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                raise DeviceError(f"[evenflow_cuda] expected a library that loads, got: {error}") from None
