"""Model files: one safetensors file with every tensor by name and the configuration as JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from evenflow import _core
from evenflow._border import checks
from evenflow.density import Density, calls_of, column_names, core_of, name_columns, set_calls
from evenflow.errors import ConfigError, IoError, NumericError, ShapeError

FORMAT = "1"
KIND = "evenflow model"


def save(flow: Density, path: Any, marks: dict[str, str] | None = None) -> None:
    """Writes the model to a path or a binary file.

    A file appears complete or not at all: IoError leaves an old one as it was. NumericError, before anything is
    written, if a value is not finite: no reader takes it.  marks: more entries of the file's metadata.
    """
    metadata = {"kind": KIND, "format": FORMAT, "evenflow": _core.version, "config": json.dumps(flow.config),
                **({"calls": str(calls)} if (calls := calls_of(flow)) else {}),
                **{f"columns of {what}": json.dumps(names) for what, names in column_names(flow).items()},
                **(marks or {})}
    values = core_of(flow).values.copy()  # at once, since another thread may train
    tensors = {name: values[offset:offset + size].reshape(shape) for name, shape, _, offset, size in flow.entries()}
    expect_finite("save", tensors)
    if isinstance(path, (bytes, bytearray)):
        raise TypeError("[save] expected a path or a binary file, got bytes; save to io.BytesIO() to make some")
    if not hasattr(path, "write"):
        _core.write_safetensors(os.fsencode(checks.file_name("save", path)), tensors, metadata)
        return
    import tempfile  # which takes longer to import than the rest here
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.safetensors")
        _core.write_safetensors(os.fsencode(file), tensors, metadata)
        with open(file, "rb") as written:
            rest = memoryview(written.read())
        while rest:  # a raw file may take a part only
            rest = rest[path.write(rest):]


@contextlib.contextmanager
def as_file(source: Any) -> Iterator[str]:
    """The name of a model file, which may be given as bytes or as an open binary file."""
    if hasattr(source, "read"):
        source = source.read()
        if not isinstance(source, bytes):
            raise TypeError(f"[load] expected a file opened to read bytes, got one of {type(source).__name__}")
    if not isinstance(source, (bytes, bytearray, memoryview)):
        yield checks.file_name("load", source)
        return
    import tempfile  # which takes longer to import than the rest here
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.safetensors")
        with open(file, "wb") as copy:
            copy.write(source)
        yield file


def load_into(path: str, build: Callable[[dict[str, Any]], Density]) -> Density:
    """The model in a file, made by `build` from its settings. IoError for a file that is no valid model."""
    tensors, metadata = read(path, KIND)
    config = metadata.get("config", "")
    try:
        # This also bounds how deep the JSON is nested, as Python's reader does not.
        _core.check_settings(config, len(tensors), sum(t.size for t in tensors.values()))
        flow = build(json.loads(config))
    except (ConfigError, ShapeError, TypeError) as error:
        raise IoError(f"[load] {path}: expected a valid configuration, got: {error}") from error
    name_columns(flow, **_names(path, metadata))
    calls = metadata.get("calls", "0")
    if not calls.isdecimal() or len(calls) > 18:
        raise IoError(f"[load] {path}: expected a number of calls, got {calls!r}")
    set_calls(flow, int(calls))
    parameters = flow.named_parameters()
    check_names(path, set(parameters), set(tensors))
    for name, value in parameters.items():
        check_tensor(path, name, tensors[name], value.dtype, value.shape)
    for name, value in parameters.items():
        value[...] = tensors[name]
    _check_parameters(path, flow)
    return flow


def _names(path: str, metadata: dict[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for what in ("x", "context"):
        text = metadata.get(f"columns of {what}")
        try:
            found = [] if text is None else json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise IoError(f"[load] {path}: expected a list of names as columns of {what}, got another value")
        if found:
            names[what] = found
    return names


def check_values(path: str, flow: Density, values: np.ndarray) -> None:
    """IoError unless the values, laid out like the model's, are valid parameters. It keeps its own."""
    own = core_of(flow).values.copy()
    core_of(flow).values[:] = values
    try:
        _check_parameters(path, flow)
    finally:
        core_of(flow).values[:] = own


def _check_parameters(path: str, flow: Density) -> None:
    try:
        core_of(flow).check_parameters()
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
