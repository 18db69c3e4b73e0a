"""CIFAR-10 and CIFAR-100 (A. Krizhevsky 2009), binary and Python version, from a folder or its archive."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zlib
from typing import Any

import numpy as np

from evenflow.arrays import file_name
from evenflow.data.dataset import Dataset, entries
from evenflow.data.numpy_files import Planes
from evenflow.errors import IoError

PIXELS = 3 * 32 * 32
LARGEST_FILE = 1 << 28
CIFAR10 = [f"data_batch_{i}" for i in range(1, 6)]
# Training files, test file, file of the names of the classes, number of classes.
BINARY10 = ([n + ".bin" for n in CIFAR10], "test_batch.bin", "batches.meta.txt", 10)
BINARY100 = (["train.bin"], "test.bin", "fine_label_names.txt", 100)
PYTHON10 = (CIFAR10, "test_batch", "batches.meta", 10)
PYTHON100 = (["train"], "test", "meta", 100)
LAYOUTS = (BINARY10, BINARY100, PYTHON10, PYTHON100)


def is_cifar(names: list[str]) -> bool:
    """Whether a folder with these files is one of CIFAR's."""
    return any(train[0] in names and meta in names for train, _, meta, _ in LAYOUTS)


def read_cifar(path: str | os.PathLike[str]) -> Dataset:
    """32x32x3 images with (fine) labels, from a folder or from a .tar.gz, which is not unpacked to disk.

    IoError for a missing, truncated or foreign file. The Python version's pickles are read by an unpickler
    that knows arrays, numbers, text, lists and dicts, and refuses anything else.
    """
    path = file_name("data", path)
    files = _folder(path) if os.path.isdir(path) else _archive(path)
    layout = next((x for x in LAYOUTS if x[0][0] in files and x[2] in files), None)
    if layout is None:
        raise IoError(f"[data] {path}: expected the files of CIFAR-10 or CIFAR-100, "
                      f"got {', '.join(sorted(files)[:8]) or 'none'}")
    train, test, meta, count = layout
    missing = [name for name in (*train, test) if name not in files]
    if missing:
        raise IoError(f"[data] {path}: expected the file {missing[0]}, got none")
    binary = train[0].endswith(".bin")
    parts = {}
    for name in (*train, test):
        where = f"{path}: {name}"
        parts[name] = _read_binary(where, files[name], count) if binary else _read_python(where, files[name])
        _check_labels(where, parts[name][1], count)
    classes = _names(f"{path}: {meta}", files[meta], binary, count)
    x = np.concatenate([parts[name][0] for name in train])
    y = np.concatenate([parts[name][1] for name in train])
    return Dataset(x, parts[test][0], "image", y, parts[test][1], classes=classes)


def _wanted(name: str) -> bool:
    return any(name in (*train, test, meta) for train, test, meta, _ in LAYOUTS)


def _folder(path: str) -> dict[str, bytes]:
    files = {}
    for name in filter(_wanted, (entry.name for entry in entries(path))):
        try:
            with open(os.path.join(path, name), "rb") as file:
                files[name] = file.read(LARGEST_FILE)
        except OSError as error:
            raise IoError(f"[data] {path}: expected a readable file {name}, got: {error}") from error
    return files


def _archive(path: str) -> dict[str, bytes]:
    """The files of CIFAR in an archive, whatever folder they are in."""
    files: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if not member.isfile() or not _wanted(name):
                    continue
                if name in files or member.size > LARGEST_FILE:
                    raise IoError(f"[data] {path}: expected one file {name} of at most {LARGEST_FILE} bytes, "
                                  f"got {'a second one' if name in files else member.size}")
                file = archive.extractfile(member)
                files[name] = b"" if file is None else file.read()
            while stream.read(1 << 20):
                pass  # to the end, where the checksum is
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[data] {path}: expected a readable .tar.gz archive, got: {error}") from error
    return files


def _read_binary(where: str, data: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of a label (two in CIFAR-100: coarse, fine) and 3 planes of 32x32."""
    marks = 1 if count == 10 else 2
    if not data or len(data) % (marks + PIXELS):
        raise IoError(f"[data] {where}: expected records of {marks + PIXELS} bytes, got {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, marks + PIXELS)
    return Planes(records[:, marks:])[:], records[:, marks - 1].astype(np.int32)


def _read_python(where: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(where, data)
    x, y = content.get("data"), content.get("fine_labels", content.get("labels"))
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != PIXELS or not len(x):
        got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise IoError(f"[data] {where}: expected data as uint8 (N, {PIXELS}), got {got}")
    if not isinstance(y, list) or len(y) != len(x) or not all(type(label) is int for label in y):
        raise IoError(f"[data] {where}: expected {len(x)} whole numbers as labels, got something else")
    _check_labels(where, y, 1 << 20)
    return Planes(x)[:], np.array(y, np.int32)


def _check_labels(where: str, y: Any, count: int) -> None:
    if not 0 <= min(y) <= max(y) < count:
        raise IoError(f"[data] {where}: expected labels in 0 ... {count - 1}, got {min(y)} ... {max(y)}")


def _names(where: str, data: bytes, binary: bool, count: int) -> list[str]:
    if binary:
        names: Any = data.decode("utf-8", "replace").split()
    else:
        content = _unpickle(where, data)
        names = content.get("fine_label_names", content.get("label_names"))
    texts = isinstance(names, list) and all(isinstance(name, (str, bytes)) for name in names)
    if not texts or len(names) != count:
        raise IoError(f"[data] {where}: expected the names of {count} classes, got something else")
    return [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]


# The Python version: pickles of dicts, lists, numbers, text and arrays. Nothing of numpy's is called by them:
# arrays and dtypes are kept as plain data and become arrays afterwards.

class _Dtype:
    def __init__(self, name: Any, *flags: Any):
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def array(self) -> np.ndarray:
        """As numpy's own, of bytes; ValueError for other dtypes and for sizes that do not agree."""
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if self.dtype.name != "u1" or not isinstance(data, bytes) or self.fortran not in (False, True):
            raise ValueError(f"an array of {self.dtype.name}")
        x = np.frombuffer(data, np.uint8)
        return x.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in old protocols."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    KNOWN = {("numpy.core.multiarray", "_reconstruct"): _reconstruct,
             ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
             ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name}, which is not allowed here")
        return self.KNOWN[module, name]


def _unpickle(where: str, data: bytes) -> dict[str, Any]:
    # A broken pickle fails in many ways.
    try:
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError(type(content).__name__)
        content = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
        return {k: v.array() if isinstance(v, _Array) else v for k, v in content.items()}
    except Exception as error:
        raise IoError(f"[data] {where}: expected a pickle of a dict of arrays and lists, "
                      f"got: {str(error) or type(error).__name__}") from error
