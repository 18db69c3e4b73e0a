"""One rank of a job, as torchrun starts it; rank 0 prints what came out of a task as JSON.

usage: python nccl_job.py TASK [fake], where `fake` takes sums that need no backend
"""

import json
import os
import sys
import time

import numpy as np

import evenflow as ef
from evenflow import _core, nccl
from evenflow.ranks import Ranks


class FakeCollective:
    """Sums over the store that the ranks know each other by."""

    def __init__(self, device, id, rank, size):
        assert id == bytes(range(128))
        self.arrays = []
        self.store = nccl.Store("sum", os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, size)

    def start(self, values):
        self.arrays.append(values)

    def done(self):
        for values in self.arrays:
            values[:] = np.sum(np.array(self.store.collect(values.tolist()), values.dtype), axis=0)
        self.arrays.clear()
        return True


def collect(comm):
    ranks = Ranks(comm)
    assert ranks.any(ranks.rank == 1, False) == [ranks.size > 1, False]
    values = np.full(3, ranks.rank + 1, np.float32)
    ranks.sum(values)
    return {"collected": ranks.collect({"rank": ranks.rank}), "sum": values.tolist(),
            "gathered": ranks.gather(np.arange(ranks.rank + 1.0)).tolist()}


def train(comm):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3)) @ rng.standard_normal((3, 3))
    device = "cuda" if comm else "cpu"
    flow = ef.CouplingFlow(3, couplings=2, hidden=(8,), batch_norm=True, dtype="float64", seed=0, threads=1,
                      device=device)
    losses = []
    flow.fit(x, batch_size=40, steps=6, comm=comm, seed=0,
             callback=lambda r: losses.append(r["loss"]) if r["event"] == "step" else None)
    return {"losses": losses}


def gradient(comm):
    flow = ef.NICE(4, couplings=2, hidden=(4,), dtype="float64", seed=0, device="cuda")
    flow.grads[:] = np.arange(len(flow.grads)) * (comm.Get_rank() + 1)
    request = comm.nccl.start_gradient(flow._core)
    problems = []
    for again in (lambda: comm.nccl.start_gradient(flow._core), lambda: comm.nccl.start(np.zeros(1))):
        try:
            again()
        except ef.ConfigError as error:
            problems.append(str(error))
    while not request.Test():
        pass
    other = ef.NICE(4, couplings=2, hidden=(4,), seed=0)
    for wrong in (lambda: comm.nccl.start(np.zeros(1, np.int32)), lambda: comm.nccl.start(np.zeros((1, 1))),
                  lambda: comm.nccl.start_gradient(other._core)):
        try:
            wrong()
        except (TypeError, ef.Error) as error:
            problems.append(str(error))
    size = comm.Get_size()
    right = flow.grads == np.arange(len(flow.grads)) * (size * (size + 1) // 2)
    return {"right": bool(right.all()), "problems": problems}


def stall(comm):
    """Rank 1 does not go on; the others name it."""
    ranks = Ranks(comm)
    ranks.sum(np.zeros(1))
    if ranks.rank == 1:
        time.sleep(20)
        os._exit(0)
    return {"missing": ranks._missing()}


def main():
    task = sys.argv[1]
    if "fake" in sys.argv:
        _core.prepare_rank = lambda device, local_rank: None
        _core.collective_id = lambda device: bytes(range(128))
        _core.Collective = FakeCollective
    try:
        comm = None
        if task != "alone":
            comm = ef.distributed(device="cuda") if task == "train" else nccl.TorchrunComm()
        result = {"alone": train, "train": train, "collect": collect, "gradient": gradient,
                  "stall": stall}[task](comm)
    except ef.Error as error:
        result = {"error": f"{type(error).__name__}: {error}",
                  "on_all": getattr(error, "on_all_ranks", False)}
    if os.environ.get("RANK", "0") == "0" or "everyone" in sys.argv:
        print(json.dumps(result))
    if task == "stall":
        os._exit(0)


main()
