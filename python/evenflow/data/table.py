"""Tables in CSV."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset
from evenflow.errors import ConfigError, IoError

DELIMITERS = ",;\t"
BLOCK_CELLS = 1 << 16
"""Cells of text that are in memory at once: a few MB."""


def read_csv(path: str | os.PathLike[str], *, columns: Sequence[str] | None = None,
             label: str | None = None) -> Dataset:
    """A table of numbers, float64, separated by comma, semicolon or tab; .gz too.

    The first line is a header when none of its cells is a number; else the columns are called 0, 1, ...
    columns: which to take, in this order; all but the label by default. label: column of classes, any text;
    they are numbered in sorted order. IoError gives line and column of a cell that is not a finite number;
    ConfigError for a column chosen twice, or an unknown one, with the known ones.
    """
    blocks = list(read_csv_blocks(path, columns=columns, label=label))
    table = np.concatenate([block.numbers for block in blocks])
    if label is None:
        return Dataset(table, kind="table", columns=blocks[0].columns)
    labels, classes = number_classes([cell for block in blocks for cell in block.labels])
    return Dataset(table, kind="table", train_labels=labels, columns=blocks[0].columns, classes=classes)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    columns: list[str]
    numbers: np.ndarray
    """(n, D) float64."""
    labels: list[str]
    """Their classes, n or none."""


def read_csv_blocks(path: str | os.PathLike[str], *, columns: Sequence[str] | None = None,
                    label: str | None = None) -> Iterator[Block]:
    """What `read_csv` reads, in one block or more: memory does not grow with the file."""
    path = file_name("data", path)
    try:
        with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.endswith(".gz")
              else open(path, encoding="utf-8-sig", newline="")) as file:
            first = file.readline()
            file.seek(0)
            # Line numbers are kept, since a quoted cell may hold a line break.
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True)
            yield from _blocks(path, ((reader.line_num, row) for row in reader if row), columns, label)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a table in CSV, got: {error}") from error


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first line of these cells is read as names of columns: none is a number."""
    return not any(_is_number(cell) for cell in cells)


def choose(path: str, names: list[str], columns: Sequence[str] | None, label: str | None) -> list[str]:
    """The columns to take out of `names`. ConfigError for one that is unknown or given twice."""
    if columns is not None and (isinstance(columns, str) or not isinstance(columns, Iterable)):
        raise TypeError(f"[data] expected a sequence of names for columns, got {columns!r}")
    chosen = [str(c) for c in columns] if columns is not None else [n for n in names if n != label]
    for name in [*chosen, *([] if label is None else [label])]:
        if name not in names:
            raise ConfigError(f"[data] {path}: expected a column out of {', '.join(names)}, got {name!r}")
    if len(set(chosen)) < len(chosen):  # equal columns have no density
        twice = max(chosen, key=chosen.count)
        raise ConfigError(f"[data] {path}: expected different columns, got {twice!r} twice")
    if not chosen:
        raise ConfigError(f"[data] {path}: expected at least one column, got none")
    return chosen


def number_classes(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """Names of classes -> their numbers (N,), in sorted order, and the names by number."""
    classes = sorted(set(cells))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[cell] for cell in cells], np.int32), classes


def _blocks(path: str, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str] | None,
            label: str | None) -> Iterator[Block]:
    head = next(rows, None)
    if head is None:
        raise IoError(f"[data] {path}: expected a table in CSV, got an empty file")
    names = [cell.strip() for cell in head[1]]
    if not is_header(names):
        names, rows = [str(i) for i in range(len(names))], itertools.chain([head], rows)
    if len(set(names)) != len(names):
        raise IoError(f"[data] {path}: expected different names of columns, got {', '.join(names)}")
    chosen = choose(path, names, columns, label)
    step, found = max(1, BLOCK_CELLS // len(names)), False
    while block := list(itertools.islice(rows, step)):
        for line, row in block:
            if len(row) != len(names):
                raise IoError(f"[data] {path}: expected {len(names)} cells in line {line}, got {len(row)}")
        labels = [] if label is None else [row[names.index(label)].strip() for _, row in block]
        yield Block(chosen, _numbers(path, names, block, chosen), labels)
        found = True
    if not found:
        raise IoError(f"[data] {path}: expected rows below the header, got none")


def _numbers(path: str, names: list[str], rows: list[tuple[int, list[str]]], chosen: list[str]) -> np.ndarray:
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
    return table


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
