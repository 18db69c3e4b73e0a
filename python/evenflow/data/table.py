"""Tables in CSV and Parquet files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from evenflow.data.dataset import Dataset, complaint
from evenflow.errors import ConfigError, IoError
from evenflow._border.extras import need

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
DELIMITERS = ",;\t"
BLOCK_CELLS = 1 << 16
"""Cells that are in memory as text at once: a few MB."""
BLANK = ("\n", "\r\n", "\r")
NOT_PLAIN = '"\0\x1c\x1d\x1e\x1f'
"""Quotes, and characters that numpy drops beside a number but Python's float() refuses."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, by name, and what for. None: nothing was chosen."""

    columns: list[str] | None = None
    """Of the density; None: all that the file has, but for those of another use."""
    label: str | None = None
    context: list[str] | None = None
    weight: str | None = None

    @staticmethod
    def of(columns: Sequence[str | int] | None = None, label: str | int | None = None,
           context: Sequence[str | int] | None = None, weight: str | int | None = None) -> Columns:
        """Names and numbers as a user gives them. TypeError."""
        def names(what: str, some: Sequence[str | int] | None) -> list[str] | None:
            if some is not None and (isinstance(some, str) or not isinstance(some, Iterable)):
                raise TypeError(f"[data] {what} must be a list of names, not {some!r}")
            return None if some is None else [str(name) for name in some]

        return Columns(names("columns", columns), None if label is None else str(label), names("context", context),
                       None if weight is None else str(weight))

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers: those of the density, then of the context, then of the weight."""
        return [*(self.columns or ()), *(self.context or ()), *([] if self.weight is None else [self.weight])]

    @property
    def all(self) -> list[str]:
        """Columns of numbers, then that of the label."""
        return [*self.numbers, *([] if self.label is None else [self.label])]

    def over(self, other: Columns) -> Columns:
        """This choice with what another one chooses. Columns that it chooses leave no label of this one; a column of
        weights stays unless it is chosen for something else. ConfigError for the same columns in another order.
        """
        if self.columns and other.columns and self.columns != other.columns and (
                sorted(self.columns) == sorted(other.columns)):
            raise ConfigError("[data] the columns are in another order than those that the run was trained on, "
                              f"{', '.join(self.columns)}")
        return Columns(self.columns if other.columns is None else other.columns,
                       self.label if other.label is None and other.columns is None else other.label,
                       self.context if other.context is None else other.context,
                       (None if self.weight in other.all else self.weight) if other.weight is None else other.weight)

    def elsewhere(self, path: str, names: Mapping[str, Sequence[str]], count: int) -> Columns:
        """What a model that was trained on this choice, of `count` columns, takes of another file. IoError.

        names: of the model's columns "x" and "context", where they have some. They go by name if the file has names,
        else by place. Weights are taken if the file has them.
        """
        there = table_columns(path)
        known = names if is_header(there) else {}
        columns, context = (list(known.get(what) or own or ()) or None
                            for what, own in (("x", self.columns), ("context", self.context)))
        label = None if columns else self.label
        # Of columns that are all taken in their order, the number says whether weights are among them.
        others = 0 if columns else count + len(context or ()) + (label is not None)
        return Columns(columns, label, context, self.weight if self.weight in there and len(there) > others else None)

    def among(self, path: str, names: list[str], index: Sequence[object] = ()) -> Columns:
        """This choice for a file with these columns, of which pandas' index is taken by name only."""
        named = [name for name in names if name]
        if len(set(named)) != len(named):
            raise IoError(f"[data] {path}: two columns have the same name: {', '.join(names)}")
        columns = [n for n in names if n not in (*self.all, *index)] if self.columns is None else self.columns
        chosen = dataclasses.replace(self, columns=columns)
        for name in chosen.all:
            if name not in names:
                raise ConfigError(f"[data] {path}: there is no column {name!r}; the columns are {', '.join(names)}")
            if chosen.all.count(name) > 1:
                raise ConfigError(f"[data] {path}: column {name!r} is chosen twice; choose each column once, for "
                                  "columns, label, context or weight")
        if not columns:
            raise ConfigError(f"[data] {path}: no column is left for the density")
        return chosen


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    chosen: Columns
    table: NDArray[np.float64]
    """(n, D + C + 1 or 0), the numbers of `chosen.numbers`."""
    labels: list[str]
    """The rows' classes as text, n or none."""

    @property
    def numbers(self) -> NDArray[np.float64]:
        return self.table[:, :len(self.chosen.columns or ())]

    @property
    def context(self) -> NDArray[np.float64] | None:
        start = len(self.chosen.columns or ())
        return self.table[:, start:start + len(self.chosen.context)] if self.chosen.context else None

    @property
    def weight(self) -> NDArray[np.float64] | None:
        return None if self.chosen.weight is None else self.table[:, -1].copy()


