"""Samples that are read piece by piece, from where they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

RESIDENT_BYTES = 1 << 28
"""Arrays up to this size are read, checked and split as a whole; larger ones stay where they are."""


class Rows:
    """An array-like of samples: x[i], x[a:b] and x[indices] read these rows and return them as an array.

    A subclass sets shape and dtype and reads rows in `_read(index)`, from a slice of step 1 or from ascending
    row numbers. np.asarray(x) reads everything. Reads may run in several threads.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    group: int = 1
    """Neighbours that are better read together."""

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
            raise ValueError("[rows] expected copy=None or True, since rows are read from where they are, "
                             "got copy=False")
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


def is_large(size: int) -> bool:
    """Whether data of so many bytes stay where they are."""
    return size > RESIDENT_BYTES


def stays_outside(x: np.ndarray | Rows) -> bool:
    """Whether x is read piece by piece, never as a whole. A small mapping, as joblib makes of any array, is not."""
    return isinstance(x, Rows) or isinstance(x, np.memmap) and is_large(x.nbytes)
