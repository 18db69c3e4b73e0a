"""Rows of a data file, in memory that does not grow with the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.checks import file_name
from evenflow.data.dataset import checked, reading
from evenflow.data.table import CSV, Columns, read_blocks
from evenflow.density import Density
from evenflow.runs import Plan, columns_of, held_out


def read_rows(source: str | os.PathLike[str] | None, flow: Density | None = None, plan: Plan | None = None,
              columns: Sequence[str] | None = None, size: int | None = None,
              context: Sequence[str] | None = None) -> Iterator[Batch]:
    """Batches of consecutive rows of a data set.

    The test part is taken where the data have one; source None: the run's own data. CSV files are read piece by piece;
    other data are one batch, whose x stays in its file where `evenflow.data.load` leaves it there.
    columns, context: of a CSV or Parquet file; default: those that `flow` was trained on, where they have names, else
    all columns and no context. Weights are in the run's column of weights, if the file has it, or in a
    .npz file.
    IoError, with its row, for a broken file; ConfigError for an unknown column.
    """
    source = None if source is None else file_name("data", source)
    chosen = Columns.of(columns, context=context)
    if source is not None and source.lower().endswith(CSV):
        for block in read_blocks(source, columns_of(flow, plan, source).over(chosen)):
            yield Batch(block.numbers, None, block.context, block.weight)
    else:
        part = held_out(flow, plan, source, size, chosen=chosen)
        yield part.part("train" if part.test is None else "test")


def read_latents(path: str | os.PathLike[str]) -> Iterator[Batch]:
    """Batches of a file of `evenflow encode`: .npy or .csv, or .npz with z and labels or a context. IoError."""
    path = file_name("data", path)
    if path.lower().endswith(".npz"):
        with (reading(path, ".npz file with an array z"), open(path, "rb") as raw,
              np.load(raw, allow_pickle=False) as file):
            z = file["z"]
            labels, context = (file[name] if name in file.files else None for name in ("labels", "context"))
        yield checked(path, z, train_labels=labels, train_context=context).part("train")
    else:
        yield from read_rows(path)
