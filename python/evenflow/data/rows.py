"""Samples that stay where they are, in a file or in another array, until they are indexed."""

from __future__ import annotations

import copy
import os
import sys
import threading
import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.rows import Rows, is_large, stays_outside
from evenflow.errors import IoError

# Rows that stay together in the order of a file: about a page of them, which costs as much to read as one.
GROUP_BYTES, LARGEST_GROUP = 1 << 12, 64
MARKED_ROWS = 64


class Stored(Rows):
    """An array in a file, in C order from `offset` on.

    Rows are read, not mapped: pages of a mapping count as memory of the process, cost more than a read where
    rows are far apart, and kill the process when the file has shrunk.
    """

    def __init__(self, path: str | os.PathLike[str], offset: int, shape: Sequence[int], dtype: Any):
        self.path, self.offset = os.fspath(path), offset
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.group = group_of(self)
        try:
            self._file = open(self.path, "rb", buffering=0)
        except OSError as error:
            raise IoError(f"[data] {self.path}: expected a readable file, got: {error}") from error
        self._position = threading.Lock()
        weakref.finalize(self, self._file.close)
        self._check_size()

    def reshape(self, *shape: int) -> Stored:
        """The same file in another shape; the number of values must be the same."""
        return Stored(self.path, self.offset, shape, self.dtype)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        if out.nbytes == 0:
            return out
        width, target = out.nbytes // len(out), out.reshape(-1).view(np.uint8).data
        # Neighbours in the file are read at once.
        starts = np.concatenate([[0], np.flatnonzero(np.diff(index) != 1) + 1])
        places = (index[starts] * width + self.offset).tolist()
        bounds = [*(starts * width).tolist(), out.nbytes]
        for place, start, stop in zip(places, bounds, bounds[1:]):
            self._fill(place, target[start:stop])
        return out

    def _fill(self, place: int, target: memoryview) -> None:
        try:
            while len(target) and (count := self._read_at(place, target)):
                target, place = target[count:], place + count
        except OSError as error:
            raise IoError(f"[data] {self.path}: expected a readable file, got: {error}") from error
        if len(target):
            self._check_size()
            raise IoError(f"[data] {self.path}: expected {len(target)} more bytes, got none")

    def _read_at(self, place: int, target: memoryview) -> int:
        # Threads and forked processes share the file's own position. Windows has no fork, nor preadv.
        if sys.platform != "win32":
            return os.preadv(self._file.fileno(), [target], place)
        with self._position:
            self._file.seek(place)
            return self._file.readinto(target)

    def _check_size(self) -> None:
        wanted, got = self.offset + self.nbytes, os.fstat(self._file.fileno()).st_size
        if got < wanted:
            raise IoError(f"[data] {self.path}: expected {wanted} bytes for {self.dtype} {self.shape}, "
                          f"got {got}")


class Picked(Rows):
    """Some rows of an array, by number."""

    def __init__(self, base: np.ndarray | Rows, index: np.ndarray | Order):
        self.base, self.index = base, index
        self.shape, self.dtype, self.group = (len(index), *base.shape[1:]), base.dtype, group_of(base)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self.base[self.index[index]])


def origin(x: np.ndarray | Rows, index: np.ndarray) -> np.ndarray:
    """The numbers that rows of x have where they were picked from, so those in the file for a part of it."""
    while isinstance(x, Picked):
        index = x.index[index]
        x = x.base
    return index


class Bordered(Rows):
    """Images (N, H, W, C) in the middle of a square of zeros."""

    def __init__(self, base: Rows, size: int):
        self.base, self.dtype, self.group = base, base.dtype, group_of(base)
        self.shape = (base.shape[0], size, size, base.shape[3])

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        return bordered(self.base[index], self.shape[1])


