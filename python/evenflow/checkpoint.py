"""Model files: one safetensors file with every tensor by name and the configuration as JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from evenflow import _core, arrays
from evenflow.errors import ConfigError, IoError, NumericError, ShapeError
from evenflow.flow import Flow
from evenflow.models import build, place

FORMAT = "1"
KIND = "evenflow model"


def save(flow: Flow, path: str | os.PathLike[str], marks: dict[str, str] | None = None) -> None:
    """Writes the model. The file appears complete or not at all: IoError leaves an old one as it was.

    NumericError, before anything is written, where a value is not finite: no reader takes it.  marks: more
    entries of the file's metadata.
    """
    metadata = {"kind": KIND, "format": FORMAT, "evenflow": _core.version, "config": json.dumps(flow.config),
                **(marks or {})}
    tensors = {name: np.ascontiguousarray(value) for name, value in flow.named_parameters().items()}
    expect_finite("save", tensors)
    _core.write_safetensors(os.fsencode(path), tensors, metadata)


def load(path: str | os.PathLike[str], device: str = "cpu", threads: int = 0) -> Flow:
    """The model in a file that `Flow.save` wrote, ready to use.

    IoError, saying what was expected, for a file that is missing, truncated or foreign, of another format, or
    whose tensors are not exactly those of its configuration; DeviceError, ConfigError or TypeError for a device
    or a number of threads that is not to be had.
    """
    path, run = arrays.file_name("load", path), place("load", device, threads)
    tensors, metadata = read(path, KIND)
    config = metadata.get("config", "")
    try:
        # Which also bounds how deep the JSON is nested, as Python's reader does not.
        _core.check_settings(os.fsencode(path), config, len(tensors), sum(t.size for t in tensors.values()))
        flow = build(json.loads(config), **run)
    except (ConfigError, ShapeError, TypeError) as error:
        raise IoError(f"[load] {path}: expected a valid configuration, got: {error}") from error
    parameters = flow.named_parameters()
    check_names(path, set(parameters), set(tensors))
    for name, value in parameters.items():
        check_tensor(path, name, tensors[name], value.dtype, value.shape)
    for name, value in parameters.items():
        value[...] = tensors[name]
    _check_parameters(path, flow)
    return flow


def check_values(path: str, flow: Flow, values: np.ndarray) -> None:
    """IoError unless the values, laid out like the model's, are valid parameters. It keeps its own."""
    own = flow._core.values.copy()
    flow._core.values[:] = values
    try:
        _check_parameters(path, flow)
    finally:
        flow._core.values[:] = own


def _check_parameters(path: str, flow: Flow) -> None:
    try:
        flow._core.check_parameters()
    except NumericError as error:
        raise IoError(f"[load] {path}: expected valid parameters, got: {error}") from error


def read(path: str, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file of ours; IoError if it is another file."""
    tensors, metadata = _core.read_safetensors(os.fsencode(path))
    if metadata.get("kind") != kind:
        got = metadata.get("kind", "another kind of file")
        raise IoError(f"[load] {path}: expected an {kind} file, got {got!r}")
    if metadata.get("format") != FORMAT:
        raise IoError(f"[load] {path}: expected format {FORMAT}, got {metadata.get('format')!r} "
                      f"(written by evenflow {metadata.get('evenflow')})")
    return tensors, metadata


def expect_finite(where: str, tensors: dict[str, np.ndarray]) -> None:
    """NumericError where a tensor to write holds what no reader takes: a good file must not give way to it."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise NumericError(f"[{where}] expected finite values in {name!r}, got NaN or infinity; "
                               "nothing was written")


def check_names(path: str, wanted: set[str], got: set[str]) -> None:
    for what, names in (("missing", wanted - got), ("unknown", got - wanted)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise IoError(f"[load] {path}: expected {len(wanted)} tensors, got {len(got)}; {what}: {shown}")


def check_tensor(path: str, name: str, tensor: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> None:
    """IoError unless a tensor has the dtype and shape, and holds finite values only."""
    if tensor.dtype != dtype or tensor.shape != shape:
        raise IoError(f"[load] {path}: expected {name} as {np.dtype(dtype)} {shape}, "
                      f"got {tensor.dtype} {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise IoError(f"[load] {path}: expected finite values in {name}, got NaN or infinity")
