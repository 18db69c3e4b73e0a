"""Tables in CSV."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset
from evenflow.errors import ConfigError, IoError

DELIMITERS = ",;\t"
TABS = (".tsv", ".tsv.gz")
"""Endings of names that say what separates cells."""
BLOCK_CELLS = 1 << 16
"""Cells of text that are in memory at once: a few MB."""
BLANK = ("\n", "\r\n", "\r")
NOT_PLAIN = '"\0\x1c\x1d\x1e\x1f'
"""Quotes, and what numpy drops around a number or Python's reader refuses."""


def read_csv(path: str | os.PathLike[str], *, columns: Sequence[str | int] | None = None,
             label: str | int | None = None, context: Sequence[str | int] | None = None,
             weight: str | int | None = None) -> Dataset:
    """A table of numbers, float64, separated by comma, semicolon or tab; .gz too.

    The first line is a header when none of its cells is a number, or when it is pandas' own for a frame without
    names, 0, 1, 2, ... to the last of three cells or more; else the columns are called 0, 1, ..., which may be given
    as numbers too.
    columns: which to take, in this order; by default all but the label, the context and the weight. label: column of
    classes, any text, but not none; they are numbered by value where all are whole numbers or all numbers, else as
    sorted text. context: columns of numbers that the density of the others is given, in this order. weight: column of
    what rows count for, numbers >= 0.
    IoError gives line and column of a cell that is not a finite number, of a negative weight, or of a class that is
    empty, and the first column without a name in a header, unless columns are chosen; ConfigError for a column chosen
    twice, or an unknown one, with the known ones.
    """
    blocks = list(read_csv_blocks(path, columns=columns, label=label, context=context, weight=weight))
    parts: dict[str, Any] = {"columns": blocks[0].columns}
    if label is not None:
        parts["train_labels"], parts["classes"] = number_classes([cell for block in blocks for cell in block.labels])
    if blocks[0].context is not None:
        parts.update(train_context=np.concatenate([block.context for block in blocks]),
                     context=[str(name) for name in context or ()])
    if weight is not None:
        parts["train_weight"] = np.concatenate([block.weight for block in blocks])
    return Dataset(np.concatenate([block.numbers for block in blocks]), kind="table", **parts)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    columns: list[str]
    numbers: np.ndarray
    """(n, D) float64."""
    context: np.ndarray | None
    """(n, C) float64, where columns are chosen for it."""
    weight: np.ndarray | None
    """(n,) float64, where a column is chosen for it."""
    labels: list[str]
    """Their classes, n or none."""


def read_csv_blocks(path: str | os.PathLike[str], *, columns: Sequence[str | int] | None = None,
                    label: str | int | None = None, context: Sequence[str | int] | None = None,
                    weight: str | int | None = None) -> Iterator[Block]:
    """What `read_csv` reads, in one block or more: memory does not grow with the file."""
    path, label, weight = file_name("data", path), as_name(label), as_name(weight)
    with _opened(path) as (file, delimiter):
        for names, table, labels in _tables(path, file, delimiter, columns, label, context, weight):
            rest = len(names) - (weight is not None)
            count = rest - len(context or ())
            yield Block(names[:count], table[:, :count], table[:, count:rest] if context else None,
                        None if weight is None else table[:, rest], labels)


def csv_columns(path: str | os.PathLike[str]) -> list[str]:
    """The names of a table's columns, as `read_csv` has them. IoError."""
    path = file_name("data", path)
    with _opened(path) as (file, delimiter):
        return _head(path, file, delimiter)[0]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[TextIO, str]]:
    """A table's file, and what separates its cells. IoError for what goes wrong in the block."""
    try:
        with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.lower().endswith(".gz")
              else open(path, encoding="utf-8-sig", newline="")) as file:
            first = file.readline()
            file.seek(0)
            yield file, "\t" if path.lower().endswith(TABS) else max(DELIMITERS, key=first.count)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a table in CSV, got: {error}") from error


