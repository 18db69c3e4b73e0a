"""Rows of a data file, piece by piece, in memory that does not grow with the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from evenflow.arrays import file_name
from evenflow.data import TABLES, Dataset, load
from evenflow.data.numpy_files import BROKEN
from evenflow.data.table import read_csv_blocks
from evenflow.errors import ConfigError, IoError
from evenflow.rows import Rows
from evenflow.runs import Plan, held_out

CHUNK_VALUES = 1 << 20
CSV = (".csv", ".csv.gz")


def read_rows(source: str | os.PathLike[str] | None, plan: Plan | None = None, columns: Sequence[str] | None = None,
              size: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(x, labels) of consecutive rows of a data set; labels None where it has none.

    The test part is taken where the data have one; source None: that of the run's own data. CSV files are
    read piece by piece, and so is everything that `evenflow.data.load` leaves in its file.
    columns: of a CSV or Parquet file; default those that the run of `plan` was trained on, where they have
    names, else all.
    IoError, with row or line, for a broken file; ConfigError for an unknown column.
    """
    source = None if source is None else file_name("data", source)
    if source is not None and source.endswith(CSV):
        columns, label = (columns, None) if columns is not None or plan is None else plan.selection()
        for block in read_csv_blocks(source, columns=columns, label=label):
            yield block.numbers, None
        return
    part = chosen_part(plan, source, size, columns)
    x, labels = (part.train, part.train_labels) if part.test is None else (part.test, part.test_labels)
    yield from _pieces(x, labels)


def chosen_part(plan: Plan | None, source: str | None, size: int | None = None, columns: Sequence[str] | None = None,
                label: str | None = None) -> Dataset:
    """`evenflow.runs.held_out`, or these columns of another table, with or without its column of classes.

    columns None: those of the run, as in `read_rows`, but label. ConfigError for data that are no CSV or Parquet
    file.
    """
    if columns is None and label is None:
        return held_out(plan, source, size)
    if source is None or not source.endswith(TABLES):
        raise ConfigError("[data] expected columns and label with a CSV or Parquet file only, "
                          f"got {source or 'the data of a run'}")
    if columns is None and plan is not None:
        columns, _ = plan.selection()
    return load(source, columns=columns, label=label)


def read_latents(path: str | os.PathLike[str]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(z, labels) of a file of `evenflow encode`: .npy or .csv, or .npz with z and labels. IoError."""
    path = file_name("data", path)
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
        for block in read_csv_blocks(path):
            yield block.numbers, None
    else:
        raise IoError(f"[data] expected latents in a file ending in .npy, .npz or .csv, got {path}")


def _pieces(x: np.ndarray | Rows,
            labels: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    step = _rows_a_chunk(x.shape[1:])
    for a in range(0, len(x), step):
        yield x[a:a + step], None if labels is None else labels[a:a + step]


def _rows_a_chunk(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK_VALUES // math.prod(shape))
