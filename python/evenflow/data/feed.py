"""Feed: the batches of a training in their order, prepared ahead by a thread where that takes time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.data.augment import Augment
from evenflow.rows import Rows, shuffled, stays_outside

AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Samples as a flow takes them, and their labels."""

    x: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.x)


class Feed:
    """Batch `position` of epoch `epoch` holds the same samples, whenever it is asked for.

    Epoch e visits the data in the order of `shuffled(n, [seed, e])`. Data that are read from files, and
    augmented ones, are prepared by one thread, up to `ahead` batches before they are asked for; data in
    memory are only indexed, which costs less than handing them over. An error in the thread is raised by the
    `get` of its batch. `close` ends the thread; the next `get` starts it again.
    """

    def __init__(self, x: np.ndarray | Rows, labels: np.ndarray | None, *, dtype: np.dtype,
                 batch_size: int, batches: int, seed: int, augment: Augment | None = None,
                 ahead: int = AHEAD):
        self.x, self.labels, self.dtype = x, labels, dtype
        self.batch_size, self.batches, self.seed, self.augment = batch_size, batches, seed, augment
        self.ahead = ahead if stays_outside(x) or augment is not None else 0
        self._epoch, self._order = -1, np.empty(0, np.int64)
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
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(len(self.x), [self.seed, epoch])
        index = self._order[position * self.batch_size:(position + 1) * self.batch_size]
        x = take(self.x, index, self.dtype)
        if self.augment is not None:
            x = self.augment(x, self.seed, epoch, index)
        return Batch(x, None if self.labels is None else self.labels[index])


def take(x: np.ndarray | Rows, index: np.ndarray, dtype: np.dtype) -> Any:
    """Rows of checked data: uint8 as they are, floats in `dtype`; NumericError with the row's number."""
    rows = x[index]
    if rows.dtype == np.uint8:
        return rows
    return arrays.to_floats("fit", rows, dtype, rows=index)
