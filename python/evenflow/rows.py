"""Samples that stay where they are, in a file or in another array, until they are indexed."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from evenflow.errors import IoError

# Arrays up to this size are read, checked and split as a whole; larger ones stay where they are.
RESIDENT_BYTES = 1 << 28
# Up to this many rows an order is a stored permutation, beyond it every place in it is computed.
STORED_ORDER = 1 << 24
FEISTEL_ROUNDS = 6


class Rows:
    """An array-like of samples: x[i], x[a:b] and x[indices] read these rows and return them as an array.

    A subclass sets shape and dtype and reads rows in `_read(index)`, from a slice of step 1 or from ascending
    row numbers. np.asarray(x) reads everything. Reads may run in several threads.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype} {self.shape}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows can't be read without a copy")
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._read(slice(start, max(start, stop)))
            key = np.arange(start, stop, step)
        index = np.asarray(key)
        if index.dtype == bool and index.shape == self.shape[:1]:
            index = np.flatnonzero(index)
        whole = index.dtype.kind in "iu" or index.size == 0
        if isinstance(key, tuple) or not whole or index.ndim > 1:
            raise TypeError(f"[rows] expected a row, a slice or a list of rows, got {key!r}")
        flat = np.where(index < 0, index + len(self), index).reshape(-1).astype(np.int64)
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"[rows] expected rows in 0 ... {len(self) - 1}, got {key!r}")
        order = np.argsort(flat, kind="stable")
        found = self._read(flat[order])
        out = np.empty_like(found)
        out[order] = found
        return out.reshape(*index.shape, *self.shape[1:])


class Mapped(Rows):
    """An array in a file, in C order from `offset` on.

    What was read is given back to the system after every read, so that the process does not grow.
    """

    def __init__(self, path: str | os.PathLike[str], offset: int, shape: Sequence[int], dtype: Any):
        self.path, self.offset = os.fspath(path), offset
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        try:
            with open(self.path, "rb") as file:
                self._check_size(os.fstat(file.fileno()).st_size)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            if isinstance(error, IoError):
                raise
            raise IoError(f"[data] {self.path}: expected a file to map, got: {error}") from error
        self._array = np.ndarray(self.shape, self.dtype, buffer=self._map, offset=offset)

    def reshape(self, *shape: int) -> Mapped:
        """The same file in another shape; the number of values must be the same."""
        return Mapped(self.path, self.offset, shape, self.dtype)

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        self._check_size(self._map.size())
        self._advise("MADV_NORMAL" if isinstance(index, slice) else "MADV_RANDOM")
        try:
            return np.array(self._array[index])
        finally:
            self._advise("MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        if hasattr(mmap, name):
            self._map.madvise(getattr(mmap, name))

    def _check_size(self, size: int) -> None:
        """Reading a mapping beyond the end of its file would kill the process."""
        wanted = self.offset + self.nbytes
        if size < wanted:
            raise IoError(f"[data] {self.path}: expected {wanted} bytes for {self.dtype} {self.shape}, "
                          f"got {size}")


class Picked(Rows):
    """Some rows of an array, by number."""

    def __init__(self, base: np.ndarray | Rows, index: np.ndarray | Order):
        self.base, self.index = base, index
        self.shape, self.dtype = (len(index), *base.shape[1:]), base.dtype

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self.base[self.index[index]])


class Joined(Rows):
    """Arrays of one dtype and one shape of samples, one after the other."""

    def __init__(self, parts: Sequence[np.ndarray | Rows]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

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
    """A pseudo-random order of n rows of which any part can be computed alone: a Feistel network.

    Rounds on the smallest square number of values 2^(2k) >= n; values beyond n walk on until they are inside
    (Black, Rogaway 2002, "Ciphers with arbitrary finite domains").
    """

    def __init__(self, n: int, seed: Any, start: int = 0, stop: int | None = None):
        self.n, self.seed = n, seed
        self.start, self.stop = start, n if stop is None else stop
        self._half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
        self._keys = np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Order:
        """Places [start, stop) of this order."""
        return Order(self.n, self.seed, self.start + start, self.start + stop)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        places = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        values = self._permute((places + self.start).astype(np.uint64))
        while (outside := values >= self.n).any():
            values[outside] = self._permute(values[outside])
        return values.astype(np.int64)

    def _permute(self, x: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = x >> self._half, x & mask
        for key in self._keys:
            left, right = right, left ^ (scramble(right ^ key) & mask)
        return (left << self._half) | right


def shuffled(n: int, seed: Any) -> np.ndarray | Order:
    """The numbers 0 ... n - 1 in an order drawn from a seed, to be sliced."""
    if n <= STORED_ORDER:
        return np.random.default_rng(seed).permutation(n)
    return Order(n, seed)


def scramble(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers, one to one (the last step of SplitMix64; Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def pick(x: np.ndarray | Rows, index: np.ndarray | Order) -> np.ndarray | Rows:
    """Rows of x by number; of a large x without a copy."""
    if stays_outside(x) or x.nbytes > RESIDENT_BYTES:
        return Picked(x, index)
    return x[index[:]]


def stays_outside(x: np.ndarray | Rows) -> bool:
    """Whether x is read piece by piece, never as a whole."""
    return isinstance(x, (Rows, np.memmap))
