"""Ranks with a GPU each: sums over all of them in the memory of the GPUs, through NCCL.

Every rank calls the same functions in the same order. docs/cuda.md says how the parts go together.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from evenflow import _core
from evenflow.errors import ConfigError, DeviceError, Error, RanksError, on_all_ranks
from evenflow.extras import load_backend, load_library, need

Collect = Callable[[Any], list[Any]]
"""Gives every rank the small things of all ranks, by rank."""

PAUSE = 1e-3
JOIN_SECONDS = 300.0
"""How long the ranks of torchrun wait for the last of them."""


def local_rank(rank: int, collect: Collect) -> int:
    """How many lower ranks this machine has: the number of the rank's GPU."""
    machines = collect(platform.node())
    return machines[:rank].count(machines[rank])


class Request:
    """A sum on its way, as mpi4py has them."""

    def __init__(self, done: Callable[[], bool], then: Callable[[], None] = lambda: None):
        self._done, self._then, self._over = done, then, False

    def Test(self) -> bool:
        """Whether the result is there. DeviceError where NCCL reports one, this rank's or another's."""
        if not self._over and self._done():
            self._then()
            self._over = True
        return self._over


class Nccl:
    """This rank among those with a GPU each; one sum at a time is on its way.

    Takes the rank's GPU, so it comes before the first flow of the device. What is missing on one rank is raised
    on all, which would wait for it.
    """

    def __init__(self, collect: Collect, rank: int, size: int, local: int, device: str = "cuda"):
        name, problem = "", ""
        try:
            load_backend(device)
            load_library("nvidia.nccl", "lib/libnccl.so.2", "EVENFLOW_NCCL_LIBRARY")
            _core.prepare_rank(device, local)
            if rank == 0:
                name = _core.collective_id(device).hex()
        except Error as error:
            problem = str(error)
        answers = collect([name, problem])
        for other, (_, problem) in enumerate(answers):
            if problem:
                raise on_all_ranks(DeviceError(f"{problem} (rank {other})" if other else problem), rank)
        self._collective = _core.Collective(device, bytes.fromhex(answers[0][0]), rank, size)

    def start(self, values: np.ndarray) -> Request:
        """Adds those of all other ranks to float32 or float64 `values` (n,), in place."""
        self._collective.start(values)
        return Request(self._collective.done)

    def start_gradient(self, flow: _core.Flow32 | _core.Flow64) -> Request:
        """Adds up the gradients of all ranks where they are, in the memory of the GPU."""
        self._collective.start_gradient(flow)
        return Request(self._collective.done)


_MADE: Counter[tuple[str, int]] = Counter()
"""How many stores of a job a rank has made; all ranks make as many."""


