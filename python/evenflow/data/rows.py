"""Samples that stay where they are, in a file or in another array, until they are indexed."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.rows import Rows, is_large, stays_outside

# Rows that stay together in the order of a file: about a page of them, which costs as much to read as one.
GROUP_BYTES, LARGEST_GROUP = 1 << 12, 64
MARKED_ROWS = 64


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
    """Images (N, H, W, C) in the middle of size x size zeros; what is left over goes below and to the right."""

    def __init__(self, base: np.ndarray | Rows, size: int):
        self.base, self.dtype, self.group = base, base.dtype, group_of(base)
        self.shape = (base.shape[0], size, size, base.shape[3])

    def _read(self, index: slice | np.ndarray) -> np.ndarray:
        spare = [size - side for size, side in zip(self.shape[1:3], self.base.shape[1:3])]
        return np.pad(self.base[index], [(0, 0), *((room // 2, room - room // 2) for room in spare), (0, 0)])


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


def drawn(x: np.ndarray | Rows, count: int, seed: int) -> tuple[np.ndarray | Order, np.ndarray | Order]:
    """The numbers of `count` rows of x that a seed draws, and of the others; both in their old order, but a file's."""
    order = shuffled(x, seed)
    if isinstance(order, Order):
        return order.part(0, count), order.part(count, len(order))
    return np.sort(order[:count]), np.sort(order[count:])


def group_of(x: np.ndarray | Rows) -> int:
    """Neighbours of x that are better read together."""
    if isinstance(x, Rows):
        return x.group
    if not stays_outside(x):
        return 1
    return min(max(1, GROUP_BYTES * len(x) // max(1, x.nbytes)), LARGEST_GROUP)


def drawn_together(x: np.ndarray | Rows) -> int:
    """Rows that came into a part by one draw, next to each other in it: each is a random one, but they are alike."""
    return x.index.group if isinstance(x, Picked) and isinstance(x.index, Order) else 1


def pick(x: np.ndarray | Rows, index: np.ndarray | Order) -> np.ndarray | Rows:
    """Rows of x by number; of a large x without a copy."""
    return Picked(x, index) if isinstance(x, Rows) or is_large(x.nbytes) else x[index[:]]


def data_mark(*batches: Batch | None) -> str:
    """Tells one data set from another, by a checksum of all that is in memory.

    Of other data MARKED_ROWS rows count, evenly spaced, with the neighbours that cost nothing to read.
    """
    def sum_of(x: Any) -> int:
        if stays_outside(x):
            rows = np.linspace(0, len(x) - 1, MARKED_ROWS).astype(np.int64)
            group = group_of(x)
            x = x[np.unique(np.minimum((rows // group * group)[:, None] + np.arange(group), len(x) - 1))]
        return zlib.crc32(np.ascontiguousarray(x).data)

    return "; ".join(f"{name} {x.dtype} {x.shape} {sum_of(x):08x}" for batch in batches if batch is not None
                     for name, x in vars(batch).items() if x is not None)
