"""Tables in CSV and Parquet files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import gzip
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from evenflow._border.extras import need
from evenflow._border.bounds import Pairs
from evenflow.data.dataset import Dataset, Flaws, is_missing, is_number, reading
from evenflow.errors import ConfigError, IoError

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TABLES = (*CSV, ".parquet")
DELIMITERS = ",;\t"
MISSES = "missing"
BLOCK_CELLS = 1 << 18
"""Cells that are in memory at once: a few MB."""
Part = tuple[list[NDArray[np.float64]], list[Any], list[str]]
"""Of consecutive rows: the columns of numbers, NaN where a cell is none; their cells as the file has them; classes."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, by name, and what for. None: nothing was chosen."""

    columns: list[str] | None = None
    """Of the density; None: all that the file has, but for those of another use."""
    label: str | None = None
    context: list[str] | None = None
    weight: str | None = None
    drop: list[str] | None = None
    """Not read."""
    omit: list[tuple[str, Any]] | None = None
    """(column, value): rows that have it are left out; `missing` stands for one that is."""
    noise: list[tuple[str, Any]] | None = None
    """(column, step): of its values, to which uniform noise of this width is added."""

    @staticmethod
    def of(columns: Sequence[str | int] | None = None, label: str | int | None = None,
           context: Sequence[str | int] | None = None, weight: str | int | None = None,
           drop: Sequence[str | int] | None = None, omit: Sequence[Sequence[Any]] | None = None,
           noise: Sequence[Sequence[Any]] | None = None) -> Columns:
        """Names and numbers as a user gives them. TypeError."""
        def names(what: str, some: Sequence[str | int] | None) -> list[str] | None:
            if some is not None and (isinstance(some, str) or not isinstance(some, Iterable)):
                raise TypeError(f"[data] {what} must be a list of names, not {some!r}")
            return None if some is None else [str(name) for name in some]

        def pairs(what: str, some: Any) -> list[tuple[str, Any]] | None:
            try:
                return None if some is None else [
                    (str(name), value if (what, value) == ("omit", MISSES) else float(value)) for name, value in some]
            except (TypeError, ValueError):
                raise TypeError(f"[data] {what} must be a list of pairs of a column and a number, not {some!r}"
                                ) from None

        return Columns(names("columns", columns), None if label is None else str(label), names("context", context),
                       None if weight is None else str(weight), names("drop", drop), pairs("omit", omit),
                       pairs("noise", noise))

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
                       (None if self.weight in other.all else self.weight) if other.weight is None else other.weight,
                       self.drop, self.omit, [pair for pair in self.noise or () if pair[0] in (
                           other.columns or self.columns or [pair[0]])] or None)

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
        return Columns(columns, label, context, self.weight if self.weight in there and len(there) > others else None,
                       [name for name in self.drop or () if name in there] or None, noise=self.noise)

    def rounded(self, x: NDArray[Any], names: Sequence[str], bounds: Pairs | None) -> NDArray[Any]:
        """Samples (N, D) of a flow with these bounds, without the noise, which the flow has learned too."""
        x = x.copy()
        for name, step in self.noise or ():
            low, high = (None, None) if bounds is None else bounds[names.index(name)]
            first = -math.inf if low is None else math.floor(low / step + 1e-3) + 1
            last = math.inf if high is None else math.ceil(high / step - 1e-3) - 1
            # A quotient: of 562 and 1000 it is the number nearest to 0.562, which a product with 0.001 need not be.
            x[:, names.index(name)] = np.clip(np.rint(x[:, names.index(name)] / step), first, last) / (1 / step) + 0.0
        return x

    def among(self, path: str, names: list[str], index: Sequence[object] = ()) -> Columns:
        """This choice for a file with these columns, of which pandas' index is taken by name only."""
        named = [name for name in names if name]
        if len(set(named)) != len(named):
            raise IoError(f"[data] {path}: two columns have the same name: {', '.join(names)}")
        drop = self.drop or ()
        if self.columns is None and "" in names and "" not in drop:
            raise IoError(f"[data] {path}: column {names.index('')} has no name; if it is the index of a pandas frame, "
                          "write the file with index=False, or choose columns")
        columns = [n for n in names if n not in (*self.all, *index, *drop)] if self.columns is None else self.columns
        chosen = dataclasses.replace(self, columns=columns)
        for what, pairs, of in (("omit", self.omit, chosen.numbers), ("noise", self.noise, columns)):
            for name, _ in pairs or ():
                if name in names and name not in of:
                    raise ConfigError(f"[data] {path}: expected a column that is read, for {what}, got {name!r}")
        for name in (*chosen.all, *drop, *(name for name, _ in (*(self.omit or ()), *(self.noise or ())))):
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
    """The rows that `read_table` reads, in blocks, so that memory does not grow with the file.

    From the first value on that can't be used the rest is only counted, for an IoError that tells of all.
    """
    flaws, rows, draws = Flaws(path), 0, np.random.default_rng(0)
    with _opened(path) as (there, index, parts):
        chosen = chosen.among(path, there, index)
        for numbers, cells, labels in parts(chosen):
            table = np.column_stack(numbers)
            bad = ~np.isfinite(table)
            if chosen.weight is not None:
                bad[:, -1] |= table[:, -1] < 0
            if chosen.label is not None:
                bad, cells = np.column_stack([bad, [cell == "" for cell in labels]]), [*cells, labels]
            gone = np.zeros(len(table), bool)
            for name, value in chosen.omit or ():
                at = chosen.numbers.index(name)
                if value != MISSES:
                    gone |= table[:, at] == value
                for row in np.flatnonzero(bad[:, at]) if value == MISSES else ():
                    gone[row] |= is_missing(cells[at][int(row)])
            flaws.add(chosen.all, bad & ~gone[:, None], cells)
            table, labels = table[~gone], [label for label, out in zip(labels, gone) if not out]
            rows += len(table)
            for name, step in chosen.noise or ():
                column = table[:, chosen.numbers.index(name)]
                if not np.allclose(column, step * np.rint(column / step), rtol=1e-6, atol=1e-3 * step, equal_nan=True):
                    raise ConfigError(f"[data] {path}: expected multiples of {step:g} in column {name!r}, for noise")
                column += step * (draws.random(len(table)) - 0.5)
            if not flaws and len(table):
                yield Block(chosen, table, labels)
    flaws.refuse()
    if rows == 0:
        raise IoError(f"[data] {path}: the table has no rows")


