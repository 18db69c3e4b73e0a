"""Tables in Parquet, read with pyarrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset
from evenflow.data.table import as_name, choose, number_classes
from evenflow.errors import IoError
from evenflow.extras import need


def read_parquet(path: str | os.PathLike[str], *, columns: Sequence[str | int] | None = None,
                 label: str | int | None = None, context: Sequence[str | int] | None = None,
                 weight: str | int | None = None) -> Dataset:
    """A table of numbers, float64; columns, label, context and weight as in `read_csv`. Only the chosen columns are
    read.

    The index of a pandas frame, which the file holds as columns too, is left out unless it is chosen by name.
    Whole numbers beyond 2^53 are rounded.
    IoError gives the row (from 0) and the column of an empty cell, a value that is not finite or a negative weight, and
    the type of a column that does not hold numbers; ConfigError for an unknown column or one chosen twice; MissingExtra
    without pyarrow.
    """
    path, label, weight = file_name("data", path), as_name(label), as_name(weight)
    parquet = need("data", "pyarrow.parquet", "pyarrow", "parquet")
    names, index = _columns(path, parquet)
    if len(set(names)) != len(names):
        raise IoError(f"[data] {path}: expected different names of columns, got {', '.join(names)}")
    if columns is None:
        columns = [name for name in names if name not in (label, weight, *index, *map(str, context or ()))]
    chosen = choose(path, names, columns, label, context, weight)
    wanted = [*chosen, *([] if label is None or label in chosen else [label])]
    try:
        table = parquet.read_table(path, columns=wanted)
        cells = None if label is None else table.column(label).cast("string").to_pylist()
    except Exception as error:
        raise _broken(path, error) from error
    if table.num_rows == 0:
        raise IoError(f"[data] {path}: expected at least one row, got none")
    x = np.empty((table.num_rows, len(chosen)))
    for j, name in enumerate(chosen):
        x[:, j] = _numbers(path, name, table.column(name), weight)
    count, rest = len(chosen) - len(context or ()) - (weight is not None), len(chosen) - (weight is not None)
    parts: dict[str, Any] = {"columns": chosen[:count]}
    if context:
        parts.update(train_context=x[:, count:rest], context=chosen[count:rest])
    if weight is not None:
        parts["train_weight"] = x[:, rest].copy()
    if cells is not None:
        if None in cells:
            raise IoError(f"[data] {path}: expected a class in row {cells.index(None)}, column {label!r}, "
                          "got an empty cell")
        parts["train_labels"], parts["classes"] = number_classes(cells)
    return Dataset(x[:, :count], kind="table", **parts)


def parquet_columns(path: str | os.PathLike[str]) -> list[str]:
    """The names of a table's columns, those of the index too. IoError; MissingExtra without pyarrow."""
    return _columns(file_name("data", path), need("data", "pyarrow.parquet", "pyarrow", "parquet"))[0]


def _columns(path: str, parquet: Any) -> tuple[list[str], list[Any]]:
    """The names of all columns, and which of them pandas' index is."""
    # A broken file fails in many ways, not all of them pyarrow's own.
    try:
        schema = parquet.read_schema(path)
        # Names of columns; an index of evenly spaced numbers is described instead.
        return list(schema.names), list((schema.pandas_metadata or {}).get("index_columns", []))
    except Exception as error:
        raise _broken(path, error) from error


def _numbers(path: str, name: str, column: Any, weight: str | None) -> np.ndarray:
    kind = str(column.type)
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
        raise IoError(f"[data] {path}: expected numbers in column {name!r}, got {kind} "
                      "(choose columns, or name it as label)")
    try:
        values = column.cast("double", safe=False).to_numpy()
    except Exception as error:
        raise IoError(f"[data] {path}: expected numbers in column {name!r}, got {kind}: {_line(error)}") from error
    bad = np.flatnonzero(~np.isfinite(values) | ((name == weight) & (values < 0)))
    if bad.size:
        row = int(bad[0])
        raise IoError(f"[data] {path}: expected a finite number{' >= 0' if name == weight else ''} in row {row}, "
                      f"column {name!r}, got {'an empty cell' if not column[row].is_valid else values[row]}")
    return np.asarray(values)


def _broken(path: str, error: Exception) -> IoError:
    return IoError(f"[data] {path}: expected a readable Parquet file, got: {_line(error)}")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