def read_table(path: str, chosen: Columns) -> Dataset:
    """All rows of a CSV or Parquet file, as `evenflow.data.load` describes it."""
    blocks = list(read_blocks(path, chosen))
    chosen = blocks[0].chosen
    whole = Block(chosen, np.concatenate([block.table for block in blocks]), [c for b in blocks for c in b.labels])
    labels, classes = (None, []) if chosen.label is None else number_classes(whole.labels)
    return Dataset(whole.numbers, kind="table", train_labels=labels, columns=chosen.columns or [], classes=classes,
                   context=chosen.context or [], train_context=whole.context, train_weight=whole.weight)


def read_blocks(path: str, chosen: Columns = Columns()) -> Iterator[Block]:
    """The rows that `read_table` reads, in blocks, so that memory does not grow with the file."""
    empty = True
    for block in (_parquet_blocks if _is_parquet(path) else _csv_blocks)(path, chosen):
        yield block
        empty = False
    if empty:
        raise IoError(f"[data] {path}: the table has no rows")


def table_columns(path: str) -> list[str]:
    """The names of a file's columns. IoError."""
    if _is_parquet(path):
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    with _csv(path) as (file, delimiter):
        return _head(path, file, delimiter)[0]


def number_classes(cells: list[str]) -> tuple[NDArray[np.int32], list[str]]:
    """Numbers (N,) of classes, and the names by number.

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


def _refuse_bad(path: str, name: str, values: NDArray[np.float64], cells: Any, row: Any, chosen: Columns) -> None:
    """IoError for the first value of a column that can't be used; `row` says where it is."""
    bad = ~np.isfinite(values) | ((name == chosen.weight) & (values < 0))
    for i in np.flatnonzero(bad)[:1]:
        wrong = f"the weight {values[i]:g} is negative" if np.isfinite(values[i]) else complaint(cells[i])
        raise IoError(f"[data] {path}, {row(i)}, column {name!r}: {wrong}")


def _require_classes(path: str, label: str | None, cells: list[Any], row: Any) -> None:
    for missing in ("", None):
        if missing in cells:
            raise IoError(f"[data] {path}, {row(cells.index(missing))}, column {label!r}: the class is missing; "
                          "fill it in, or remove the row")


# CSV

@contextlib.contextmanager
def _csv(path: str) -> Iterator[tuple[TextIO, str]]:
    """A table's file and its delimiter. IoError for what goes wrong in the block."""
    ending = path.lower()
    try:
        with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if ending.endswith(".gz")
              else open(path, encoding="utf-8-sig", newline="")) as file:
            first = file.readline()
            file.seek(0)
            yield file, "\t" if ending.endswith((".tsv", ".tsv.gz")) else max(DELIMITERS, key=first.count)
    except IoError:
        raise
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise IoError(f"[data] {path}: this CSV file can't be read: {error}") from error


def is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: none is a number."""
    return all(np.isnan(_number(cell)) for cell in cells)


def _is_default_header(cells: list[str]) -> bool:
    """Whether a first line is pandas' header of a frame without names, perhaps with its index before them.

    Two columns have none: points in the plane may well begin with 0, 1.
    """
    names = cells[1:] if cells[0] == "" else cells
    return len(cells) > 2 and names == [str(i) for i in range(len(names))]


def _head(path: str, file: TextIO, delimiter: str) -> tuple[list[str], int]:
    """The names of the columns, and how many lines they take, after which the file is read on."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    head = next((row for row in reader if row), None)
    if head is None:
        raise IoError(f"[data] {path}: the file is empty")
    names = [cell.strip() for cell in head]
    if is_header(names) or _is_default_header(names):
        return names, reader.line_num
    file.seek(0)
    return [str(i) for i in range(len(names))], 0


