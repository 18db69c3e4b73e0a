"""One step on a batch that is worked through in pieces, by one process or by several ranks."""

from __future__ import annotations

import math

import numpy as np

from evenflow import optim
from evenflow._border.batch import Batch
from evenflow.density import Density, core_of, loss_and_grad, statistics_of
from evenflow.distributed.ranks import Ranks
from evenflow.errors import ConfigError, NumericError, wrong


class Pieces:
    """How batches are worked through: in `count` pieces, of each of which every rank takes its share."""

    def __init__(self, flow: Density, ranks: Ranks, count: int, budget: int):
        self.flow, self.ranks, self.count, self.budget = flow, ranks, count, budget
        self.least = max(2, ranks.size) if len(statistics_of(flow)) else 1
        """Rows of a piece with batch norm, for which a single row has no variance."""

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of the pieces of a batch, equal but for one row; with batch norm of two rows at least."""
        count = max(1, min(self.count, size // min(2, self.least)))
        bounds = [size * i // count for i in range(count + 1)]
        return list(zip(bounds, bounds[1:]))

    def shares(self, size: int) -> list[tuple[int, int]]:
        """(first, end) of this rank's rows of each piece of a batch."""
        return [(a + share.start, a + share.stop) for a, b in self._pieces(size) for share in [self.ranks.share(b - a)]]

    def rows(self, size: int) -> np.ndarray:
        """Where in a batch this rank's rows are."""
        return np.concatenate([np.arange(a, b) for a, b in self.shares(size)])

    def check(self, where: str, n: int, batch_size: int) -> None:
        """ConfigError where batch norm would see a single row, or miss a rank, in the batches of n rows."""
        sizes = [min(batch_size, n), *([rest] if (rest := n % batch_size) > 1 else [])]
        smallest = min(b - a for size in sizes for a, b in self._pieces(size))
        if smallest < self.least:
            on = f" on {self.ranks.size} ranks" if self.ranks.size > 1 else ""
            raise wrong(ConfigError, where, "batch_size", f"expected batches of at least {self.least} samples for "
                        f"batch norm{on}, got one of {smallest}; take another batch_size")

    def step(self, batch: Batch, size: int, seed: int, optimizer: optim.Optimizer, clip: float,
             average: optim.MovingAverage | None, names: tuple[str, ...]) -> dict[str, float]:
        """Updates the flow, and returns the loss, the gradient's norm, and other numbers of the step by name.

        NumericError, with nothing changed, where one of them is not finite.  batch: this rank's samples. size: those of
        all ranks.
        """
        flow = self.flow
        if self.count == 1 and self.ranks.size == 1:
            optim.train_step(flow, batch, self.budget, seed, optimizer, clip, average)
            return {name: flow.last_step[name] for name in ("loss", *names, "grad_norm")}
        statistics = statistics_of(flow)
        before = statistics.copy()
        try:
            sums = self.ranks.try_on_all(lambda: self._sums(batch, size, seed, names))
            self.ranks.sum(sums)
            self.ranks.sum(core_of(flow).grads)
            if not math.isfinite(sums[0]):
                raise NumericError(f"[fit] expected a finite loss, got {sums[0]}")
            norm = optim.clip_grad_norm(flow, clip)
        except NumericError:
            statistics[:] = before  # some pieces of the batch, or some ranks' shares, were good
            raise
        optimizer.step()
        if average is not None:
            average.update()
        return {**dict(zip(("loss", *names), sums.tolist())), "grad_norm": norm}

    def _sums(self, batch: Batch, size: int, seed: int, names: tuple[str, ...]) -> np.ndarray:
        """This rank's part of the loss and of the numbers, with its gradient in the flow."""
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
        return sums
