"""Ranks: the processes that train one model together, through MPI.

Every rank calls the same functions in the same order. An error of evenflow's on one of them is raised on all.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from evenflow._border.console import tell, tell_error
from evenflow._border.extras import need
from evenflow.errors import ConfigError, Error, on_all_ranks, wrong

Result = TypeVar("Result")

# What launchers tell a process of how many there are: Open MPI, MPICH and Intel MPI, MVAPICH, srun.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
LEAD_SECONDS, TELL_SECONDS = 1.0, 0.5
"""For rank 0 to tell of an error that all have, once, and for the launcher to pass on what was told: it may drop what
is on its way when a job is aborted."""


class Ranks:
    """The ranks of an mpi4py communicator; without one, this process alone."""

    def __init__(self, comm: Any = None):
        if comm is not None and not all(hasattr(comm, name) for name in ("Allreduce", "allgather")):
            raise wrong(TypeError, "fit", "comm", f"expected an mpi4py communicator, got {type(comm).__name__}")
        self.comm = comm
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()

    def share(self, n: int) -> slice:
        """This rank's of n rows."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, values: np.ndarray) -> None:
        """Adds those of all other ranks to `values`, in place."""
        if self.size > 1:
            from mpi4py import MPI  # the communicator is of it
            self.comm.Allreduce(MPI.IN_PLACE, values)

    def any(self, *flags: bool) -> list[bool]:
        """Which of the flags are set on any rank."""
        counts = np.array(flags, np.float64)
        self.sum(counts)
        return [bool(count) for count in counts]

    def collect(self, thing: Any) -> list[Any]:
        """The small things of all ranks, by rank."""
        return [thing] if self.size == 1 else list(self.comm.allgather(thing))

    def try_on_all(self, work: Callable[[], Result]) -> Result:
        """work() on this rank; an error on any rank is raised on all."""
        if self.size == 1:
            return work()
        error = result = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        self._raise_first(error)
        return result  # type: ignore[return-value]

    def lead(self, work: Callable[[], Result]) -> Result:
        """work() by rank 0 alone: its result, or its error, on every rank."""
        result: Any = self.try_on_all(work if self.rank == 0 else lambda: None)
        return self.collect(result)[0]  # type: ignore[no-any-return]

    def same(self, where: str, facts: Callable[[], dict[str, Any]]) -> None:
        """ConfigError, naming the rank, where a fact is not what it is on rank 0. One rank alone asks for none."""
        first, *others = self.collect(facts()) if self.size > 1 else [{}]
        for rank, theirs in enumerate(others, 1):
            for name, value in first.items():
                if theirs.get(name) != value:
                    raise on_all_ranks(ConfigError(
                        f"[{where}] expected the same {name} on every rank, got {value} on rank 0 and "
                        f"{theirs.get(name)} on rank {rank}"), self.rank)

    def _raise_first(self, own: Exception | None) -> None:
        for rank, error in enumerate(self.collect(own)):
            if error is not None:
                if rank > 0:
                    error.args = (f"{error} (rank {rank})",)
                raise on_all_ranks(error, self.rank) from own


@contextlib.contextmanager
def launched() -> Iterator[Ranks]:
    """The ranks that mpirun, mpiexec or srun started, or this process alone, for the time of a command.

    An error of one rank alone ends all of them, which would wait for it for ever. MissingExtra without mpi4py;
    ConfigError where it uses another MPI than the launcher.
    """
    size = max(int(os.environ.get(name, "1")) for name in SIZES)
    if size == 1:
        yield Ranks()
        return
    comm = need("train", "mpi4py.MPI", "mpi4py", "mpi").COMM_WORLD
    if comm.Get_size() != size:
        raise ConfigError(f"[train] expected {size} ranks, as the launcher says, got {comm.Get_size()} from mpi4py: "
                          "it uses another MPI library than the launcher")
    ranks = Ranks(comm)
    try:
        yield ranks
    except BaseException as error:
        if not getattr(error, "on_all_ranks", False):
            if ranks.rank > 0:
                time.sleep(LEAD_SECONDS)
            if isinstance(error, Error):
                tell_error(f"evenflow: rank {ranks.rank} failed: {error}")
            else:
                tell(f"{traceback.format_exc()}evenflow: rank {ranks.rank} failed, see above")
            time.sleep(TELL_SECONDS)
            comm.Abort(1)
        raise


def threads_a_rank(ranks: Ranks) -> int:
    """Threads for each rank of this machine: 0, all it may use, where the launcher gave each its own cores."""
    if ranks.size == 1 or not hasattr(os, "sched_getaffinity"):
        return 0
    cores, allowed = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    here = ranks.collect(platform.node()).count(platform.node())
    return 0 if allowed < cores else max(1, cores // here)
