"""One gradient of a batch that is worked through in pieces, by one process or by several ranks."""

from __future__ import annotations

import numpy as np

from evenflow._border.batch import Batch
from evenflow.density import Density, core_of, loss_and_grad, statistics_of
from evenflow.distributed.ranks import Ranks
from evenflow.errors import ConfigError, wrong


class Pieces:
    """How batches are worked through: in `count` pieces, of each of which every rank takes its share."""

    def __init__(self, flow: Density, ranks: Ranks, count: int, budget: int):
        self.flow, self.ranks, self.count, self.budget = flow, ranks, count, budget
        self.normed = len(statistics_of(flow)) > 0
        """Whether there is batch norm, for which a single row has no variance."""

    @property
    def alone(self) -> bool:
        """Whether a batch is one piece, and all of it this rank's."""
        return self.count == 1 and self.ranks.size == 1

    def shares(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of this rank's rows of each piece of a batch."""
        return [(a + share.start, a + share.stop) for a, b in self._pieces(size) for share in [self.ranks.share(b - a)]]

    def rows(self, size: int) -> np.ndarray:
        """Where in a batch this rank's rows are."""
        return np.concatenate([np.arange(a, b) for a, b in self.shares(size)])

    def check(self, where: str, n: int, batch_size: int) -> None:
        """ConfigError where batch norm would see a single row, or miss a rank, in the batches of n rows."""
        rest = n % batch_size
        sizes = [min(batch_size, n), *([rest] if rest > 1 else [])]
        smallest, least = min(b - a for size in sizes for a, b in self._pieces(size)), max(2, self.ranks.size)
        if self.normed and smallest < least:
            on = f" on {self.ranks.size} ranks" if self.ranks.size > 1 else ""
            raise wrong(ConfigError, where, "batch_size", f"expected batches of at least {least} samples for batch "
                                                          f"norm{on}, got one of {smallest}; take another batch_size")

    def gradient(self, batch: Batch, size: int, seed: int, names: tuple[str, ...]) -> tuple[float, dict[str, float]]:
        """The loss and its gradient, in the flow, and other numbers of the step by name: of all ranks' samples.

        batch: this rank's samples. size: those of all ranks.
        """
        loss, *numbers = self.ranks.total(1 + len(names), lambda: self._own(batch, size, seed, names))
        self.ranks.sum(core_of(self.flow).grads)
        return loss, dict(zip(names, numbers))

    def _own(self, batch: Batch, size: int, seed: int, names: tuple[str, ...]) -> list[float]:
        """This rank's part of them."""
        meet = self.ranks.sum if self.ranks.size > 1 else None
        self.flow.zero_grad()
        sums, at = np.zeros(1 + len(names)), 0
        for first, end in self.shares(size):
            if first < end:
                mine, weight = slice(at, at + end - first), (end - first) / size
                loss = loss_and_grad(self.flow, batch[mine], self.budget, seed, first=first, weight=weight,
                                     sum_over_ranks=meet)
                sums += weight * np.array([loss, *(self.flow.last_step[name] for name in names)])
                at = mine.stop
        return sums.tolist()

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of the pieces of a batch, equal but for one row; with batch norm of two rows at least."""
        count = max(1, min(self.count, size // (2 if self.normed else 1)))
        bounds = [size * i // count for i in range(count + 1)]
        return list(zip(bounds, bounds[1:]))
