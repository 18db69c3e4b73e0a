"""Measures coupling flows of shapes that nobody chose, beside JAX and torch.compile, and says what falls short.

usage: python sweep.py --out FOLDER [--jax-python PATH] [--law affine] [--net mlp] [--seed 1] [--cells 64] [--rounds 3]
                       [--show | --grow]
Results are kept after each cell: a second run goes on where the first one ended. With --show nothing is measured; with
--grow evenflow's step alone is, of shapes that differ in one size, and must not get faster as it grows.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator

import machine
import ours
import report
import run
import worker
from works import SWEEP, operations

CALLS = SWEEP.calls
MOST_GFLOP = 20
ONE_THREAD_GFLOP = 0.05
"""Of smaller steps peers also run on one thread, and the better counts."""
WIDTHS = (16, 24, 32, 40, 48, 64, 80, 96, 100, 112, 128, 144, 160, 192, 200, 256, 320, 384, 448, 512)
BATCHES = (1, *(n for k in range(1, 12) for n in (2**k, 3 * 2 ** (k - 1))), 4096)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder for sweep.json, sweep.png, and of --grow grow.json")
    parser.add_argument("--seed", type=int, default=1, help="of the shapes")
    parser.add_argument("--cells", type=int, default=64, help="number of shapes, the first ones of the seed")
    parser.add_argument("--law", choices=["affine", "additive", "spline"], default="affine")
    parser.add_argument("--net", choices=["mlp", "residual"], help="for all cells; else each has one of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="least time of a timing")
    parser.add_argument("--libraries", default="evenflow,jax,torch-compile", help="also torch, evenflow-bf16")
    parser.add_argument("--calls", choices=CALLS, help="one alone; torch.compile takes a minute for each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="has torch")
    parser.add_argument("--jax-python", default=sys.executable, help="has jax")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS",
                        help="for one timing, with what is compiled for it")
    parser.add_argument("--show", action="store_true", help="what was kept, without measuring")
    parser.add_argument("--grow", action="store_true", help="whether larger shapes take longer")
    a = parser.parse_args()
    for python in (a.python, a.jax_python):
        if not shutil.which(python):
            parser.error(f"no interpreter at {python}")
    vars(a).update(device="cpu", smoke=False, quick=False)  # run.py has these, too
    return a


def gflop(sizes: dict) -> float:
    """Of a training step's products."""
    return 1e-9 * operations(SWEEP.model, sizes)["step"]


def drawn(seed: int) -> Iterator[dict]:
    """Shapes without end. Uses random() alone, whose numbers are the same in every version of Python."""
    uniform = random.Random(seed).random

    def log_uniform(low: int, high: int) -> int:
        return int(low * ((high + 1) / low) ** uniform())

    def one_of(*choices):
        return choices[int(len(choices) * uniform())]

    while True:
        sizes = {"law": "affine", "net": one_of("mlp", "residual"), "dims": log_uniform(2, 784),
                 "context": one_of(0, log_uniform(1, 64)), "couplings": one_of(2, 4, 6, 8),
                 "hidden": one_of(1, 2, 3, 4) * [log_uniform(16, 1024)], "bins": 8, "bound": 4.0,
                 "batch": one_of(2 ** int(17 * uniform()), log_uniform(1, 65536))}
        if gflop(sizes) <= MOST_GFLOP:
            yield sizes


def cells(a) -> list[dict]:
    """Other laws and nets have the shapes of the affine ones, but for those that then are too large."""
    changes = {"law": a.law, **({"net": a.net} if a.net else {})}
    changed = [sizes | changes for sizes in itertools.islice(drawn(a.seed), a.cells)]
    return [sizes for sizes in changed if gflop(sizes) <= MOST_GFLOP]


def kept(a) -> list[dict]:
    """Cells of earlier runs, of any seed, law and net."""
    try:
        with open(os.path.join(a.out, "sweep.json")) as file:
            return json.load(file)["cells"]
    except FileNotFoundError:
        return []


