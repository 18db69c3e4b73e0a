"""Feed: the batches of a training in their order, prepared ahead by a thread where that takes time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenflow._border import arrays
from evenflow._border.bounds import Pairs, require_inside
from evenflow.data.augment import Augment
from evenflow.errors import NumericError
from evenflow._border.rows import Rows, stays_outside
from evenflow.data.rows import Order, group_of, origin, shuffled

AHEAD = 2
"""Windows that are prepared ahead."""
WINDOW, WINDOW_BYTES = 64, 1 << 23
"""Most batches that are read at once and mixed, of a file with many rows in a page, and most bytes."""


@dataclass(frozen=True)
class Batch:
    """This rank's samples of a batch as a flow takes them, and what their density is conditioned on."""

    x: np.ndarray
    given: np.ndarray | None
    weights: np.ndarray | None
    """How much each counts; None: all alike."""
    size: int
    """Samples of all ranks."""
    total: float | None
    """Sum of their weights."""


class Feed:
    """Batch `position` of epoch `epoch` holds the same samples, whenever it is asked for.

    Epoch e visits the data in the order of `shuffled(x, [seed, e])`. A window is one batch; where the order
    keeps neighbours together, it is several, whose rows are read at once and shuffled, so that neighbours go
    to different batches. Windows of data that are read from files, or augmented, are prepared by one thread,
    `ahead` of them before they are asked for; data in memory are only indexed, which costs less than handing
    them over. An error in the thread is raised by `get`. `close` ends the thread; the next `get` starts it
    again.

    mine(size): where in a batch of that size the samples of this rank are; only those are read.
    bounds: of a table's columns; rows of files are checked against them as they are read.
    """

    def __init__(self, x: np.ndarray | Rows, given: np.ndarray | None, weights: np.ndarray | None = None, *,
                 dtype: np.dtype, batch_size: int, batches: int, seed: int, augment: Augment | None = None,
                 mine: Callable[[int], np.ndarray] = np.arange, ahead: int = AHEAD, bounds: Pairs | None = None):
        self.x, self.given, self.weights, self.dtype = x, given, weights, dtype
        self.bounds = bounds if stays_outside(x) else None
        self.batch_size, self.batches, self.seed, self.augment = batch_size, batches, seed, augment
        self.mine = mine
        self.ahead = ahead if stays_outside(x) or augment is not None else 0
        self.window = 1
        if group_of(x) > 1:
            self.window = min(max(1, WINDOW_BYTES * len(x) // (batch_size * x.nbytes)), WINDOW)
        self._epoch = -1
        self._order: np.ndarray | Order = np.empty(0, np.int64)
        self._held = (-1, -1)
        self._batches: list[Batch | NumericError] = []
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[tuple[int, int], Future[list[Batch | NumericError]]]] = deque()

    def get(self, epoch: int, position: int) -> Batch:
        """One batch. NumericError for a value that is not finite or not within bounds, IoError for a sample that can't
        be read.
        """
        window, place = divmod(position, self.window)
        if self._held != (epoch, window):
            self._batches = self._next((epoch, window))
            self._held = epoch, window
        batch = self._batches[place]
        if isinstance(batch, NumericError):
            raise batch
        return batch

    def close(self) -> None:
        """Ends the thread after the window it is at."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._thread = None
        self._pending.clear()

    def _next(self, window: tuple[int, int]) -> list[Batch | NumericError]:
        if self.ahead == 0:
            return self._make(*window)
        if self._thread is None or (self._pending and self._pending[0][0] != window):
            self.close()
            self._thread = ThreadPoolExecutor(1, "evenflow-feed")
        last = self._after(self._pending[-1][0]) if self._pending else window
        while len(self._pending) <= self.ahead:
            self._pending.append((last, self._thread.submit(self._make, *last)))
            last = self._after(last)
        return self._pending.popleft()[1].result()

    def _after(self, window: tuple[int, int]) -> tuple[int, int]:
        epoch, number = window
        return (epoch, number + 1) if (number + 1) * self.window < self.batches else (epoch + 1, 0)

    def _make(self, epoch: int, window: int) -> list[Batch | NumericError]:
        """The batches of a window; in the place of one with a NumericError, that."""
        whole = self._window(epoch, window)
        parts = [whole[start:start + self.batch_size] for start in range(0, len(whole), self.batch_size)]
        mine = [part[self.mine(len(part))] for part in parts]
        ends = np.cumsum([len(index) for index in mine])
        rows = np.split(self.x[np.concatenate(mine)], ends[:-1])
        batches: list[Batch | NumericError] = []
        for part, index, x in zip(parts, mine, rows):
            try:
                batches.append(self._batch(x, index, part, epoch))
            except NumericError as error:
                batches.append(error)
        return batches

    def _batch(self, rows: np.ndarray, index: np.ndarray, whole: np.ndarray, epoch: int) -> Batch:
        """Of this rank's rows `index` out of all of the batch."""
        x = as_taken("fit", rows, origin(self.x, index), self.dtype, self.bounds)
        if self.augment is not None:
            x = self.augment(x, self.seed, epoch, index)
        given, weights = (None if numbers is None else numbers[index] for numbers in (self.given, self.weights))
        return Batch(x, given, weights, len(whole),
                     None if self.weights is None else float(self.weights[whole].sum()))

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """The rows of one batch, or of several in which groups of neighbours are mixed."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.x, [self.seed, epoch])
        size = self.window * self.batch_size
        index = self._order[window * size:(window + 1) * size]
        if self.window > 1:
            index = np.random.default_rng([self.seed, epoch, window]).permutation(index)
        return index


def as_taken(where: str, rows: np.ndarray, index: np.ndarray, dtype: np.dtype, bounds: Pairs | None = None) -> Any:
    """uint8 as they are, floats in `dtype`; NumericError with the number of the row, out of `index`."""
    if rows.dtype == np.uint8:
        return rows
    x = arrays.to_floats(where, rows, dtype, rows=index)
    require_inside(where, bounds, x, rows=index)
    return x
