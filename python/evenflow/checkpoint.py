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
from evenflow.density import LAST, Density, calls_of, column_names, core_of, name_columns, set_calls
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
    if not hasattr(path, "write"):
        _core.write_safetensors(os.fsencode(checks.file_name("save", path)), tensors, metadata)
        return
    import shutil  # late, as tempfile below
    with _temporary() as file:
        _core.write_safetensors(os.fsencode(file), tensors, metadata)
        with open(file, "rb") as written:
            shutil.copyfileobj(written, path)


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """The name of a file that is gone after the block."""
    import tempfile  # which takes longer to import than the rest here
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "model.safetensors")


@contextlib.contextmanager
def as_file(source: Any) -> Iterator[str]:
    """The name of a model file, which may be given as bytes or as an open binary file."""
    opened = hasattr(source, "read")
    if not opened and not isinstance(source, (bytes, bytearray, memoryview)):
        yield checks.file_name("load", source)
        return
    with _temporary() as file:
        with open(file, "wb") as copy:
            copy.write(source.read() if opened else source)
        try:
            yield file
        except IoError as error:
            raise IoError(str(error).replace(file, "the given bytes")) from None


def load_into(path: str, build: Callable[[dict[str, Any]], Density]) -> Density:
    """The model in a file, made by `build` from its settings. IoError for a file that is no valid model."""
    tensors, metadata = read(path, KIND)
    config = metadata.get("config", "")
    try:
        # This also bounds how deep the JSON is nested, as Python's reader does not.
        _core.check_settings(config, len(tensors), sum(t.size for t in tensors.values()))
        flow = build(json.loads(config))
        columns = {what: json.loads(metadata.get(f"columns of {what}", "[]")) for what in ("x", "context")}
        if not all(isinstance(name, str) for names in columns.values() for name in names):
            raise TypeError("names of columns that are no texts")
        name_columns(flow, **columns)
        set_calls(flow, checks.whole("load", "calls", int(metadata.get("calls", "0")), low=0, high=LAST))
    except (ConfigError, ShapeError, TypeError, ValueError, RecursionError) as error:
        raise IoError(f"[load] {path}: expected a valid configuration, got: {error}") from error
    parameters = flow.named_parameters()
    check_tensors(path, tensors, parameters)
    for name, value in parameters.items():
        value[...] = tensors[name]
    _check_parameters(path, flow)
    return flow


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


def check_tensors(path: str, tensors: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """IoError unless the tensors have the names, dtypes and shapes of those wanted, and hold finite values only."""
    for what, names in (("missing", wanted.keys() - tensors.keys()), ("unknown", tensors.keys() - wanted.keys())):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise IoError(f"[load] {path}: expected {len(wanted)} tensors, got {len(tensors)}; {what}: {shown}")
    for name, like in wanted.items():
        tensor = tensors[name]
        if tensor.dtype != like.dtype or tensor.shape != like.shape:
            raise IoError(f"[load] {path}: expected {name} as {like.dtype} {like.shape}, "
                          f"got {tensor.dtype} {tensor.shape}")
        if not np.isfinite(tensor).all():
            raise IoError(f"[load] {path}: expected finite values in {name}, got NaN or infinity")