def measured(a, sizes: dict) -> dict:
    """ValueError where libraries have different numbers of parameters: they would not do the same work."""
    a.set = [f"{name}={json.dumps(value)}" for name, value in sizes.items()]
    result = run.run_work(a, "sweep", lambda so_far: None, gflop(sizes) < ONE_THREAD_GFLOP)
    counts = {library: round(entry["state_mb"] / 16e-6) for library, entry in result["libraries"].items()
              if "state_mb" in entry}
    if len(set(counts.values())) > 1:
        raise ValueError(f"[sweep] expected equal numbers of parameters, got {counts} for {sizes}")
    return {"cell": sizes, "machine": machine.describe(), "threads": a.threads,
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"), "date": time.strftime("%Y-%m-%d"), **result}


def measure(a) -> None:
    """The cells that are missing."""
    done, wanted = kept(a), cells(a)
    for i, sizes in enumerate(wanted):
        if any(result["cell"] == sizes for result in done):
            continue
        begun = time.perf_counter()
        print(f"\n== cell {i + 1} of {len(wanted)}, {gflop(sizes):.3g} GFLOP a step: {sizes}", flush=True)
        done.append(measured(a, sizes))
        report.write(a.out, "sweep", {"cells": done}, indent=None)
        print(f"  {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)


class Row:
    """What a cell comes to. ratio: of the best peer's time to ours, by call; None where there is none."""

    def __init__(self, result: dict):
        libraries = result["libraries"]
        self.sizes, self.gflop, ours = result["cell"], gflop(result["cell"]), libraries["evenflow"]
        self.width, self.depth = self.sizes["hidden"][0], len(self.sizes["hidden"])
        self.ms = {call: ours.get("median_ms", {}).get(call) for call in CALLS}
        self.percent = ours.get("percent_of_peak", {}).get("step")
        peers = {name: entry["ratio"] for name, entry in libraries.items()
                 if not name.startswith("evenflow") and "ratio" in entry and self.ms["step"]}
        self.ratio, self.peer = {}, {}
        for call in CALLS:
            found = [(ratio[call], name) for name, ratio in peers.items() if call in ratio]
            self.ratio[call], self.peer[call] = min(found, default=(None, "-"))
        self.failed = [f"{name}: {text}" for name, entry in libraries.items() for text in
                       ([entry[kind] for kind in ("missing", "error") if kind in entry]
                        + [f"{call}: {why}" for call, why in entry.get("errors", {}).items()])]

    def reaches(self) -> bool:
        """The smaller of twice the best peer's speed and 75 % of the peak. Without a peer the peak counts."""
        return (self.ratio["step"] or 0) >= 2 or (self.percent or 0) >= 75


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def show_table(rows: list[Row]) -> None:
    print(f"\n{'':5}{'D':>4}{'given':>6}{'cpl':>4}  {'net':8}{'hidden':>9}{'batch':>7}{'GFLOP':>9}{'step, ms':>10}"
          f"{'peak':>6}{'ratio':>7} {'to':14}{'log_prob, ms':>12}{'ratio':>7}")
    for i, row in enumerate(rows):
        s = row.sizes
        print(f"{'' if row.reaches() else '*':1}{i + 1:3} {s['dims']:4}{s['context']:6}{s['couplings']:4}  {s['net']:8}"
              f"{f'{row.depth} x {row.width}':>9}{s['batch']:7}{row.gflop:9.3g}{number(row.ms['step'], '.4g'):>10}"
              f"{number(row.percent, '.0f'):>4} %{number(row.ratio['step'], '.2f'):>7} {row.peer['step']:14}"
              f"{number(row.ms['log_prob'], '.4g'):>12}{number(row.ratio['log_prob'], '.2f'):>7}")
        for text in row.failed:
            print(f"{'':5}failed: {text}")


def show_summary(rows: list[Row]) -> None:
    missed = [str(i + 1) for i, row in enumerate(rows) if not row.reaches()]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} cells reach twice the best peer's speed or 75 % of the peak; "
          f"others, with *: {', '.join(missed) or 'none'}")
    small = [row.ratio["step"] for row in rows if row.gflop < 1 and row.ratio["step"]]
    if small:
        print(f"below 1 GFLOP, {len(small)} cells: geometric mean of ratios {statistics.geometric_mean(small):.2f} "
              f"(wanted 3.5), least {min(small):.2f}")
    large = [row.percent for row in rows
             if row.depth >= 2 and row.width >= 64 and row.sizes["batch"] >= 200 and row.percent]
    if large:
        print(f"depth >= 2, width >= 64, batch >= 200, {len(large)} cells: of the peak worst {min(large):.0f} % "
              f"(wanted 45), median {statistics.median(large):.0f} % (wanted 60)")


