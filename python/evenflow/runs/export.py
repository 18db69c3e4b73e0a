"""Latents, data and samples to files, block by block: memory does not grow with their number."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evenflow import plot
from evenflow._border import arrays, checks
from evenflow.density import Density, check_flow
from evenflow.errors import ConfigError, IoError, ShapeError
from evenflow._border.files import Rows, blocks, check_any, replacing, write_rows, writing


def encode_rows(flow: Density, rows: Rows, out: str) -> int:
    """Writes the latents of data, (N, D), and returns N.

    rows: (x, given) of consecutive rows, as of `evenflow.runs.stream.read_rows`, or an array x.
    out: .npy or .csv; or .npz, for which all is held in memory, with arrays z and, where the model is given them,
    labels or context, as decode_rows takes them. Errors leave no file behind.
    """
    check_flow("encode", flow)
    out = checks.file_name("encode", out)
    if os.path.splitext(out)[1].lower() == ".npz":
        with replacing("encode", out) as temporary:
            z, given = map(list, zip(*_latents(flow, rows)))
            kept = {"z": np.concatenate(z)}
            if (flow.classes or flow.context) and given[0] is not None:
                kept["context" if flow.context else "labels"] = np.concatenate(given)
            with open(temporary, "wb") as file:
                np.savez(file, **kept)  # type: ignore[arg-type]
        return len(kept["z"])
    if not out.lower().endswith((".npy", ".csv")):
        raise ConfigError(f"[encode] expected a name ending in .npy, .npz or .csv, got {out}")
    n = 0
    with write_rows("encode", out, [f"z{i}" for i in range(flow.dims)]) as writer:
        for block, _ in _latents(flow, rows):
            writer.write(block)
            n += len(block)
    return n


def _latents(flow: Density, rows: Rows) -> Iterator[tuple[np.ndarray, Any]]:
    """(z, given), block by block."""
    n = 0
    for x, given, _ in blocks("encode", rows):
        z, _ = flow._forward("encode", x, **flow._conditions(given), first=n)
        n += len(z)
        yield z, given
    check_any("encode", n)


def decode_rows(flow: Density, rows: Rows, out: str, label: int | None = None,
                names: Sequence[str] | None = None, context: Any = None) -> int:
    """Writes the data of latents in a form of `write_data`, and returns their number N.

    rows: (z, given) of consecutive rows, as of `evenflow.runs.stream.read_latents`, or an array z.
    label, context: for rows that come with none, of a model that is given one; a context is (C,) or (N, C).
    """
    check_flow("decode", flow)
    n, numbers = 0, None if context is None else arrays.as_numbers("decode", "the context", context)
    each = numbers if numbers is not None and numbers.ndim == 2 else None
    with write_data("decode", flow, out, names=names) as write:
        for z, given, _ in blocks("decode", rows):
            z = flow._take_floats("decode", z, (flow.dims,))
            own = numbers if each is None else each[n:n + len(z)]
            known = {"label": label, "context": own} if given is None else flow._by_name(given)
            write(flow._inverse("decode", z, **known, first=n)[0])
            n += len(z)
        if each is not None and n != len(each):
            raise ShapeError(f"[decode] expected as many rows of context as latents, {n}, got {len(each)}")
        check_any("decode", n)
    return n


def write_samples(flow: Density, n: int, path: str, temperature: float = 1.0, seed: int = 0,
                  label: int | None = None, names: Sequence[str] | None = None, context: Any = None) -> int:
    """Writes n samples in a form of `write_data`, and returns their number.

    label None: all classes in turn, one a column. context: of a model that is given one, (C,), or (M, C) for n
    samples of each of its rows, M n in that order.
    """
    check_flow("sample", flow)
    n = checks.whole("sample", "n", n, low=1)
    if label is not None and not flow.classes:
        raise ConfigError("[sample] label given, but the model has no classes")
    numbers = None if context is None else arrays.as_numbers("sample", "the context", context)
    each = None if numbers is None or numbers.ndim != 2 else flow._given("sample", None, numbers, len(numbers))
    total = n if each is None else n * len(each)
    columns = flow.classes if flow.classes and label is None else None
    with write_data("sample", flow, path, columns, names) as write:
        for a, b in flow._blocks(total):
            rows = np.arange(a, b)
            turn = label if label is not None or not flow.classes else rows % flow.classes
            write(flow.sample(len(rows), temperature=temperature, seed=seed, label=turn, first=a,
                              context=numbers if each is None else each[rows // n]))
        check_any("sample", total)
    return total


@contextlib.contextmanager
def write_data(where: str, flow: Density, path: str, columns: int | None = None,
               names: Sequence[str] | None = None) -> Iterator[Callable[[np.ndarray], None]]:
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
        with write_rows(where, path, names) as writer:
            yield writer.write
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
def _pictures(where: str, flow: Density, path: str) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes numbered pictures into a folder beside `path`, which is renamed to it if the block ends well."""
    plot.writer(flow.shape[2])
    parent, name = os.path.split(os.path.normpath(path))
    if name in ("", ".", ".."):
        raise ConfigError(f"[{where}] expected the name of a new folder, got {path!r}")
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise IoError(f"[{where}] expected a new or empty folder, got {path}")
    temporary, numbers = os.path.join(parent, f".{os.getpid()}.{name}"), itertools.count()

    def write(x: np.ndarray) -> None:
        for image in flow.to_uint8(x.reshape(-1, *flow.shape)):
            plot.save_grid(image[None], os.path.join(temporary, f"{next(numbers):06d}.png"), scale=1)

    with writing(where, path):
        os.mkdir(temporary)
        try:
            yield write
            if os.path.isdir(path):
                os.rmdir(path)  # Windows renames to a new name only
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
