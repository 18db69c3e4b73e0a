"""Rows of a data file, piece by piece, in memory that does not grow with the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.checks import file_name
from evenflow.data import load
from evenflow.data.dataset import checked, reading
from evenflow.data.table import CSV, Columns, read_blocks
from evenflow.density import Density
from evenflow.errors import IoError
from evenflow.runs import Plan, columns_of, held_out

CHUNK_VALUES = 1 << 20


def read_rows(source: str | os.PathLike[str] | None, flow: Density | None = None, plan: Plan | None = None,
              columns: Sequence[str] | None = None, size: int | None = None,
              context: Sequence[str] | None = None) -> Iterator[Batch]:
    """Batches of consecutive rows of a data set.

    The test part is taken where the data have one; source None: the run's own data. CSV files, and everything that
    `evenflow.data.load` leaves in its file, are read piece by piece.
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
        return
    part = held_out(flow, plan, source, size, chosen=chosen)
    yield from _pieces(part.part("train" if part.test is None else "test"))


def read_latents(path: str | os.PathLike[str]) -> Iterator[Batch]:
    """Batches of a file of `evenflow encode`: .npy or .csv, or .npz with z and labels or a context. IoError."""
    path = file_name("data", path)
    ending = path.lower()
    if ending.endswith(".npz"):
        with (reading(path, ".npz file with an array z"), open(path, "rb") as raw,
              np.load(raw, allow_pickle=False) as file):
            z = file["z"]
            labels, context = (file[name] if name in file.files else None for name in ("labels", "context"))
        yield from _pieces(checked(path, z, train_labels=labels, train_context=context).part("train"))
    elif ending.endswith(".npy"):
        yield from _pieces(load(path).part("train"))
    elif ending.endswith(CSV):
        yield from (Batch(block.numbers) for block in read_blocks(path))
    else:
        raise IoError(f"[data] {path}: a file of latents ends in .npy, .npz or .csv")


def _pieces(batch: Batch) -> Iterator[Batch]:
    step = max(1, CHUNK_VALUES // math.prod(batch.x.shape[1:]))
    return (batch[a:a + step] for a in range(0, len(batch), step))
