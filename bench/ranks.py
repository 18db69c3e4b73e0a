"""A training step on several ranks: where its time goes, and what a model of cost says of more of them.

usage: mpiexec -n N python ranks.py [--work glow --batch 8 --steps 10 --wire bfloat16 --out results/ranks_N.json]

Measured on N ranks, each with `--batch` samples and its share of the cores: the step, what of it is spent in waiting for
sums over ranks, and an all-reduce of the gradient's size alone. Ranks of one machine run in step, as they would elsewhere.

Predicted (ranks_model.py), by one rank alone: computation as measured, and sums with alpha and bandwidth of interconnects
as their makers and users report them, not measured here. ranks_network.py checks the model.
"""

import argparse
import json
import math
import time

import numpy as np
from mpi4py import MPI

import evenflow as ef
from evenflow.ranks import Ranks, threads_a_rank
from evenflow.settings import Settings
from evenflow.sums import GradientSums
from evenflow.train import Trainer
from machine import describe
from ranks_model import LITTLE, batch_factor, efficiency

INTERCONNECTS = {"1 Gbit/s Ethernet": (50e-6, 0.117e9), "25 Gbit/s Ethernet": (10e-6, 2.9e9),
                 "200 Gbit/s InfiniBand": (1.5e-6, 24e9)}
WORKS = {"glow": lambda threads: ef.Glow((32, 32, 3), levels=3, steps=8, hidden=512, seed=0, threads=threads),
         "table": lambda threads: ef.CouplingFlow(2, couplings=8, hidden=(64, 64), seed=0, threads=threads)}
WARM_UP = 3
"""Steps that are not counted."""


class TimedRanks(Ranks):
    """Adds up the time in which it waits for other ranks."""

    waited = 0.0

    def wait_until(self, here):
        start = time.perf_counter()
        super().wait_until(here)
        self.waited += time.perf_counter() - start


def all_reduce(ranks, count, repeats=15):
    """Median seconds of a sum of `count` float32 values, from a common start."""
    values, times = np.zeros(count, np.float32), []
    for _ in range(repeats):
        ranks.any(False)
        start = time.perf_counter()
        ranks.sum(values)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def steps(flow, x, ranks, batch, wire):
    """Seconds of a step, of this rank's waiting in it, and of what no rank was spared; medians of one epoch.

    The slowest rank waits for messages alone, the others for it too: a step's sums cost what all ranks waited.
    """
    trainer = Trainer(flow, x, ranks=ranks, settings=Settings(batch_size=batch, lr=1e-5, wire_dtype=wire))
    times = []

    def note(record):
        if record["event"] == "step":
            times.append((time.perf_counter(), ranks.waited))

    trainer.run(epochs=1, callback=note)
    whole, waited = np.diff(times[WARM_UP - 1:], axis=0).T
    least = np.min(ranks.collect(waited), axis=0)
    return [float(np.median(seconds)) for seconds in (whole, waited, least)]


def predict(compute, size, last, link):
    """Efficiency with the same batch on each of p ranks, also with bfloat16 sent, and the batch for 80 %."""
    rows = {}
    for p in (2, 8, 32, 128, 1024):
        model = (last, *link, LITTLE)
        rows[p] = {"efficiency": efficiency(p, compute, size, *model),
                   "efficiency_bfloat16": efficiency(p, compute, size / 2, *model),
                   "batch_factor_for_80": batch_factor(0.8, p, compute, size, *model)}
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=WORKS, default="glow")
    parser.add_argument("--batch", type=int, default=8, help="samples a rank")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--wire", choices=["bfloat16"])
    parser.add_argument("--out")
    a = parser.parse_args()
    ranks = TimedRanks(MPI.COMM_WORLD)
    threads = threads_a_rank(ranks)
    flow = WORKS[a.work](threads)
    rng = np.random.default_rng(0)
    shape = (ranks.size * a.batch * (a.steps + WARM_UP), *flow.shape)
    x = rng.integers(0, 256, shape).astype(np.uint8) if flow.is_image else rng.standard_normal(shape)
    step, waited, not_hidden = steps(flow, x, ranks, ranks.size * a.batch, a.wire)
    size = 4 * flow.grads.size
    parts = [end - first for first, end in flow._core.gradient_parts(GradientSums.least)]
    last = parts[-1] / sum(parts)
    result = {"work": a.work, "ranks": ranks.size, "threads_a_rank": threads, "batch_a_rank": a.batch,
              "wire": a.wire or "float32", "parts": len(parts), "last_part": last, "step_ms": 1e3 * step, "waited_ms": 1e3 * waited,
              "not_hidden_ms": 1e3 * not_hidden,
              "gradient_mb": size / 1e6, "machine": describe()}
    if ranks.size > 1:
        little, much = all_reduce(ranks, 2), all_reduce(ranks, flow.grads.size)
        result.update(alpha_us=1e6 * little / (2 * math.ceil(math.log2(ranks.size))), all_reduce_ms=1e3 * much,
                      bandwidth_gbs=2e-9 * (ranks.size - 1) / ranks.size * size / (much - little))
    else:
        result["predicted"] = {name: predict(step, size, last, link) for name, link in INTERCONNECTS.items()}
    if ranks.rank == 0:
        print(json.dumps(result, indent=1))
        if a.out:
            with open(a.out, "w") as file:
                json.dump(result, file, indent=1)


main()
