"""Rows of a data file, piece by piece, in memory that does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evenflow.data import Dataset, load
from evenflow.data.numpy_files import BROKEN
from evenflow.data.table import DELIMITERS, choose
from evenflow.errors import ConfigError, IoError
from evenflow.rows import Rows
from evenflow.runs import Plan, held_out

CHUNK_VALUES = 1 << 20
CELL_VALUES = 16
"""A cell of text takes the memory of about so many numbers."""
CSV = (".csv", ".csv.gz")


def read_rows(source: str | None, plan: Plan | None = None, columns: Sequence[str] | None = None,
              size: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(x, labels) of consecutive rows of a data set; labels None where it has none.

    The test part is taken where the data have one; source None: that of the run's own data. CSV files are
    read piece by piece, and so is everything that `evenflow.data.load` leaves in its file.
    columns: of a CSV file; default those that the run of `plan` was trained on, else all.
    IoError, with row or line, for a broken file; ConfigError for an unknown column.
    """
    if columns is not None and (source is None or not source.endswith(CSV)):
        raise ConfigError("[data] expected columns with a CSV file only, "
                          f"got {source or 'the data of a run'}")
    if source is not None and source.endswith(CSV):
        ours = plan.source if plan is not None else None
        for x in read_csv(source, columns or (ours.columns if ours else None), ours.label if ours else None):
            yield x, None
        return
    part = held_out(plan, source, size)
    x, labels = (part.train, part.train_labels) if part.test is None else (part.test, part.test_labels)
    yield from _pieces(x, labels)


def read_latents(path: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(z, labels) of a file of `evenflow encode`: .npy or .csv, or .npz with z and labels. IoError."""
    if path.endswith(".npz"):
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                z, labels = file["z"], file["labels"] if "labels" in file.files else None
        except (*BROKEN, AttributeError, TypeError) as error:
            raise IoError(f"[data] {path}: expected a .npz file with an array z, got: {error}") from error
        part = Dataset.from_array(path, z, train_labels=labels)
        yield from _pieces(part.train, part.train_labels)
    elif path.endswith(".npy"):
        yield from _pieces(load(path).train, None)
    elif path.endswith(CSV):
        for z in read_csv(path):
            yield z, None
    else:
        raise IoError(f"[data] expected latents in a file ending in .npy, .npz or .csv, got {path}")


def _pieces(x: np.ndarray | Rows,
            labels: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    step = _rows_a_chunk(x.shape[1:])
    for a in range(0, len(x), step):
        yield x[a:a + step], None if labels is None else labels[a:a + step]


def read_csv(path: str, columns: Sequence[str] | None = None,
             label: str | None = None) -> Iterator[np.ndarray]:
    """Blocks of rows (n, D) float64 of a CSV file, as `evenflow.data.read_csv` reads it whole."""
    try:
        with (gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.endswith(".gz")
              else open(path, encoding="utf-8-sig", newline="")) as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            yield from _csv_blocks(path, rows, columns, label)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a table in CSV, got: {error}") from error


def _csv_blocks(path: str, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str] | None,
                label: str | None) -> Iterator[np.ndarray]:
    head = next(rows, None)
    if head is None:
        raise IoError(f"[data] {path}: expected a table in CSV, got an empty file")
    names = [cell.strip() for cell in head[1]]
    if not all(math.isnan(_number(cell)) for cell in names):
        names, rows = [str(i) for i in range(len(names))], itertools.chain([head], rows)
    at = [names.index(name) for name in choose(path, names, columns, label)]
    step, found = _rows_a_chunk((CELL_VALUES, len(names))), False
    while block := list(itertools.islice(rows, step)):
        yield _csv_numbers(path, names, block, at)
        found = True
    if not found:
        raise IoError(f"[data] {path}: expected rows below the header, got none")


def _csv_numbers(path: str, names: list[str], block: list[tuple[int, list[str]]],
                 at: list[int]) -> np.ndarray:
    for line, row in block:
        if len(row) != len(names):
            raise IoError(f"[data] {path}: expected {len(names)} cells in line {line}, got {len(row)}")
    numbers = np.array([[_number(row[i]) for i in at] for _, row in block])
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        (line, row), i = block[bad[0][0]], at[bad[0][1]]
        raise IoError(f"[data] {path}: expected a finite number in line {line}, column {names[i]!r}, "
                      f"got {row[i]!r}")
    return numbers


def _number(cell: str) -> float:
    """NaN for text that is no number."""
    try:
        return float("nan" if "_" in cell else cell)
    except ValueError:
        return math.nan


def _rows_a_chunk(shape: Any) -> int:
    return max(1, CHUNK_VALUES // math.prod(shape))