def is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: none is a number."""
    return not any(_is_number(cell) for cell in cells)


def _is_default_header(cells: list[str]) -> bool:
    """Whether a first line is pandas' header of a frame without names, perhaps with its index before them.

    Two columns have none: points in the plane may well begin with 0, 1.
    """
    names = cells[1:] if cells[0] == "" else cells
    return len(cells) > 2 and names == [str(i) for i in range(len(names))]


def as_name(column: str | int | None) -> str | None:
    """The name of one column; None: there is none."""
    return None if column is None else str(column)


def choose(path: str, names: list[str], columns: Sequence[str | int] | None, label: str | None,
           context: Sequence[str | int] | None, weight: str | None) -> list[str]:
    """The columns to take out of `names`, those of the context after the others, and then the weight's. ConfigError for
    one unknown or given twice.
    """
    for what, some in (("columns", columns), ("context", context)):
        if some is not None and (isinstance(some, str) or not isinstance(some, Iterable)):
            raise TypeError(f"[data] expected a sequence of names for {what}, got {some!r}")
    given = [str(c) for c in context or ()]
    others = (label, weight, *given)
    density = [str(c) for c in columns] if columns is not None else [n for n in names if n not in others]
    chosen = density + given + ([] if weight is None else [weight])
    for name in [*chosen, *([] if label is None else [label])]:
        if name not in names:
            raise ConfigError(f"[data] {path}: expected a column out of {', '.join(names)}, got {name!r}")
    for name in given:
        if name in density:
            raise ConfigError(f"[data] {path}: expected other columns than those of the context, got {name!r}")
    if weight is not None and (weight in density or weight in given or weight == label):
        raise ConfigError(f"[data] {path}: expected another column than that of the weights, got {weight!r}")
    if len(set(chosen)) < len(chosen):  # equal columns have no density
        twice = max(chosen, key=chosen.count)
        raise ConfigError(f"[data] {path}: expected different columns, got {twice!r} twice")
    if not density:
        raise ConfigError(f"[data] {path}: expected at least one column, got none"
                          f"{' beside the context' if given else ''}")
    return chosen


def number_classes(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """Names of classes -> their numbers (N,), in order, and the names by number.

    Names that are all whole numbers, or all numbers, go by their value, others by their text.
    """
    classes = sorted(set(cells))
    for value in (int, float):  # int tells apart what float rounds
        try:
            values = {name: value(name) for name in classes}
        except ValueError:
            continue
        if not any("_" in name or values[name] != values[name] for name in classes):  # Python's 1_000, and nan
            classes.sort(key=values.__getitem__)
            break
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[cell] for cell in cells], np.int32), classes


def _head(path: str, file: TextIO, delimiter: str) -> tuple[list[str], int]:
    """The names of the columns, and how many lines they take, after which the file is read on. IoError."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    head = next((row for row in reader if row), None)
    if head is None:
        raise IoError(f"[data] {path}: expected a table in CSV, got an empty file")
    names, above = [cell.strip() for cell in head], reader.line_num
    if not is_header(names) and not _is_default_header(names):
        names, above = [str(i) for i in range(len(names))], 0
        file.seek(0)
    return names, above


