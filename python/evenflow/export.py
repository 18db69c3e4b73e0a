"""Latents, data and samples to files, block by block: memory does not grow with their number."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evenflow import arrays, plot
from evenflow.errors import ConfigError, IoError, ShapeError
from evenflow.files import Rows, blocks, check_any, replacing, write_rows
from evenflow.flow import Flow, check_flow


def encode_rows(flow: Flow, rows: Rows, out: str) -> int:
    """Writes the latents of data, (N, D), and returns N.

    rows: (x, given) of consecutive rows, of `evenflow.stream.read_rows`, or an array x.
    out: .npy or .csv; or .npz with arrays z and, for a model that is given them, labels or the context, as
    decode_rows takes them. Errors leave no file behind.
    """
    check_flow("encode", flow)
    out = arrays.file_name("encode", out)
    ending = os.path.splitext(out)[1].lower()
    if ending not in (".npy", ".npz", ".csv"):
        raise ConfigError(f"[encode] expected a name ending in .npy, .npz or .csv, got {out}")
    if ending != ".npz":
        return _encode_rows(flow, rows, out, [])
    kept: list[np.ndarray] = []
    with replacing("encode", out) as temporary:
        name = "context" if flow.context else "labels"
        arrays_of = {"z": temporary + ".z.npy", name: temporary + f".{name}.npy"}
        try:
            n = _encode_rows(flow, rows, arrays_of["z"], kept)
            if kept:
                np.save(arrays_of[name], np.concatenate(kept))
            with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
                for name, path in arrays_of.items():
                    if os.path.exists(path):
                        archive.write(path, name + ".npy")
        finally:
            for path in arrays_of.values():
                with contextlib.suppress(OSError):
                    os.remove(path)
    return n


def _encode_rows(flow: Flow, rows: Rows, out: str, kept: list[np.ndarray]) -> int:
    n = 0
    with write_rows("encode", out, [f"z{i}" for i in range(flow.dims)]) as writer:
        for x, given, _ in blocks("encode", rows):
            z, _ = flow._forward("encode", x, **flow._conditions(given), first=n)
            writer.write(z)
            n += len(z)
            if given is not None and (flow.classes or flow.context):
                kept.append(given)
        check_any("encode", n)
    return n


def decode_rows(flow: Flow, rows: Rows, out: str, label: int | None = None,
                names: Sequence[str] | None = None, context: Any = None) -> int:
    """Writes the data of latents in a form of `write_data`, and returns their number N.

    rows: (z, given) of consecutive rows, of `evenflow.stream.read_latents`, or an array z.
    label, context: for rows that come with none, of a model that is given one; a context is (C,) or (N, C).
    """
    n, numbers = 0, None if context is None else arrays.as_numbers("decode", "the context", context)
    with write_data("decode", flow, out, names=names) as write:
        for z, given, _ in blocks("decode", rows):
            z = flow._take_floats("decode", z, (flow.dims,))
            own = numbers if numbers is None or numbers.ndim != 2 else numbers[n:n + len(z)]
            known = {"label": label, "context": own} if given is None else flow._by_name(given)
            write(flow._inverse("decode", z, **known, first=n)[0])
            n += len(z)
        if numbers is not None and numbers.ndim == 2 and n != len(numbers):
            raise ShapeError(f"[decode] expected as many rows of context as latents, {n}, got {len(numbers)}")
        check_any("decode", n)
    return n


def write_samples(flow: Flow, n: int, path: str, temperature: float = 1.0, seed: int = 0,
                  label: int | None = None, names: Sequence[str] | None = None, context: Any = None) -> int:
    """Writes n samples in a form of `write_data`, and returns their number.

    label None: all classes in turn, one a column. context: of a model that is given one, (C,), or (M, C) for n
    samples of each of its rows, M n in that order.
    """
    check_flow("sample", flow)
    n = arrays.whole("sample", "n", n, low=1)
    if label is not None and not flow.classes:
        raise ConfigError("[sample] expected no label, since the model has no classes, got one")
    numbers = None if context is None else arrays.as_numbers("sample", "the context", context)
    each = None if numbers is None or numbers.ndim != 2 else flow._given("sample", None, numbers, len(numbers))
    total = n if each is None else n * len(each)
    columns = flow.classes if flow.classes and label is None else None
    with write_data("sample", flow, path, columns, names) as write:
        for a, b in flow._blocks(total):
            rows = np.arange(a, b)
            turn = label if label is not None or not flow.classes else rows % flow.classes
            write(flow.sample(len(rows), temperature, seed, turn, first=a,
                              context=numbers if each is None else each[rows // n]))
        check_any("sample", total)
    return total


@contextlib.contextmanager
def write_data(where: str, flow: Flow, path: str, columns: int | None = None,
               names: Sequence[str] | None = None) -> Iterator[Callable[[np.ndarray], None]]:
    """Takes data of a model, block by block, and writes them in the form that the name asks for.

    .npy: floats in the data's units, any number of leading dimensions.  .csv: tables, with `names`, else x0, x1, ...
    .png: images in one picture, `columns` side by side.  No ending: a new folder with one picture an image.
    columns: the data are lines of so many samples; of a table they go into .npy files only.
    ConfigError for another name; IoError; errors of `plot.writer`. What can be is found out before the first block,
    and nothing is left behind by an error.
    """
    check_flow(where, flow)
    path = arrays.file_name(where, path)
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
        with _new_folder(where, path) as folder:
            yield _numbered_pictures(flow, folder)
    else:
        wanted = (".png or .npy, or the name of a new folder" if flow.is_image else
                  ".csv or .npy, for a table" if flat else ".npy, for lines of rows of a table")
        raise ConfigError(f"[{where}] expected a name ending in {wanted}, got {path}")


def _numbered_pictures(flow: Flow, folder: str) -> Callable[[np.ndarray], None]:
    plot.writer(flow.shape[2])
    count = 0

    def write(x: np.ndarray) -> None:
        nonlocal count
        for image in flow.to_uint8(x.reshape(-1, *flow.shape)):
            plot.save_grid(image[None], os.path.join(folder, f"{count:06d}.png"), scale=1)
            count += 1

    return write


@contextlib.contextmanager
def _new_folder(where: str, path: str) -> Iterator[str]:
    """A folder beside `path`, renamed to it if the block ends well, else removed."""
    parent, name = os.path.split(os.path.normpath(path))
    if name in ("", ".", ".."):
        raise ConfigError(f"[{where}] expected the name of a new folder, got {path!r}")
    temporary = os.path.join(parent, f".{os.getpid()}.{name}")
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise IoError(f"[{where}] expected a new or empty folder, got {path}")
    try:
        os.mkdir(temporary)
    except OSError as error:
        raise IoError(f"[{where}] expected to make the folder {path}, got: {error}") from error
    try:
        yield temporary
        try:
            if os.path.isdir(path):
                os.rmdir(path)
            os.rename(temporary, path)
        except OSError as error:
            raise IoError(f"[{where}] expected to make the folder {path}, got: {error}") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