def draw(rows: list[Row], title: str, path: str) -> None:
    """Ratio and percent of peak against a step's size."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 9), sharex=True, layout="constrained", height_ratios=(3, 2))
    for axes, height in ((top, lambda row: row.ratio["step"]), (bottom, lambda row: row.percent)):
        for net, marker in (("mlp", "o"), ("residual", "s")):
            of_net = [row for row in rows if row.sizes["net"] == net]
            points = axes.scatter([row.gflop for row in of_net], [height(row) for row in of_net], s=45, marker=marker,
                                  c=[row.percent for row in of_net], cmap="viridis", vmin=0, vmax=100, zorder=2)
            axes.scatter([], [], s=45, marker=marker, color="grey", label=f"{net} net")
        missed = [row for row in rows if not row.reaches()]
        axes.scatter([row.gflop for row in missed], [height(row) for row in missed], s=170, facecolors="none",
                     edgecolors="crimson", linewidths=1.6, zorder=3, label="below both red lines")
        axes.grid(alpha=0.3)
    top.axhline(2, color="crimson", linewidth=1)
    bottom.axhline(75, color="crimson", linewidth=1)
    top.set(xscale="log", yscale="log", title=title, ylabel="time of the best peer / time of evenflow")
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter("{x:g}")
    low, high = top.get_ylim()
    top.set_yticks([tick for tick in (0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100) if low <= tick <= high])
    top.minorticks_off()
    bottom.legend(loc="upper left")
    bottom.set(ylim=(0, None), xlabel="operations in the products of a training step, GFLOP",
               ylabel="evenflow, % of the float32 peak")
    figure.colorbar(points, ax=(top, bottom), label="evenflow, % of the float32 peak", pad=0.02)
    figure.savefig(path, dpi=130)


def show(a) -> None:
    wanted, done = cells(a), kept(a)
    results = [result for sizes in wanted for result in done if result["cell"] == sizes]
    rows = [Row(result) for result in results]
    print(f"\n{len(rows)} of {len(wanted)} cells measured"
          + (f"; {a.cells - len(wanted)} more take over {MOST_GFLOP} GFLOP a step" if len(wanted) < a.cells else ""))
    show_table(rows)
    show_summary(rows)
    drawn_rows = [row for row in rows if row.ratio["step"] and row.percent]
    if drawn_rows:
        draw(drawn_rows, f"Training steps of {len(drawn_rows)} {a.law} coupling flows of random shapes\n"
             f"{results[0]['machine']['cpu']}, {results[0]['threads']} threads", os.path.join(a.out, "sweep.png"))


def grow(a) -> None:
    """Steps of three series, in turns: where is a larger shape faster than a smaller one by more than 3 %?"""
    usual = {"law": a.law, "net": a.net or "mlp", "dims": 16, "context": 0, "couplings": 6, "bins": 8, "bound": 4.0}
    series = {"widths, batch 256": {width: usual | {"hidden": 2 * [width], "batch": 256} for width in WIDTHS},
              **{f"batches, width {width}": {batch: usual | {"hidden": 2 * [width], "batch": batch}
                                             for batch in BATCHES} for width in (64, 128)}}
    steps = {(name, size): ours.build("evenflow", SWEEP.model, sizes, a.threads, "cpu")["step"]
             for name, shapes in series.items() for size, sizes in shapes.items()}
    times = {key: [] for key in steps}
    for _ in range(a.rounds):
        for key, step in steps.items():
            step()  # fills the caches again
            times[key].append(worker.median_ms(step, a.seconds))
    for name, shapes in series.items():
        print(f"\n{name}: ms of a step\n" + ", ".join(f"{size}: {statistics.median(times[name, size]):.4g}"
                                                     for size in shapes))
        for at, larger in enumerate(shapes):
            ratios = {smaller: statistics.median(x / y for x, y in zip(times[name, larger], times[name, smaller]))
                      for smaller in list(shapes)[:at]}
            smaller = min(ratios, key=ratios.get, default=None)
            if smaller and ratios[smaller] < 0.97:
                print(f"  {larger} takes {ratios[smaller]:.3f} of the time of {smaller}")
    report.write(a.out, "grow", {"machine": machine.describe(), "threads": a.threads, "sizes": usual, "rounds_ms": {
        name: {str(size): times[name, size] for size in shapes} for name, shapes in series.items()}})


def main():
    a = arguments()
    if a.grow:
        return grow(a)
    if not a.show:
        measure(a)
    show(a)


if __name__ == "__main__":
    main()
