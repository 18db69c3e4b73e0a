"""numpy's own files. Object arrays are refused: reading them would run code from the file."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset, checked_context, entries, width
from evenflow.errors import IoError
from evenflow.rows import RESIDENT_BYTES, Joined, Rows, Stored, group_of

BROKEN = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError,
          zipfile.BadZipFile, zlib.error)
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
    """One array without test part: uint8 images (N, H, W[, C]), or a table (N, D) of floats or whole numbers. IoError.

    Whole numbers become float64; uint8 are images only.
    An array of more than 256 MiB stays in its file (`Dataset.train` is then a `Rows`).
    """
    path = file_name("data", path)
    try:
        size = os.path.getsize(path)
        x = _stored(path, 0, size) if size > RESIDENT_BYTES else np.load(path, allow_pickle=False)
        if not isinstance(x, (np.ndarray, Rows)):
            x.close()
            raise ValueError("an archive")
    except BROKEN as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a .npy file of one array without objects, "
                      f"got: {error}") from error
    return Dataset.from_array(path, x)


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """Arrays train (and test), or x; labels in train_labels and test_labels, or labels; numbers (N, C) or (N,) that
    the samples' density is given in train_context and test_context, or context; what samples count for (N,) in
    train_weight and test_weight, or weight. IoError.

    An array `data` (N, 3 S S) holds images in planes, with labels counted from 1, as in the files of
    down-sampled ImageNet (Chrabaszcz, Loshchilov, Hutter 2017). An array of more than 256 MiB stays in its
    file where that is not compressed.
    """
    path = file_name("data", path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("another kind of file, or a part of one")
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: _member(path, file, name) for name in ("train", "x", "data", "test")
                      if name in file.files}
            given = {f"{part}{name}": file[f"{part}{name}"] for name in ("labels", "context", "weight")
                     for part in ("", "train_", "test_") if f"{part}{name}" in file.files}
            names = ", ".join(file.files) or "none"
    except BROKEN as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a .npz file without objects, got: {error}") from error
    name = next((n for n in ("train", "x", "data") if n in arrays), None)
    if name is None:
        raise IoError(f"[data] {path}: expected an array train, x or data, got {names}")
    train, train_labels = arrays[name], given.get("train_labels", given.get("labels"))
    if name == "data" and train.ndim == 2:
        train, train_labels = _images_in_planes(path, train, train_labels)
    return Dataset.from_array(path, train, arrays.get("test"), train_labels, given.get("test_labels"),
                              given.get("train_context", given.get("context")), given.get("test_context"),
                              given.get("train_weight", given.get("weight")), given.get("test_weight"))


def read_npz_context(path: str | os.PathLike[str]) -> np.ndarray | None:
    """Numbers (M, C) of a .npz file's array test_context, context or train_context, the first that it has, or None.

    No other arrays are needed. IoError; NumericError for a number that is not finite.
    """
    path = file_name("data", path)
    if not os.path.exists(path):
        raise IoError(f"[data] expected a .npz file, got {path}, which does not exist")
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            name = next((n for n in ("test_context", "context", "train_context") if n in file.files), None)
            numbers = None if name is None else np.atleast_1d(file[name])
    except (*BROKEN, AttributeError, TypeError) as error:  # the last two: an array alone, under this name
        raise IoError(f"[data] {path}: expected a .npz file without objects, got: {error}") from error
    return checked_context(path, numbers, numbers)


def read_npz_folder(path: str | os.PathLike[str]) -> Dataset:
    """All .npz files of a folder as one data set, in the order of their numbers, without copying large ones.

    Files whose names begin with val or test are the test part. Each as in `read_npz`, without a test part.
    """
    path = file_name("data", path)
    names = sorted((entry.name for entry in entries(path) if entry.name.lower().endswith(".npz")),
                   key=lambda n: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", n)])
    train = [n for n in names if not n.startswith(("val", "test"))]
    held_out = [n for n in names if n not in train]
    if not train:
        raise IoError(f"[data] {path}: expected .npz files of training data, "
                      f"got {', '.join(names) or 'none'}")
    x, y, c, w = _joined(path, train)
    test, test_y, test_c, test_w = _joined(path, held_out) if held_out else (None, None, None, None)
    return Dataset.from_array(path, x, test, y, test_y, c, test_c, w, test_w)


def _joined(folder: str, names: list[str]) -> tuple[Any, Any, Any, Any]:
    """(x, labels, context, weights) of files with one part each."""
    files = [os.path.join(folder, name) for name in names]
    parts = [read_npz(file) for file in files]
    first = parts[0]
    for file, part in zip(files, parts):
        if part.test is not None:
            raise IoError(f"[data] {file}: expected one part in each file of a folder, got a test part too")
        if part.shape != first.shape or part.train.dtype != first.train.dtype:
            raise IoError(f"[data] {file}: expected {first.train.dtype} samples {first.shape} like "
                          f"{files[0]}, got {part.train.dtype} {part.shape}")
        for what, own, theirs in (("labels", part.train_labels, first.train_labels),
                                  ("a context", part.train_context, first.train_context),
                                  ("weights", part.train_weight, first.train_weight)):
            if (own is None) != (theirs is None):
                raise IoError(f"[data] {file}: expected {what} in all files or in none, got both")
        if width(part.train_context) != width(first.train_context):
            raise IoError(f"[data] {file}: expected {width(first.train_context)} numbers of context like {files[0]}, "
                          f"got {width(part.train_context)}")
    x: np.ndarray | Rows = Joined([part.train for part in parts])
    y, c, w = (None if getattr(first, given) is None else np.concatenate([getattr(part, given) for part in parts])
               for given in ("train_labels", "train_context", "train_weight"))
    return (x if x.nbytes > RESIDENT_BYTES else x[:]), y, c, w


def _images_in_planes(path: str | os.PathLike[str], x: np.ndarray | Rows,
                      labels: np.ndarray | None) -> tuple[np.ndarray | Rows, np.ndarray | None]:
    side = math.isqrt(x.shape[1] // 3)
    if x.dtype != np.uint8 or x.shape[1] != 3 * side * side or side == 0:
        raise IoError(f"[data] {path}: expected data as uint8 (N, 3 S S), got {x.dtype} {x.shape}")
    if labels is not None and labels.dtype.kind in "iu" and labels.size:
        if labels.min() < 1:
            raise IoError(f"[data] {path}: expected labels counted from 1, as with data in planes, "
                          f"got {labels.min()}")
        labels = labels.astype(np.int64) - 1
    images = Planes(x)
    return (images if isinstance(x, Rows) else images[:]), labels


def _member(path: str | os.PathLike[str], file: np.lib.npyio.NpzFile, name: str) -> np.ndarray | Rows:
    """One array of an archive; a large one that is not compressed stays in the file."""
    assert file.zip is not None  # it is until the file is closed
    info = file.zip.getinfo(name + ".npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size <= RESIDENT_BYTES:
        return file[name]
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        head = raw.read(ZIP_LOCAL_HEADER)
    if len(head) < ZIP_LOCAL_HEADER or head[:4] != b"PK\3\4" or info.flag_bits & 1:
        raise ValueError(f"a broken or encrypted member {name}")
    start = info.header_offset + ZIP_LOCAL_HEADER + sum(struct.unpack("<HH", head[26:30]))
    return _stored(path, start, info.file_size)


def _stored(path: str | os.PathLike[str], start: int, length: int) -> Stored:
    """The array whose .npy file is `length` bytes of a file from `start` on."""
    with open(path, "rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        read_header = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                       else np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = read_header(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError("objects")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order, which can't be read sample by sample")
    wanted = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or offset + wanted > start + length:
        raise ValueError(f"{start + length - offset} bytes of data for {dtype} {shape}")
    return Stored(path, offset, shape, dtype)