def bordered(images: np.ndarray, size: int) -> np.ndarray:
    """Images (N, H, W, C) in the middle of size x size zeros; what is left over goes below and to the right."""
    spare = [size - side for side in images.shape[1:3]]
    return np.pad(images, [(0, 0), *((room // 2, room - room // 2) for room in spare), (0, 0)])


class Joined(Rows):
    """Arrays of one dtype and one shape of samples, one after the other."""

    def __init__(self, parts: Sequence[np.ndarray | Rows]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype, self.group = self.parts[0].dtype, group_of(self.parts[0])

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        found = []
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:]):
            if isinstance(index, slice):
                inside: Any = slice(max(index.start - start, 0), min(index.stop, stop) - start)
                empty = inside.start >= inside.stop
            else:
                inside = index[np.searchsorted(index, start):np.searchsorted(index, stop)] - start
                empty = not len(inside)
            if not empty:
                found.append(part[inside])
        return np.concatenate(found) if found else np.empty((0, *self.shape[1:]), self.dtype)


class Order:
    """A random order of n rows that are read from a file: groups of neighbours change places, and keep together.

    Fewer rows than a group, at the end, keep their place.
    """

    def __init__(self, n: int, seed: Any, group: int = 1):
        self.group = group
        self.places = np.arange(-(-n // group))
        self.places[:n // group] = np.random.default_rng(seed).permutation(n // group)
        self.start, self.stop = 0, n

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Order:
        """Places [start, stop) of this order."""
        part = copy.copy(self)
        part.start, part.stop = self.start + start, self.start + stop
        return part

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        places = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        groups, inside = np.divmod(places + self.start, self.group)
        return np.asarray(self.places[groups] * self.group + inside)


def shuffled(x: np.ndarray | Rows, seed: Any) -> np.ndarray | Order:
    """The numbers of x's rows in an order drawn from a seed, to be sliced; of a file's with eight bytes a page."""
    if stays_outside(x):
        return Order(len(x), seed, group_of(x))
    return np.random.default_rng(seed).permutation(len(x))


def group_of(x: np.ndarray | Rows) -> int:
    """Neighbours of x that are better read together."""
    if isinstance(x, Rows) and not isinstance(x, Stored):
        return x.group
    if not stays_outside(x):
        return 1
    return min(max(1, GROUP_BYTES * len(x) // max(1, x.nbytes)), LARGEST_GROUP)


def drawn_together(x: np.ndarray | Rows) -> int:
    """Rows that came into a part by one draw, next to each other in it: each is a random one, but they are alike."""
    return x.index.group if isinstance(x, Picked) and isinstance(x.index, Order) else 1


def scramble(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers, one to one (the last step of SplitMix64; Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def pick(x: np.ndarray | Rows, index: np.ndarray | Order) -> np.ndarray | Rows:
    """Rows of x by number; of a large x without a copy."""
    if stays_outside(x) or is_large(x.nbytes):
        return Picked(x, index)
    return x[index[:]]


def data_mark(dtype: Any, *batches: Batch | None) -> str:
    """Tells one data set from another, by a checksum of all that is in memory, with floats of a dtype.

    Of other data MARKED_ROWS rows count, evenly spaced, with the neighbours that cost nothing to read.
    """
    def sum_of(x: Any) -> int:
        if stays_outside(x):
            rows = np.linspace(0, len(x) - 1, MARKED_ROWS).astype(np.int64)
            group = group_of(x)
            x = x[np.unique(np.minimum((rows // group * group)[:, None] + np.arange(group), len(x) - 1))]
        return zlib.crc32(np.ascontiguousarray(x).data)

    def taken(x: Any) -> Any:
        with np.errstate(over="ignore"):
            return x.astype(dtype, copy=False) if x.dtype.kind == "f" and not stays_outside(x) else x

    return "; ".join(f"{name} {x.dtype} {x.shape} {sum_of(x):08x}" for batch in batches if batch is not None
                     for name, part in vars(batch).items() if part is not None for x in [taken(part)])
