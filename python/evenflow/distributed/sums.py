"""Sums of gradients over ranks, part by part, beside the backward pass that completes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow import _core
from evenflow.density import Density
from evenflow._border.extras import need
from evenflow.distributed.ranks import Ranks

PAUSE = 5e-4
"""Seconds between two looks at sums that are on their way: MPI moves data only when it is asked."""


class GradientSums:
    """The gradient of a flow, summed over ranks, once a step.

    Parts go to buffers of their own: the pass may have to be repeated, and then takes back what it added.
    Every rank sums every part in the same order, whatever became of its own pass. In a step: `begin`, `start`
    as parts are complete, then `wait`, and `store` where all went well.

    wire: "bfloat16" rounds the gradients of the ranks to it, and their sum, which is added up in float32.
    """

    least = 1 << 20
    """Values of a part: smaller ones cost more messages, larger ones leave more to wait for at the end."""

    def __init__(self, flow: Density, ranks: Ranks, wire: str | None):
        self._gradient = flow._core.grads
        self._ranges = [slice(*part) for part in flow._core.gradient_parts(self.least)]
        # Of their own: the order among sums of one communicator is that of the calls, on every rank.
        comms = [ranks.comm.Dup() for _ in range(2 if wire else 1)]
        self._comms, self._ranks = comms, ranks
        sizes = [part.stop - part.start for part in self._ranges]
        if wire:
            self._parts: list[Any] = [_RoundedSum(ranks, comms, n) for n in sizes]
        else:
            self._parts = [_Sum(ranks, comms[0], n, self._gradient.dtype) for n in sizes]
        self._started = 0
        self._watcher: _Watcher | None = None
        mpi = need("fit", "mpi4py.MPI", "mpi4py", "mpi")
        if len(sizes) > 1 and mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self._watcher = _Watcher(self._move)

    def begin(self) -> None:
        self._started = 0

    def start(self, part: int) -> None:
        """Sums a part as it is now; the parts before it were started."""
        self._send(part)
        if self._watcher is not None:
            self._watcher.watch()

    def wait(self) -> None:
        """Until the sums of all parts are there; those that were not started are now. RanksError."""
        if self._watcher is not None:
            self._watcher.rest()
        while self._started < len(self._parts):
            self._send(self._started)
        self._ranks.wait_until(self._move)

    def store(self) -> None:
        """Puts the sums where the gradient was."""
        for part, there in zip(self._parts, self._ranges):
            part.store(self._gradient[there])

    def __enter__(self) -> GradientSums:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._watcher is not None:
            self._watcher.end()
        if error is None or getattr(error, "on_all_ranks", False):  # else sums may be on their way
            for comm in self._comms:
                comm.Free()

    def _send(self, part: int) -> None:
        self._parts[part].start(self._gradient[self._ranges[part]])
        self._started = part + 1

    def _move(self) -> bool:
        """Whether all that were started are there. In their order, so that all ranks do the same in turn."""
        return all(part.move() for part in self._parts[:self._started])


class _Sum:
    """Of one part, in the gradient's own type."""

    def __init__(self, ranks: Ranks, comm: Any, size: int, dtype: np.dtype):
        self._comm, self._in_place = comm, ranks.in_place
        self._values = np.empty(size, dtype)
        self._request: Any = None

    def start(self, values: np.ndarray) -> None:
        self._values[:] = values
        self._request = self._comm.Iallreduce(self._in_place, self._values)

    def move(self) -> bool:
        """Whether the sum is there."""
        if self._request is not None and self._request.Test():
            self._request = None
        return self._request is None

    def store(self, out: np.ndarray) -> None:
        out[:] = self._values


class _RoundedSum:
    """Of one part, as bfloat16: every rank gets its share of all ranks' values, adds it up, and hands it round.

    Shares are equal, with zeros behind the last: MPICH is slow with others.
    """

    def __init__(self, ranks: Ranks, comms: list[Any], size: int):
        share = -(-size // ranks.size)
        self._comms, self._size = comms, size
        self._values = np.zeros(ranks.size * share, np.uint16)
        self._theirs, self._sum = np.empty((ranks.size, share), np.uint16), np.empty(share, np.uint16)
        self._request: Any = None
        self._summed = False

    def start(self, values: np.ndarray) -> None:
        _core.to_bfloat16(values, self._values[:self._size])
        self._request = self._comms[0].Ialltoall(self._values, self._theirs)
        self._summed = False

    def move(self) -> bool:
        """Whether the sum is there; goes on to the second round after the first."""
        if self._request is not None and self._request.Test():
            self._request = None
            if not self._summed:
                _core.sum_bfloat16(self._theirs, self._sum)
                self._summed = True
                self._request = self._comms[1].Iallgather(self._sum, self._values)
        return self._request is None

    def store(self, out: np.ndarray) -> None:
        _core.from_bfloat16(self._values[:self._size], out)


class _Watcher:
    """A thread that looks after sums while the program computes."""

    def __init__(self, move: Callable[[], bool]):
        self._move = move
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="evenflow sums", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        self._wanted.set()

    def rest(self) -> None:
        """Until `watch`; from now on the caller looks itself."""
        self._wanted.clear()
        with self._lock:
            pass

    def end(self) -> None:
        self._ended = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while self._wanted.wait() and not self._ended:
            with self._lock:
                if self._wanted.is_set():
                    self._move()
            time.sleep(PAUSE)
