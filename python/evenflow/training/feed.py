"""Feed: the batches of a training in their order, read ahead by a thread where that takes time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow._border import arrays
from evenflow._border.batch import Batch
from evenflow._border.bounds import Pairs, require_inside
from evenflow._border.rows import stays_outside
from evenflow.data.augment import Augment
from evenflow.data.rows import Order, group_of, origin, shuffled

WINDOW, WINDOW_BYTES = 64, 1 << 23
"""Most batches that are read at once and mixed, of a file with many rows in a page, and most bytes."""

Read = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of each batch in a window: this rank's rows, their numbers, and the numbers of all ranks' rows."""


@dataclass(frozen=True)
class Share:
    """This rank's samples of a batch."""

    batch: Batch
    size: int
    """Samples of all ranks."""
    total: float | None
    """Sum of their weights."""


class Feed:
    """Batch `position` of epoch `epoch` holds the same samples, whenever it is asked for.

    Epoch e visits the data in the order of `shuffled(x, [seed, e])`. A window is one batch; where the order keeps
    neighbours together, it is several, whose rows are read at once and shuffled, so that neighbours go to different
    batches. While a training works on a window that is read from a file, or augmented, a thread makes the next
    one; its error is raised by the `get` that needs it. `close` ends the thread; the next `get` starts it again.

    mine(size): where in a batch of that size the samples of this rank are; only those are read.
    bounds: of a table's columns; rows of files are checked against them.
    """

    def __init__(self, data: Batch, *, dtype: np.dtype, batch_size: int, seed: int, augment: Augment | None = None,
                 mine: Callable[[int], np.ndarray] = np.arange, bounds: Pairs | None = None):
        self.data, self.dtype, self.batch_size, self.seed, self.augment = data, dtype, batch_size, seed, augment
        self.mine, self.bounds = mine, bounds if stays_outside(data.x) else None
        full, rest = divmod(len(data), batch_size)
        self.batches = full + (rest > 1 or (rest == 1 and full == 0))
        """Batches an epoch. A last one of a single sample, which has no variance, is left out."""
        self.window = 1
        if group_of(data.x) > 1:
            self.window = min(max(1, WINDOW_BYTES * len(data) // (batch_size * data.x.nbytes)), WINDOW)
        self._order: tuple[int, np.ndarray | Order] = -1, np.empty(0, np.int64)
        self._held: tuple[tuple[int, int], Read] = (-1, -1), []
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, int], Future[Read]] | None = None

    def get(self, epoch: int, position: int) -> Share:
        """One batch. NumericError for a value that is not finite or not within bounds, IoError for a sample that can't
        be read.
        """
        number, place = divmod(position, self.window)
        if self._held[0] != (epoch, number):
            self._held = (epoch, number), self._take(epoch, number)
        x, index, whole = self._held[1][place]
        x = as_taken("fit", x, origin(self.data.x, index), self.dtype, self.bounds)
        label, context, weight = (None if part is None else part[index] for part in (
            self.data.label, self.data.context, self.data.weight))
        total = None if self.data.weight is None else float(self.data.weight[whole].sum())
        return Share(Batch(x, label, context, weight), len(whole), total)

    def close(self) -> None:
        """Ends the thread after the window it is at."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = self._next = None

    def _take(self, epoch: int, number: int) -> Read:
        """A window, which the thread has read if it is the next one; the thread begins the one after it."""
        if not stays_outside(self.data.x) and self.augment is None:
            return self._read(epoch, number)
        if self._next is not None and self._next[0] != (epoch, number):
            self.close()
        taken = self._next[1].result() if self._next is not None else self._read(epoch, number)
        self._thread = self._thread or ThreadPoolExecutor(1, "evenflow-feed")
        after = (epoch, number + 1) if (number + 1) * self.window < self.batches else (epoch + 1, 0)
        try:
            self._next = after, self._thread.submit(self._read, *after)
        except RuntimeError:  # the system refuses a thread: the window is made when it is needed
            self.close()
        return taken

    def _read(self, epoch: int, number: int) -> Read:
        if epoch != self._order[0]:
            self._order = epoch, shuffled(self.data.x, [self.seed, epoch])
        size = self.window * self.batch_size
        rows = self._order[1][number * size:(number + 1) * size]
        if self.window > 1:
            rows = np.random.default_rng([self.seed, epoch, number]).permutation(rows)
        parts = [rows[start:start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        mine = [part[self.mine(len(part))] for part in parts]
        read = np.split(self.data.x[np.concatenate(mine)], np.cumsum([len(index) for index in mine])[:-1])
        if self.augment is not None:
            read = [self.augment(x, self.seed, epoch, index) for x, index in zip(read, mine)]
        return list(zip(read, mine, parts))


def as_taken(where: str, rows: np.ndarray, index: np.ndarray, dtype: np.dtype, bounds: Pairs | None = None) -> Any:
    """uint8 as they are, floats in `dtype`; NumericError with the number of the row, out of `index`."""
    if rows.dtype == np.uint8:
        return rows
    x = arrays.to_floats(where, rows, dtype, rows=index)
    require_inside(where, bounds, x, rows=index)
    return x
