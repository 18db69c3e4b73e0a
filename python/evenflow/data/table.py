"""Tables in CSV."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Sequence

import numpy as np

from evenflow.data.dataset import Dataset
from evenflow.errors import ConfigError, IoError

DELIMITERS = ",;\t"


def read_csv(path: str | os.PathLike[str], *, columns: Sequence[str] | None = None,
             label: str | None = None) -> Dataset:
    """A table of numbers, float64, separated by comma, semicolon or tab; .gz too.

    The first line is a header when none of its cells is a number; else the columns are called 0, 1, ...
    columns: which to take, in this order; all but the label by default. label: column of classes, any text;
    they are numbered in sorted order. IoError gives line and column of a cell that is not a finite number;
    ConfigError for an unknown column lists the known ones.
    """
    path = os.fspath(path)
    try:
        with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.endswith(".gz")
              else open(path, encoding="utf-8-sig", newline="")) as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            # Line numbers are kept, since a quoted cell may hold a line break.
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise IoError(f"[data] {path}: expected a table in CSV, got: {error}") from error
    if not rows:
        raise IoError(f"[data] {path}: expected a table in CSV, got an empty file")
    names = [cell.strip() for cell in rows[0][1]]
    if any(_is_number(cell) for cell in names):
        names = [str(i) for i in range(len(names))]
    else:
        rows = rows[1:]
    if len(set(names)) != len(names):
        raise IoError(f"[data] {path}: expected different names of columns, got {', '.join(names)}")
    if not rows:
        raise IoError(f"[data] {path}: expected rows below the header, got none")
    for line, row in rows:
        if len(row) != len(names):
            raise IoError(f"[data] {path}: expected {len(names)} cells in line {line}, got {len(row)}")
    return _select(path, names, rows, columns, label)


def choose(path: str, names: list[str], columns: Sequence[str] | None, label: str | None) -> list[str]:
    """The columns to take out of `names`. ConfigError for an unknown one."""
    if isinstance(columns, str):
        raise TypeError(f"[data] expected a sequence of names for columns, got {columns!r}")
    chosen = [str(c) for c in columns] if columns is not None else [n for n in names if n != label]
    for name in [*chosen, *([] if label is None else [label])]:
        if name not in names:
            raise ConfigError(f"[data] {path}: expected a column out of {', '.join(names)}, got {name!r}")
    if not chosen:
        raise ConfigError(f"[data] {path}: expected at least one column, got none")
    return chosen


def number_classes(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """Names of classes -> their numbers (N,), in sorted order, and the names by number."""
    classes = sorted(set(cells))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[cell] for cell in cells], np.int32), classes


def _select(path: str, names: list[str], rows: list[tuple[int, list[str]]], columns: Sequence[str] | None,
            label: str | None) -> Dataset:
    chosen = choose(path, names, columns, label)
    table = np.empty((len(rows), len(chosen)))
    for j, name in enumerate(chosen):
        at = names.index(name)
        try:
            table[:, j] = [_number(row[at]) for _, row in rows]
        except ValueError:
            line, cell = next((line, row[at]) for line, row in rows if not _is_number(row[at]))
            raise IoError(f"[data] {path}: expected a number in line {line}, column {name!r}, got {cell!r} "
                          "(choose columns, or name it as label)") from None
        bad = np.flatnonzero(~np.isfinite(table[:, j]))
        if bad.size:
            line, row = rows[bad[0]]
            raise IoError(f"[data] {path}: expected a finite number in line {line}, column {name!r}, "
                          f"got {row[at]!r}")
    if label is None:
        return Dataset(table, kind="table", columns=chosen)
    labels, classes = number_classes([row[names.index(label)].strip() for _, row in rows])
    return Dataset(table, kind="table", train_labels=labels, columns=chosen, classes=classes)


def _number(cell: str) -> float:
    """As float() reads it, but not Python's 1_000."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True
