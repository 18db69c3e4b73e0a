"""Latents, data and samples to files, block by block: memory does not grow with their number."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evenflow import plot
from evenflow._border import arrays, checks
from evenflow._border.batch import Batch
from evenflow._border.files import Write, blocks, check_any, replacing, write_rows, writing
from evenflow.density import Density, check_flow, for_flow, forward, inverse, sample, take, take_latents
from evenflow.density import blocks as slices
from evenflow.errors import ConfigError, IoError, ShapeError


def encode_rows(flow: Density, rows: Any, out: str) -> int:
    """Writes the latents of data, (N, D), and returns N.

    rows: batches of consecutive rows, as of `evenflow.runs.stream.read_rows`, or an array x.
    out: .npy or .csv; or .npz, for which all is held in memory, with arrays z and, where the model is given them,
    labels or context, as decode_rows takes them. Errors leave no file behind.
    """
    check_flow("encode", flow)
    n, out = 0, checks.file_name("encode", out)
    with _latents_file(flow, out) as write:
        for block in blocks("encode", rows):
            given = for_flow(flow, block)
            batch = take(flow, "encode", block.x, **given.conditions, first=n)
            write(dataclasses.replace(given, x=forward(flow, "encode", batch, first=n)[0]))
            n += len(batch)
        check_any("encode", n)
    return n


@contextlib.contextmanager
def _latents_file(flow: Density, out: str) -> Iterator[Callable[[Batch], Any]]:
    if out.lower().endswith(".npz"):
        with replacing("encode", out) as temporary, open(temporary, "wb") as file:
            batches: list[Batch] = []
            yield batches.append
            kept = {name: np.concatenate([getattr(batch, part) for batch in batches])
                    for name, part in (("z", "x"), ("labels", "label"), ("context", "context"))
                    if getattr(batches[0], part) is not None}
            np.savez(file, **kept)  # type: ignore[arg-type]
    elif out.lower().endswith((".npy", ".csv")):
        with write_rows("encode", out, [f"z{i}" for i in range(flow.dims)]) as write:
            yield lambda batch: write(batch.x)
    else:
        raise ConfigError(f"[encode] expected a name ending in .npy, .npz or .csv, got {out}")


def decode_rows(flow: Density, rows: Any, out: str, label: int | None = None,
                names: Sequence[str] | None = None, context: Any = None) -> int:
    """Writes the data of latents in a form of `write_data`, and returns their number N.

    rows: batches of consecutive rows, as of `evenflow.runs.stream.read_latents`, or an array z.
    label, context: for rows that come with none, of a model that is given one; a context is (C,) or (N, C).
    """
    check_flow("decode", flow)
    n, numbers = 0, None if context is None else arrays.as_numbers("decode", "the context", context)
    each = numbers is not None and numbers.ndim == 2
    with write_data("decode", flow, out, names=names) as write:
        for block in blocks("decode", rows):
            own = numbers[n:n + len(block)] if numbers is not None and each else numbers
            given = for_flow(flow, block).conditions or {"label": label, "context": own}
            batch = take_latents(flow, "decode", block.x, **given, first=n)
            write(inverse(flow, "decode", batch, first=n)[0])
            n += len(batch)
        if numbers is not None and each and n != len(numbers):
            raise ShapeError(f"[decode] expected as many rows of context as latents, {n}, got {len(numbers)}")
        check_any("decode", n)
    return n


def write_samples(flow: Density, n: int, path: str, temperature: float = 1.0, seed: int = 0,
                  label: int | None = None, names: Sequence[str] | None = None, context: Any = None,
                  finish: Callable[[Any], Any] = lambda x: x) -> tuple[int, int]:
    """Writes n samples in a form of `write_data`, and returns their number and that of those drawn anew.

    label None: all classes in turn, one a column. context: of a model that is given one, (C,), or (M, C) for n
    samples of each of its rows, M n in that order. finish: what is done to samples before.
    """
    check_flow("sample", flow)
    total = n = checks.whole("sample", "n", n, low=1)
    numbers = None if context is None else arrays.as_numbers("sample", "the context", context)
    if each := numbers is not None and numbers.ndim == 2:
        latents = np.broadcast_to(np.zeros(flow.dims, flow.dtype), (len(numbers), flow.dims))
        numbers = take_latents(flow, "sample", latents, context=numbers).context  # a bad one by its own row
        total = n * len(numbers)
    turns, lost = flow.classes > 0 and label is None, 0
    with write_data("sample", flow, path, flow.classes if turns else None, names) as write:
        check_any("sample", total)
        for block in slices(flow, total):
            rows = np.arange(block.start, block.stop)
            x, _, redrawn = sample(flow, "sample", len(rows), rows % flow.classes if turns else label,
                                   numbers[rows // n] if numbers is not None and each else numbers, seed, block.start,
                                   temperature, redraw=True, of=total)
            lost += redrawn
            write(finish(x))
    return total, lost


@contextlib.contextmanager
def write_data(where: str, flow: Density, path: str, columns: int | None = None,
               names: Sequence[str] | None = None) -> Iterator[Write]:
    """Takes data of a model, block by block, and writes them in the form that the name asks for.

    .npy: floats in the data's units, with any number of leading dimensions. .csv: a table, with `names`, else
    x0, x1, ... .png: images in one picture, `columns` side by side. No ending: a new folder with a picture for each.
    columns: the data are lines of so many samples, which of a table go into .npy files only.
    ConfigError for another name; IoError; errors of `plot.writer`. They come before the first block where they can,
    and leave nothing behind.
    """
    check_flow(where, flow)
    path = checks.file_name(where, path)
    ending = os.path.splitext(path)[1].lower()
    names = names or [f"x{i}" for i in range(flow.dims)]
    if ending == ".csv" and len(names) != flow.dims:
        raise ConfigError(f"[{where}] expected {flow.dims} names of columns, got {len(names)}")
    flat = not flow.is_image and columns is None
    if ending == ".npy" or (ending == ".csv" and flat):
        with write_rows(where, path, names) as write:
            yield write
    elif ending == ".png" and flow.is_image:
        plot.writer(flow.shape[2])
        images: list[np.ndarray] = []
        with replacing(where, path) as temporary:
            yield lambda x: images.append(flow.to_uint8(x.reshape(-1, *flow.shape)))
            plot.save_grid(np.concatenate(images), temporary, columns)
    elif ending == "" and flow.is_image:
        with _pictures(where, flow, path) as write:
            yield write
    else:
        wanted = (".png or .npy, or the name of a new folder" if flow.is_image else
                  ".csv or .npy, for a table" if flat else ".npy, for lines of rows of a table")
        raise ConfigError(f"[{where}] expected a name ending in {wanted}, got {path}")


@contextlib.contextmanager
def _pictures(where: str, flow: Density, path: str) -> Iterator[Write]:
    """Writes numbered pictures into a folder beside `path`, which is renamed to it if the block ends well."""
    plot.writer(flow.shape[2])
    parent, name = os.path.split(os.path.normpath(path))
    if os.path.exists(os.path.join(parent, name)):
        raise IoError(f"[{where}] expected the name of a new folder, got {path!r}")
    temporary, numbers = os.path.join(parent, f".evenflow-{os.getpid()}-{name}"), itertools.count()

    def write(x: np.ndarray) -> None:
        for image in flow.to_uint8(x.reshape(-1, *flow.shape)):
            plot.save_grid(image[None], os.path.join(temporary, f"{next(numbers):06d}.png"), scale=1)

    with writing(where, path):
        os.mkdir(temporary)
        try:
            yield write
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
