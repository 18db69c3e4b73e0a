"""numpy's own files. Object arrays are refused: reading them would run code from the file."""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border.checks import file_name
from evenflow.data.dataset import Dataset, checked, checked_context, entries
from evenflow.errors import IoError
from evenflow._border.rows import Rows, is_large
from evenflow.data.rows import Joined, Stored, group_of

BROKEN = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
          tokenize.TokenError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for broken files; it parses their headers as Python."""
ZIP_LOCAL_HEADER = 30


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
    try:
        size = os.path.getsize(path)
        x = _stored(path, 0, size) if is_large(size) else np.load(path, allow_pickle=False)
        if not isinstance(x, (np.ndarray, Rows)):
            x.close()
            raise ValueError("it is an archive (.npz)")  # noqa: TRY004
    except IoError:
        raise
    except BROKEN as error:
        raise IoError(f"[data] {path}: this is no .npy file of one array without objects: {error}") from error
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
        for name in ("labels", "context", "weight"):
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
    first, joined = parts[0], {}
    for file, part in zip(files, parts):
        if part.test is not None:
            raise IoError(f"[data] {file}: this file has a test part; in a folder, files whose names begin with val "
                          "or test are the test part")
        if part.shape != first.shape or part.train.dtype != first.train.dtype:
            raise IoError(f"[data] {file}: expected {first.train.dtype} samples {first.shape} like {files[0]}, "
                          f"got {part.train.dtype} {part.shape}")
    for name in ("labels", "context", "weight"):
        values = [getattr(part, f"train_{name}") for part in parts]
        shapes = [None if v is None else v.shape[1:] for v in values]
        for file, shape in zip(files, shapes):
            if shape != shapes[0]:
                raise IoError(f"[data] {file}: the {name} must be as in {files[0]}; all files need them, "
                              "with as many numbers for each sample, or none")
        joined[name] = None if shapes[0] is None else np.concatenate(values)
    x: np.ndarray | Rows = Joined([part.train for part in parts])
    return (x if is_large(x.nbytes) else x[:]), joined


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
    try:
        with open(path, "rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise ValueError("it is cut off or of another kind")
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                yield file
    except IoError:
        raise
    except BROKEN as error:
        raise IoError(f"[data] {path}: this is no .npz file without objects: {error}") from error


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
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its format has the unknown version {version}")
        read_header = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                       else np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = read_header(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order can't be read sample by sample")
    wanted = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or offset + wanted > start + length:
        raise ValueError(f"{start + length - offset} bytes of data are too few for {dtype} {shape}")
    return Stored(path, offset, shape, dtype)