def _tables(path: str, file: TextIO, delimiter: str, columns: Sequence[str | int] | None, label: str | None,
            context: Sequence[str | int] | None,
            weight: str | None) -> Iterator[tuple[list[str], np.ndarray, list[str]]]:
    """(the chosen names, their numbers (n, D + C + 1 or 0), the classes or none) of consecutive rows."""
    names, above = _head(path, file, delimiter)
    if columns is None and "" in names:
        raise IoError(f"[data] {path}: expected a name for every column, got none for column {names.index('')} "
                      "(pandas' index? write with index=False, or choose columns)")
    named = [name for name in names if name]
    if len(set(named)) != len(named):
        raise IoError(f"[data] {path}: expected different names of columns, got {', '.join(names)}")
    chosen = choose(path, names, columns, label, context, weight)
    step, found = max(1, BLOCK_CELLS // len(names)), False
    while lines := _lines(file, step):
        block = _plain_rows(lines, delimiter, names, chosen, label, weight)
        if block is None:
            # A quoted cell may go on below these lines.
            reader = csv.reader(itertools.chain(lines, file), delimiter=delimiter, strict=True)
            rows = list(itertools.islice(((above + reader.line_num, row) for row in reader if row), step))
            block = _rows(path, names, rows, chosen, label, weight)
            above += reader.line_num
        else:
            above += len(lines)
        if len(block[0]):
            yield chosen, *block
            found = True
    if not found:
        raise IoError(f"[data] {path}: expected rows below the header, got none")


def _lines(file: TextIO, count: int) -> list[str]:
    """The next `count` lines that are not blank, with the blank ones between them; fewer at the end."""
    lines: list[str] = []
    while count > 0 and (more := list(itertools.islice(file, count))):
        lines += more
        count -= len(more) - sum(map(more.count, BLANK))
    return lines


def _plain_rows(lines: list[str], delimiter: str, names: list[str], chosen: list[str],
                label: str | None, weight: str | None) -> tuple[np.ndarray, list[str]] | None:
    """The numbers and classes of plain lines by numpy's reader, which is quicker and gives the same numbers.

    None where it refuses them, or may read otherwise than cell by cell, which also says what is wrong and where.
    """
    rows = [line for line in lines if line not in BLANK]
    text, between = "".join(rows), len(names) - 1
    if not rows or any(mark in text for mark in NOT_PLAIN) or any(line.count(delimiter) != between for line in rows):
        return None
    try:
        table = np.loadtxt(rows, delimiter=delimiter, comments=None, ndmin=2,
                           usecols=[names.index(name) for name in chosen])
    except ValueError:
        return None
    if len(table) != len(rows) or not np.isfinite(table).all() or (weight is not None and table[:, -1].min() < 0):
        return None
    if label is None:
        return table, []
    at = names.index(label)
    labels = [line.split(delimiter)[at].strip() for line in rows]
    return None if "" in labels else (table, labels)


def _rows(path: str, names: list[str], rows: list[tuple[int, list[str]]], chosen: list[str],
          label: str | None, weight: str | None) -> tuple[np.ndarray, list[str]]:
    for line, row in rows:
        if len(row) != len(names):
            raise IoError(f"[data] {path}: expected {len(names)} cells in line {line}, got {len(row)}")
    labels = [] if label is None else [row[names.index(label)].strip() for _, row in rows]
    if "" in labels:
        raise IoError(f"[data] {path}: expected a class in line {rows[labels.index('')][0]}, column {label!r}, "
                      "got an empty cell")
    return _numbers(path, names, rows, chosen, weight), labels


def _numbers(path: str, names: list[str], rows: list[tuple[int, list[str]]], chosen: list[str],
             weight: str | None) -> np.ndarray:
    table = np.empty((len(rows), len(chosen)))
    for j, name in enumerate(chosen):
        at = names.index(name)
        try:
            table[:, j] = [_number(row[at]) for _, row in rows]
        except ValueError:
            line, cell = next((line, row[at]) for line, row in rows if not _is_number(row[at]))
            raise IoError(f"[data] {path}: expected a number in line {line}, column {name!r}, got {cell!r} "
                          "(choose columns, or name it as label)") from None
        bad = np.flatnonzero(~np.isfinite(table[:, j]) | ((name == weight) & (table[:, j] < 0)))
        if bad.size:
            line, row = rows[bad[0]]
            raise IoError(f"[data] {path}: expected a finite number{' >= 0' if name == weight else ''} in line {line}, "
                          f"column {name!r}, got {row[at]!r}")
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
