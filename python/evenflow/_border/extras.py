"""Packages that only some functions need."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from typing import Any

from evenflow.errors import DeviceError, MissingExtra

LIBRARIES = (("evenflow_cuda", "libevenflow_cuda.so", "EVENFLOW_CUDA_LIBRARY"),
             ("nvidia", "cu13/lib/libcublasLt.so.13", "EVENFLOW_CUBLASLT_LIBRARY"))
"""Of a GPU: the package from PyPI, its file, and the environment's variable that names another file."""


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


def installed_libraries() -> dict[str, str]:
    """Files of packages that are installed, by the variables which name others; without those that do."""
    found = {}
    for package, file, variable in LIBRARIES:
        spec = None if os.environ.get(variable) else importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if os.path.exists(path := os.path.join(folder, file)):
                found[variable] = path
    return found


def load_backend(device: str) -> None:
    """Loads the device's kernels, and cuBLASLt, where their packages are installed.

    The loader would not look there by itself, and now finds them by their name. The core says what is missing.
    """
    for path in installed_libraries().values() if device == "cuda" else ():
        try:
            ctypes.CDLL(path)
        except OSError as error:
            raise DeviceError(f"[cuda] expected a library that loads, got: {error}") from None