def _csv_blocks(path: str, chosen: Columns) -> Iterator[Block]:
    with _csv(path) as (file, delimiter):
        names, above = _head(path, file, delimiter)
        if chosen.columns is None and "" in names:
            raise IoError(f"[data] {path}: column {names.index('')} has no name; if it is the index of a pandas frame, "
                          "write the file with index=False, or choose columns")
        chosen, step = chosen.among(path, names), max(1, BLOCK_CELLS // len(names))
        while lines := _lines(file, step):
            block = _plain_block(lines, delimiter, names, chosen)
            if block is None:
                # A quoted cell may go on below these lines.
                reader = csv.reader(itertools.chain(lines, file), delimiter=delimiter, strict=True)
                rows = list(itertools.islice(((above + reader.line_num, row) for row in reader if row), step))
                block = _block(path, names, rows, chosen)
                above += reader.line_num
            else:
                above += len(lines)
            if len(block.table):
                yield block


def _lines(file: TextIO, count: int) -> list[str]:
    """The next `count` lines that are not blank, with the blank ones between them; fewer at the end."""
    lines: list[str] = []
    while count > 0 and (more := list(itertools.islice(file, count))):
        lines += more
        count -= len(more) - sum(map(more.count, BLANK))
    return lines


def _plain_block(lines: list[str], delimiter: str, names: list[str], chosen: Columns) -> Block | None:
    """Lines without quotes, by numpy's reader, which takes a third of the time.

    None where it might read otherwise than cell by cell. That also says what is wrong and where.
    """
    rows = [line for line in lines if line not in BLANK]
    text, between = "".join(rows), len(names) - 1
    if not rows or any(mark in text for mark in NOT_PLAIN) or any(line.count(delimiter) != between for line in rows):
        return None
    try:
        table = np.loadtxt(rows, delimiter=delimiter, comments=None, ndmin=2,
                           usecols=[names.index(name) for name in chosen.numbers])
    except ValueError:
        return None
    weights = table[:, -1] if chosen.weight is not None else np.zeros(1)
    if len(table) != len(rows) or not np.isfinite(table).all() or weights.min() < 0:
        return None
    at = -1 if chosen.label is None else names.index(chosen.label)
    labels = [] if chosen.label is None else [line.split(delimiter)[at].strip() for line in rows]
    return None if "" in labels else Block(chosen, table, labels)


def _block(path: str, names: list[str], rows: list[tuple[int, list[str]]], chosen: Columns) -> Block:
    """Rows of cells, each with the number of its line."""
    for line, row in rows:
        if len(row) != len(names):
            raise IoError(f"[data] {path}, line {line}: expected {len(names)} cells, got {len(row)}")

    def cells(name: str) -> list[str]:
        at = names.index(name)
        return [row[at].strip() for _, row in rows]

    def place(i: int) -> str:
        return f"line {rows[i][0]}"

    labels = [] if chosen.label is None else cells(chosen.label)
    _require_classes(path, chosen.label, labels, place)
    table = np.empty((len(rows), len(chosen.numbers)))
    for j, name in enumerate(chosen.numbers):
        found = cells(name)
        table[:, j] = [_number(cell) for cell in found]
        _refuse_bad(path, name, table[:, j], found, place, chosen)
    return Block(chosen, table, labels)


def _number(cell: str) -> float:
    """As float() reads it, but not Python's 1_000; NaN where there is no number."""
    try:
        return float("nan" if "_" in cell else cell)
    except ValueError:
        return float("nan")


# Parquet

def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile. IoError for what pyarrow raises in the block; MissingExtra without pyarrow."""
    parquet = need("data", "pyarrow.parquet", "pyarrow", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (IoError, ConfigError, GeneratorExit):
        raise
    except Exception as error:  # a broken file fails in many ways, not all of them pyarrow's own
        raise IoError(f"[data] {path}: this Parquet file can't be read: {_line(error)}") from error


def _parquet_blocks(path: str, chosen: Columns) -> Iterator[Block]:
    with _parquet(path) as file:
        schema, above = file.schema_arrow, 0
        # Names of columns; pandas describes an index of evenly spaced numbers instead.
        index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        chosen = chosen.among(path, list(schema.names), index)
        for batch in file.iter_batches(max(1, BLOCK_CELLS // len(chosen.all)), columns=chosen.all):
            def place(i: int, above: int = above) -> str:
                return f"row {above + i}"

            labels = [] if chosen.label is None else batch.column(chosen.label).cast("string").to_pylist()
            _require_classes(path, chosen.label, labels, place)
            table = np.empty((batch.num_rows, len(chosen.numbers)))
            for j, name in enumerate(chosen.numbers):
                column = batch.column(name)
                table[:, j] = _floats(path, name, column)
                _refuse_bad(path, name, table[:, j], column, place, chosen)
            above += batch.num_rows
            yield Block(chosen, table, labels)


def _floats(path: str, name: str, column: Any) -> NDArray[np.float64]:
    kind = str(column.type)
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
        raise IoError(f"[data] {path}: column {name!r} holds {kind}, not numbers; leave this column out, by "
                      "choosing the others as columns, or convert it")
    values: NDArray[np.float64] = column.cast("double", safe=False).to_numpy(zero_copy_only=False)
    return values


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
