"""Feed: the batches of a training in their order, prepared ahead by a thread where that takes time."""

from __future__ import annotations

from collections import deque
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
from evenflow.errors import NumericError

AHEAD = 2
"""Windows that are prepared ahead."""
WINDOW, WINDOW_BYTES = 64, 1 << 23
"""Most batches that are read at once and mixed, of a file with many rows in a page, and most bytes."""


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
    batches. Windows of data that are read from files, or augmented, are prepared ahead by one thread; data in memory
    are only indexed, which costs less than handing them over. An error in the thread is raised by `get`. `close` ends
    the thread; the next `get` starts it again.

    mine(size): where in a batch of that size the samples of this rank are; only those are read.
    bounds: of a table's columns; rows of files are checked against them as they are read.
    """

    def __init__(self, data: Batch, *, dtype: np.dtype, batch_size: int, seed: int, augment: Augment | None = None,
                 mine: Callable[[int], np.ndarray] = np.arange, bounds: Pairs | None = None):
        self.data, self.dtype, self.batch_size, self.seed, self.augment = data, dtype, batch_size, seed, augment
        self.mine, self.bounds = mine, bounds if stays_outside(data.x) else None
        self.ahead = AHEAD if stays_outside(data.x) or augment is not None else 0
        full, rest = divmod(len(data), batch_size)
        self.batches = full + (rest > 1 or (rest == 1 and full == 0))
        """Batches an epoch. A last one of a single sample, which has no variance, is left out."""
        self.window = 1
        if group_of(data.x) > 1:
            self.window = min(max(1, WINDOW_BYTES * len(data) // (batch_size * data.x.nbytes)), WINDOW)
        self._order: tuple[int, np.ndarray | Order] = -1, np.empty(0, np.int64)
        self._held: tuple[tuple[int, int], list[Share | NumericError]] = (-1, -1), []
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[tuple[int, int], Future[list[Share | NumericError]]]] = deque()

    def get(self, epoch: int, position: int) -> Share:
        """One batch. NumericError for a value that is not finite or not within bounds, IoError for a sample that can't
        be read.
        """
        window, place = divmod(position, self.window)
        if self._held[0] != (epoch, window):
            self._held = (epoch, window), self._next((epoch, window))
        share = self._held[1][place]
        if isinstance(share, NumericError):
            raise share
        return share

    def close(self) -> None:
        """Ends the thread after the window it is at."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = None
        self._pending.clear()

    def _next(self, window: tuple[int, int]) -> list[Share | NumericError]:
        if self._pending and self._pending[0][0] != window:
            self.close()
        try:
            while self.ahead and len(self._pending) <= self.ahead:
                self._thread = self._thread or ThreadPoolExecutor(1, "evenflow-feed")
                after = self._after(self._pending[-1][0]) if self._pending else window
                self._pending.append((after, self._thread.submit(self._make, *after)))
        except RuntimeError:  # the system gives no thread
            self.close()
            self.ahead = 0
        return self._pending.popleft()[1].result() if self.ahead else self._make(*window)

    def _after(self, window: tuple[int, int]) -> tuple[int, int]:
        epoch, number = window
        return (epoch, number + 1) if (number + 1) * self.window < self.batches else (epoch + 1, 0)

    def _make(self, epoch: int, window: int) -> list[Share | NumericError]:
        """The batches of a window; in the place of one with a NumericError, that."""
        if epoch != self._order[0]:
            self._order = epoch, shuffled(self.data.x, [self.seed, epoch])
        size = self.window * self.batch_size
        rows = self._order[1][window * size:(window + 1) * size]
        if self.window > 1:
            rows = np.random.default_rng([self.seed, epoch, window]).permutation(rows)
        parts = [rows[start:start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        mine = [part[self.mine(len(part))] for part in parts]
        read = np.split(self.data.x[np.concatenate(mine)], np.cumsum([len(index) for index in mine])[:-1])
        return [self._share(x, index, part, epoch) for x, index, part in zip(read, mine, parts)]

    def _share(self, x: np.ndarray, index: np.ndarray, whole: np.ndarray, epoch: int) -> Share | NumericError:
        """Of this rank's rows `index` out of all of the batch."""
        try:
            x = as_taken("fit", x, origin(self.data.x, index), self.dtype, self.bounds)
        except NumericError as error:
            return error
        if self.augment is not None:
            x = self.augment(x, self.seed, epoch, index)
        label, context, weight = (None if part is None else part[index] for part in (
            self.data.label, self.data.context, self.data.weight))
        total = None if self.data.weight is None else float(self.data.weight[whole].sum())
        return Share(Batch(x, label, context, weight), len(whole), total)


def as_taken(where: str, rows: np.ndarray, index: np.ndarray, dtype: np.dtype, bounds: Pairs | None = None) -> Any:
    """uint8 as they are, floats in `dtype`; NumericError with the number of the row, out of `index`."""
    if rows.dtype == np.uint8:
        return rows
    x = arrays.to_floats(where, rows, dtype, rows=index)
    require_inside(where, bounds, x, rows=index)
    return x
