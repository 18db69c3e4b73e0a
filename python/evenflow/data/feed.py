"""Feed: the batches of a training in their order, prepared ahead by a thread where that takes time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.data.augment import Augment
from evenflow.rows import Order, Rows, group_of, shuffled, stays_outside

AHEAD = 4
"""Batches that are prepared ahead."""
WINDOW = 64
"""Batches that are read at once and mixed, of a file with many rows in a page."""


@dataclass(frozen=True)
class Batch:
    """Samples as a flow takes them, and their labels."""

    x: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.x)


class Feed:
    """Batch `position` of epoch `epoch` holds the same samples, whenever it is asked for.

    Epoch e visits the data in the order of `shuffled(x, [seed, e])`. Where that keeps neighbours together, the
    rows of WINDOW batches are read at once and shuffled, so that neighbours go to different batches. Data that are read from files, and
    augmented ones, are prepared by one thread, `ahead` batches before they are asked for; data in
    memory are only indexed, which costs less than handing them over. An error in the thread is raised by the
    `get` of its batch. `close` ends the thread; the next `get` starts it again.
    """

    def __init__(self, x: np.ndarray | Rows, labels: np.ndarray | None, *, dtype: np.dtype,
                 batch_size: int, batches: int, seed: int, augment: Augment | None = None,
                 ahead: int = AHEAD):
        self.x, self.labels, self.dtype = x, labels, dtype
        self.batch_size, self.batches, self.seed, self.augment = batch_size, batches, seed, augment
        self.ahead = ahead if stays_outside(x) or augment is not None else 0
        self.window = WINDOW if group_of(x) > 1 else 1
        self._epoch, self._held = -1, (-1, -1)
        self._order: np.ndarray | Order = np.empty(0, np.int64)
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[tuple[int, int], Future[Batch]]] = deque()

    def get(self, epoch: int, position: int) -> Batch:
        """One batch. NumericError for a value that is not finite, IoError for a sample that can't be read."""
        if self.ahead == 0:
            return self._make(epoch, position)
        if self._thread is None or (self._pending and self._pending[0][0] != (epoch, position)):
            self.close()
            self._thread = ThreadPoolExecutor(1, "evenflow-feed")
        place = self._after(self._pending[-1][0]) if self._pending else (epoch, position)
        while len(self._pending) <= self.ahead:
            self._pending.append((place, self._thread.submit(self._make, *place)))
            place = self._after(place)
        return self._pending.popleft()[1].result()

    def close(self) -> None:
        """Ends the thread after the batch it is at."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = None
        self._pending.clear()

    def _after(self, place: tuple[int, int]) -> tuple[int, int]:
        epoch, position = place
        return (epoch, position + 1) if position + 1 < self.batches else (epoch + 1, 0)

    def _make(self, epoch: int, position: int) -> Batch:
        window, place = divmod(position, self.window)
        if (epoch, window) != self._held:
            self._index = self._window(epoch, window)
            self._rows = self.x[self._index]
            self._held = epoch, window
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        index = self._index[part]
        x = as_taken(self._rows[part], index, self.dtype)
        if self.augment is not None:
            x = self.augment(x, self.seed, epoch, index)
        return Batch(x, None if self.labels is None else self.labels[index])

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """The rows of the next batches: one, or several that share their groups of neighbours."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.x, [self.seed, epoch])
        size = self.window * self.batch_size
        index = self._order[window * size:(window + 1) * size]
        if self.window > 1:
            index = np.random.default_rng([self.seed, epoch, window]).permutation(index)
        return index


def as_taken(rows: np.ndarray, index: np.ndarray, dtype: np.dtype) -> Any:
    """uint8 as they are, floats in `dtype`; NumericError with the number of the row, out of `index`."""
    if rows.dtype == np.uint8:
        return rows
    return arrays.to_floats("fit", rows, dtype, rows=index)
