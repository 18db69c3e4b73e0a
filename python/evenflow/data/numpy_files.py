"""numpy's own files. Object arrays are refused: reading them would run code from the file."""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border.checks import file_name
from evenflow.data.dataset import Dataset, checked, checked_context, entries, reading
from evenflow.errors import IoError
from evenflow._border.rows import Rows, is_large
from evenflow.data.rows import Joined, Stored, group_of

ZIP_LOCAL_HEADER = 30
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of a .npy file's header by its version."""
JOINED = ("labels", "context", "weight")


class Planes(Rows):
    """Images (N, S, S, 3) from rows of 3 S S values, one plane a colour, as in CIFAR and ImageNet-32."""

    def __init__(self, base: np.ndarray | Rows):
        self.base, self.side = base, math.isqrt(base.shape[1] // 3)
        self.shape, self.dtype = (len(base), self.side, self.side, 3), base.dtype
        self.group = group_of(base)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        rows = self.base[index].reshape(-1, 3, self.side, self.side)
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))


def read_npy(path: str | os.PathLike[str]) -> Dataset:
    """One array without a test part. A large one stays in its file."""
    path = file_name("data", path)
    with reading(path, ".npy file"):
        size = os.path.getsize(path)
        x = _stored(path, 0, size) if is_large(size) else np.load(path, allow_pickle=False)
        if not isinstance(x, (np.ndarray, Rows)):
            x.close()
            raise ValueError("it is an archive (.npz)")  # noqa: TRY004
    return checked(path, x)


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Arrays by the names that `evenflow.data.load` lists. A large one that is not compressed stays in its file.

    An array `data` (N, 3 S S) holds images in planes, with labels counted from 1, as in the files of
    down-sampled ImageNet (Chrabaszcz, Loshchilov, Hutter 2017).
    """
    path = file_name("data", path)
    with _npz(path) as file:
        arrays = {name: _member(path, file, name) for name in ("train", "x", "data", "test") if name in file.files}
        given: dict[str, Any] = {}
        for name in JOINED:
            for part, names in (("train", (f"train_{name}", name)), ("test", (f"test_{name}",))):
                own = [n for n in names if n in file.files]
                given[f"{part}_{name}"] = file[own[0]] if own else None
        there = ", ".join(file.files) or "nothing"
    for name in ("train", "x", "data"):
        if name in arrays:
            train = arrays[name]
            if name == "data" and train.ndim == 2:
                train, given["train_labels"] = _images_in_planes(path, train, given["train_labels"])
            return checked(path, train, arrays.get("test"), **given)
    raise IoError(f"[data] {path}: there is no array train, x or data; the file holds {there}")


def read_npz_context(path: str | os.PathLike[str]) -> NDArray[np.float64] | None:
    """Numbers (M, C) of a .npz file's array test_context, context or train_context, the first that it has, or None.

    No other arrays are needed. IoError.
    """
    path = file_name("data", path)
    with _npz(path) as file:
        for name in ("test_context", "context", "train_context"):
            if name in file.files:
                numbers = np.atleast_1d(file[name])
                return checked_context(path, numbers, len(numbers))
    return None


def read_npz_folder(path: str | os.PathLike[str]) -> Dataset:
    """All .npz files of a folder as one data set, in the order of their numbers, without copying large ones.

    Files whose names begin with val or test are the test part. Each is as in `read_npz`, without a test part.
    """
    path = file_name("data", path)
    names = sorted((entry.name for entry in entries(path) if entry.name.lower().endswith(".npz")),
                   key=lambda n: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", n)])
    train = [n for n in names if not n.startswith(("val", "test"))]
    held_out = [n for n in names if n not in train]
    if not train:
        raise IoError(f"[data] {path}: there is no .npz file of training data, only {', '.join(names) or 'none'}")
    x, given = _joined(path, train)
    test, more = _joined(path, held_out) if held_out else (None, {})
    return checked(path, x, test, **{f"train_{name}": values for name, values in given.items()},
                   **{f"test_{name}": values for name, values in more.items()})


def _joined(folder: str, names: list[str]) -> tuple[np.ndarray | Rows, dict[str, np.ndarray | None]]:
    """Samples, and labels, context and weight by name, of files with one part each."""
    files = [os.path.join(folder, name) for name in names]
    parts = [read_npz(file) for file in files]
    arrays = [{"samples": part.train, **{name: getattr(part, f"train_{name}") for name in JOINED}} for part in parts]
    for file, part, own in zip(files, parts, arrays):
        if part.test is not None:
            raise IoError(f"[data] {file}: this file has a test part; in a folder, files whose names begin with val "
                          "or test are the test part")
        for name, values in own.items():
            expected, got = (None if x is None else (str(x.dtype), x.shape[1:]) for x in (arrays[0][name], values))
            if expected != got:
                raise IoError(f"[data] {file}: expected {name} as in {files[0]}, {_described(expected)}, "
                              f"got {_described(got)}")
    x: np.ndarray | Rows = Joined([part.train for part in parts])
    return (x if is_large(x.nbytes) else x[:]), {
        name: None if arrays[0][name] is None else np.concatenate([own[name] for own in arrays]) for name in JOINED}


def _described(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "none" if kind is None else f"{kind[0]} {kind[1]} each"


def _images_in_planes(path: str, x: np.ndarray | Rows,
                      labels: np.ndarray | None) -> tuple[np.ndarray | Rows, np.ndarray | None]:
    side = math.isqrt(x.shape[1] // 3)
    if x.dtype != np.uint8 or x.shape[1] != 3 * side * side or side == 0:
        raise IoError(f"[data] {path}: expected data as uint8 (N, 3 S S), got {x.dtype} {x.shape}")
    if labels is not None and labels.dtype.kind in "iu" and labels.size:
        if labels.min() < 1:
            raise IoError(f"[data] {path}: expected labels counted from 1, as with data in planes, got {labels.min()}")
        labels = labels.astype(np.int64) - 1
    images = Planes(x)
    return (images if isinstance(x, Rows) else images[:]), labels


@contextlib.contextmanager
def _npz(path: str) -> Iterator[np.lib.npyio.NpzFile]:
    """An archive. IoError for what goes wrong in the block."""
    with reading(path, ".npz file"), open(path, "rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise ValueError("it is cut off or of another kind")
        raw.seek(0)
        with np.load(raw, allow_pickle=False) as file:
            yield file


def _member(path: str, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray | Rows:
    """One array of an archive; a large one that is not compressed stays in the file."""
    assert file.zip is not None  # it is until the file is closed
    info = file.zip.getinfo(name + ".npy")
    if info.compress_type != zipfile.ZIP_STORED or not is_large(info.file_size):
        return file[name]
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        head = raw.read(ZIP_LOCAL_HEADER)
    if len(head) < ZIP_LOCAL_HEADER or head[:4] != b"PK\3\4" or info.flag_bits & 1:
        raise ValueError(f"its member {name} is broken or encrypted")
    start = info.header_offset + ZIP_LOCAL_HEADER + sum(struct.unpack("<HH", head[26:30]))
    return _stored(path, start, info.file_size)


def _stored(path: str, start: int, length: int) -> Stored:
    """The array whose .npy file is `length` bytes of a file from `start` on."""
    with open(path, "rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its format has the unknown version {version}")
        shape, fortran, dtype = HEADERS[version](file)
        offset = file.tell()
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("it holds objects, or is in Fortran order, which can't be read sample by sample")
    wanted = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or offset + wanted > start + length:
        raise ValueError(f"{start + length - offset} bytes of data are too few for {dtype} {shape}")
    return Stored(path, offset, shape, dtype)