class Store:
    """What the ranks of a torchrun job tell each other besides sums, through torch's TCPStore at MASTER_PORT."""

    def __init__(self, job: str, address: str, port: int, rank: int, size: int):
        torch = need("torchrun", "torch.distributed", "torch", "torch")
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has one there
        try:
            store = torch.TCPStore(address, port, is_master=rank == 0 and not agent, wait_for_workers=False,
                                   timeout=datetime.timedelta(seconds=JOIN_SECONDS), multi_tenant=True)
        except (RuntimeError, OSError) as error:
            raise RanksError(f"[torchrun] rank {rank} can't reach the store at {address}:{port}: {error}") from error
        # The agent's store outlives workers that are restarted, and what this process made before.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = torch.PrefixStore(f"evenflow/{job}/{restart}/{_MADE[job, rank]}", store)
        _MADE[job, rank] += 1
        self._rank, self._size, self._rounds = rank, size, itertools.count()

    def collect(self, thing: Any) -> list[Any]:
        """Things of all ranks, by rank, which JSON can hold. RanksError if a rank doesn't come."""
        at = next(self._rounds)
        keys = [f"{at}/{rank}" for rank in range(self._size)]
        self._store.set(keys[self._rank], json.dumps(thing))
        try:
            things = [json.loads(self._store.get(key)) for key in keys]
            self._store.add(f"{at}/read", 1)
            deadline = time.monotonic() + JOIN_SECONDS
            while self._rank == 0 and self._store.add(f"{at}/read", 0) < self._size:  # the store may end with rank 0
                if time.monotonic() > deadline:
                    raise RuntimeError("a rank that didn't read the answers")
                time.sleep(PAUSE)
            return things
        except RuntimeError as error:  # of the store: a timeout, or rank 0 is gone
            raise RanksError(f"[torchrun] expected all {self._size} ranks within {JOIN_SECONDS:g} s, got: "
                             f"{error}") from error

    def note(self, source: int, dest: int, tag: int) -> None:
        """Leaves a sign for a rank."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"note/{source}/{dest}/{tag}", "")

    def has_note(self, source: int, tag: int) -> bool:
        try:
            return bool(self._store.check([f"note/{source}/{self._rank}/{tag}"]))
        except RuntimeError:
            return False

    def take_note(self, source: int, tag: int) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.delete_key(f"note/{source}/{self._rank}/{tag}")


class TorchrunComm:
    """What `Ranks` needs of a communicator, for a job that torchrun started; the data go over NCCL.

    Takes the rank's GPU, so it comes before the first flow of the device. ConfigError if torchrun's variables are
    missing; RanksError if a rank doesn't come.
    """

    IN_PLACE = None

    def __init__(self, device: str = "cuda", environment: Mapping[str, str] = os.environ):
        self._size = _number(environment, "WORLD_SIZE", 1, 1 << 20)
        self._rank = _number(environment, "RANK", 0, self._size - 1)
        local = _number(environment, "LOCAL_RANK", 0, self._rank)
        address, port = _text(environment, "MASTER_ADDR"), _number(environment, "MASTER_PORT", 1, 65535)
        job = environment.get("TORCHELASTIC_RUN_ID", "none")
        self._store = Store(job, address, port, self._rank, self._size)
        self.nccl = Nccl(self._store.collect, self._rank, self._size, local, device)

    def Get_rank(self) -> int:
        return self._rank

    def Get_size(self) -> int:
        return self._size

    def Iallreduce(self, in_place: Any, values: np.ndarray) -> Request:
        """Adds those of all other ranks to `values`; integers up to 2^53."""
        if values.dtype in (np.float32, np.float64):
            return self.nccl.start(values)
        return self._sum_elsewhere(values.astype(np.float64), values)

    def Iallgatherv(self, mine: np.ndarray, all_and_sizes: tuple[np.ndarray, np.ndarray]) -> Request:
        """The bytes of all ranks, one after the other: a sum in which each gives its own, and zeros else."""
        whole, sizes = all_and_sizes
        first = int(sizes[:self._rank].sum())
        numbers = np.zeros(len(whole), np.float32)
        numbers[first:first + len(mine)] = mine
        return self._sum_elsewhere(numbers, whole)

    def _sum_elsewhere(self, numbers: np.ndarray, to: np.ndarray) -> Request:
        def store() -> None:
            to[...] = numbers

        return Request(self.nccl.start(numbers).Test, store)

    def isend(self, thing: None, dest: int, tag: int) -> None:
        """A note without contents, which may be lost."""
        self._store.note(self._rank, dest, tag)

    def iprobe(self, source: int, tag: int) -> bool:
        return self._store.has_note(source, tag)

    def recv(self, source: int, tag: int) -> None:
        self._store.take_note(source, tag)

    def Abort(self, code: int = 1) -> NoReturn:
        """Ends this rank at once; torchrun then ends the others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _text(environment: Mapping[str, str], name: str) -> str:
    text = environment.get(name, "")
    if not text:
        raise ConfigError(f"[torchrun] expected {name}, as torchrun sets it, got none")
    return text


def _number(environment: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = _text(environment, name)
    if not (text.isdecimal() and low <= int(text) <= high):
        raise ConfigError(f"[torchrun] expected {low} <= {name} <= {high}, got {text!r}")
    return int(text)