def read_raw(path: str) -> tuple[list[str], NDArray[np.float64], list[list[str]]]:
    """Names of a file's columns, their numbers (N, D), NaN where a cell is none, and the texts in each, sorted."""
    with _opened(path) as (there, index, parts):
        names = Columns().among(path, there, index).columns or []
        blocks, texts = [], [set[str]() for _ in names]
        for numbers, cells, _ in parts(Columns(names)):
            blocks.append(np.column_stack(numbers))
            for found, column, number in zip(texts, cells, numbers):
                found |= {str(cell).strip() for cell in np.asarray(column, object)[np.isnan(number)]
                          if not is_missing(cell)}
    return names, np.concatenate([np.empty((0, len(names))), *blocks]), [sorted(found) for found in texts]


def table_columns(path: str) -> list[str]:
    """The names of a file's columns. IoError."""
    with _opened(path) as (names, _, _):
        return names


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


def is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: none is a number."""
    return not any(map(is_number, cells))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[list[str], list[str], Callable[[Columns], Iterator[Part]]]]:
    """(the names of a table's columns, those of pandas' index among them, a reader of the rows). IoError for what goes
    wrong in the block.
    """
    kind, opened = ("Parquet", _open_parquet) if path.lower().endswith(".parquet") else ("CSV", _open_csv)
    with reading(path, f"{kind} file"), opened(path) as table:
        yield table


@contextlib.contextmanager
def _open_csv(path: str) -> Iterator[tuple[list[str], list[str], Callable[[Columns], Iterator[Part]]]]:
    ending = path.lower()
    with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if ending.endswith(".gz")
          else open(path, encoding="utf-8-sig", newline="")) as file:
        line = next((line for line in file if line.strip("\r\n")), None)
        if line is None:
            raise IoError(f"[data] {path}: the file is empty")
        delimiter = "\t" if ending.endswith((".tsv", ".tsv.gz")) else max(DELIMITERS, key=line.count)
        names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
        # pandas' header of a frame without names, perhaps with its index before them. Two columns have none: points in
        # the plane may well begin with 0, 1.
        numbers = names[names[0] == "":]
        numbered = len(names) > 2 and numbers == [str(i) for i in range(len(numbers))]
        if not (is_header(names) or numbered):
            names = [str(i) for i in range(len(names))]
            file.seek(0)
        yield names, [], functools.partial(_csv_parts, file, delimiter, names)


def _csv_parts(file: TextIO, delimiter: str, names: list[str], chosen: Columns) -> Iterator[Part]:
    pandas = need("data", "pandas", "pandas", "cli")
    at = {name: place for place, name in enumerate(names)}
    # Newer ones are as exact without being asked, and warn of the question.
    exact = {} if tuple(map(int, pandas.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
    with pandas.read_csv(file, sep=delimiter, header=None, names=range(len(names)), na_filter=False, low_memory=False,
                         skipinitialspace=True, dtype={} if chosen.label is None else {at[chosen.label]: str},
                         chunksize=max(1, BLOCK_CELLS // len(names)), **exact) as frames:
        for frame in frames:
            if not isinstance(frame.index, pandas.RangeIndex):
                raise ValueError(f"expected {len(names)} cells in each row, got more")
            cells = [frame[at[name]] for name in chosen.numbers]
            numbers = [column if column.dtype.kind in "iuf" else pandas.to_numeric(column.astype(str), errors="coerce")
                       for column in cells]
            labels = [] if chosen.label is None else frame[at[chosen.label]].str.strip().tolist()
            yield [column.to_numpy(np.float64) for column in numbers], [column.array for column in cells], labels


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[tuple[list[str], list[str], Callable[[Columns], Iterator[Part]]]]:
    parquet = need("data", "pyarrow.parquet", "pyarrow", "parquet")
    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        # Names of columns; pandas describes an index of evenly spaced numbers instead.
        index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        yield list(schema.names), index, functools.partial(_parquet_parts, path, file)


def _parquet_parts(path: str, file: Any, chosen: Columns) -> Iterator[Part]:
    for batch in file.iter_batches(max(1, BLOCK_CELLS // len(chosen.all)), columns=chosen.all):
        cells = [batch.column(name) for name in chosen.numbers]
        for name, column in zip(chosen.numbers, cells):
            if not str(column.type).startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
                raise IoError(f"[data] {path}: column {name!r} holds {column.type}, not numbers; leave this column "
                              "out (drop), or convert it")
        numbers = [column.cast("double", safe=False).to_numpy(zero_copy_only=False) for column in cells]
        labels = [] if chosen.label is None else batch.column(chosen.label).cast("string").fill_null("").to_pylist()
        yield numbers, cells, labels
