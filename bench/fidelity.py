"""Does evenflow train as well as nflows? Held-out nats a row of their flows on five tables.

usage: python fidelity.py --data FOLDER --out FOLDER [--sets magic,...] [--seeds 3] [--steps 4000]
                          [--rate 5e-4] [--every 100] [--threads 2]
       python fidelity.py --out FOLDER --show
Both train on the same rows of the same numbers, with the same net, mixing, base, batch, rate and clipping. `steps` is
as many steps as nflows takes, `time` as many as fit into the time that it takes. Every run is a process of its own and
is written to FOLDER/fidelity.json when it ends; what is there already isn't run again.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import time
from importlib.metadata import version

import numpy as np

SETS = {  # file, columns, to what each is rounded (None: noise of 1e-4 standard deviations), largest value taken
    "hipparcos_8d": ("hipparcos_8d.npy", range(8), [0, 0, 0.01, 0.01, 0.01, 1e-4, 1e-3, 0.01], math.inf),
    "cytometry_12d": ("cytometry_12d.npy", range(12), 1.0, 262_142),
    "magic": ("magic.csv.gz", range(10), None, math.inf),
    "california": ("housing.csv", (0, 1, 3, 4, 5, 6, 7, 8), [0.01, 0.01, 1, 1, 1, 1, 1e-4, 100], 500_000),
    "protein": ("protein.csv.gz", (0, 1, 2, 3, 4, 5, 6, 8, 9), None, math.inf),
}
FLOWS = {"nflows": None,  # first: the others' time is its time
         "evenflow spline": dict(law="spline", net="residual"),
         "evenflow affine": dict(law="affine", net="residual"),
         "evenflow affine, MLP": dict(law="affine", net="mlp")}
COUPLINGS, WIDTH, BLOCKS, BINS, BOUND = 8, 64, 2, 8, 4.0
BATCH, CLIP = 256, 5.0
COLUMNS = {"steps, last": ("steps", "last"), "steps, best": ("steps", "best"), "time, best": ("time", "best")}


def table(name: str, folder: str):
    """Rows to train on, to choose the step by and to test, standardised by the first, and log of the scales' product.

    What was rounded gets noise as wide as a step, so that no flow gains by learning the steps.
    """
    file, columns, step, most = SETS[name]
    path = os.path.join(folder, file)
    if file.endswith(".npy"):
        x = np.load(path).astype(float)[:, columns]
    else:
        x = np.genfromtxt(path, delimiter=",", usecols=columns)
    x = np.unique(x[np.isfinite(x).all(1) & (x <= most).all(1)], axis=0)  # without header, gaps and repeated rows
    rng = np.random.default_rng(0)
    x = rng.permutation(x)
    x += rng.random(x.shape) * (1e-4 * x.std(0) if step is None else step)
    test, valid = min(10_000, len(x) // 5), min(5_000, len(x) // 10)
    parts = x[test + valid:], x[test:test + valid], x[:test]
    mean, scale = parts[0].mean(0), parts[0].std(0)
    return *(((part - mean) / scale).astype(np.float32) for part in parts), np.log(scale).sum()


class Looks:
    """At the validation rows, every so many steps: keeps the parameters that are best on them."""

    def __init__(self):
        self.score, self.times = -math.inf, [time.perf_counter()]

    def look(self, step, score, copy):
        if score > self.score:
            self.step, self.score, self.values = step, score, copy()
        self.times.append(time.perf_counter())

    def seconds(self, steps, every):
        """Of all steps, looks included, by the median look: without start, and whatever paused the process."""
        return float(np.median(np.diff(self.times))) * steps / every


def evenflow(flow, train, valid, test, seed, steps, a):
    import evenflow as ef
    model = ef.CouplingFlow(train.shape[1], couplings=COUPLINGS, hidden=(WIDTH,) * BLOCKS, bins=BINS, bound=BOUND,
                            permutation="lu-shuffle", base="gaussian", preprocess="none", seed=seed, threads=a.threads,
                            **FLOWS[flow])
    looks = Looks()

    def look(record):
        if record["event"] == "step" and (record["step"] % a.every == 0 or record["step"] == steps):
            looks.look(record["step"], model.log_prob(valid).mean(), model.params.copy)

    model.fit(train, valid=None, steps=steps, batch_size=BATCH, optimizer="adam", lr=a.rate, schedule="cosine",
              callback=look, verbose=False, settings=ef.Settings(warmup=0, clip=CLIP, average=0))
    last = model.log_prob(test)
    model.params[:] = looks.values
    return looks, last, model.log_prob(test)


def nflows(flow, train, valid, test, seed, steps, a):
    import copy

    import torch
    from nflows import distributions, flows
    from nflows import transforms as T
    from nflows.nn.nets import ResidualNet
    torch.set_num_threads(a.threads)
    torch.manual_seed(seed)
    train, valid, test = map(torch.from_numpy, (train, valid, test))
    dims, layers = train.shape[1], []
    second = (torch.arange(dims) >= dims // 2).int()  # evenflow's halves
    for i in range(COUPLINGS):
        if i > 0:
            layers += [T.RandomPermutation(dims), T.LULinear(dims)]
        layers.append(T.PiecewiseRationalQuadraticCouplingTransform(
            second if i % 2 == 0 else 1 - second, lambda n, out: ResidualNet(n, out, WIDTH, num_blocks=BLOCKS),
            num_bins=BINS, tails="linear", tail_bound=BOUND))
    model = flows.Flow(T.CompositeTransform(layers), distributions.StandardNormal([dims]))
    optimizer = torch.optim.Adam(model.parameters(), a.rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    looks, step = Looks(), 0
    while step < steps:
        for rows in torch.randperm(len(train)).split(BATCH)[:steps - step]:
            optimizer.zero_grad()
            (-model.log_prob(train[rows]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            step += 1
            if step % a.every == 0 or step == steps:
                with torch.no_grad():
                    looks.look(step, model.log_prob(valid).mean().item(), lambda: copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        last = model.log_prob(test).numpy()
        model.load_state_dict(looks.values)
        return looks, last, model.log_prob(test).numpy()


def one(flow, name, seed, steps, a):
    *parts, scale = table(name, a.data)
    looks, *rows = (nflows if flow == "nflows" else evenflow)(flow, *parts, seed, steps, a)
    run = dict(steps=steps, best_step=looks.step, seconds=round(looks.seconds(steps, a.every), 2))
    return run, np.float64(rows) - scale


def measure(a):
    """Runs what the file doesn't hold. Log-likelihoods of the rows lie beside it, to be compared row by row."""
    import machine  # and with it evenflow, which is not to be in nflows' processes
    os.makedirs(a.out, exist_ok=True)
    path, held = os.path.join(a.out, "fidelity.json"), load(a)
    settings = dict(steps=a.steps, rate=a.rate, every=a.every, threads=a.threads)
    if held["settings"] not in ({}, settings):
        raise SystemExit(f"{path} has other settings: {held['settings']}")
    versions = {library: version(library) for library in ("torch", "nflows")}
    runs = held["runs"]
    held.update(settings=settings, machine=machine.describe(), versions=versions)
    for regime, seed, name, flow in itertools.product(("steps", "time"), range(a.seeds), a.sets, FLOWS):
        key = dict(set=name, flow=flow, regime=regime, seed=seed)
        if (regime, flow) == ("time", "nflows") or find(runs, **key):
            continue
        steps, rows_of = a.steps, os.path.join(a.out, f"{name} {seed} nflows.npy")
        if regime == "time":
            ours, theirs = (find(runs, **{**key, "regime": "steps", "flow": f})[0] for f in (flow, "nflows"))
            steps = max(a.every, round(ours["steps"] * theirs["seconds"] / ours["seconds"]))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            run, rows = pool.apply(one, (flow, name, seed, steps, a))
        run.update(last=float(rows[0].mean()), best=float(rows[1].mean()))
        if flow == "nflows":
            np.save(rows_of, rows)
        else:
            run["rows_error"] = ((rows - np.load(rows_of)).std(1) / rows.shape[1]**0.5).tolist()
        runs.append({**key, **run})
        print(runs[-1], flush=True)
        with open(path + ".new", "w") as file:
            json.dump(held, file, indent=1)
        os.replace(path + ".new", path)


def load(a):
    path = os.path.join(a.out, "fidelity.json")
    if not os.path.exists(path):
        return {"settings": {}, "runs": []}
    with open(path) as file:
        return json.load(file)


def find(runs, **wanted):
    return [r for r in runs if all(r[k] == v for k, v in wanted.items())]


def told(values):
    """Mean and standard error over seeds."""
    error = f" ± {np.std(values, ddof=1) / len(values)**0.5:.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}" if values else "-"


def show(runs):
    for name in SETS:
        print("\n| " + " | ".join([name, *COLUMNS, "steps in its time", "of its time"]) + " |\n" + "| --- " * 6 + "|")
        of = {(r["flow"], r["regime"], r["seed"]): r for r in find(runs, set=name)}

        def row(title, values, *more):
            print("| " + " | ".join([title, *map(told, values), *more]) + " |")

        for flow in FLOWS:
            timed = "steps" if flow == "nflows" else "time"
            rows = [[r[what] for r in find(of.values(), flow=flow, regime=timed if regime == "time" else regime)]
                    for regime, what in COLUMNS.values()]
            long = [(r, of["nflows", "steps", r["seed"]]) for r in find(of.values(), flow=flow, regime=timed)]
            row(flow, rows, *([f"{np.mean([r['steps'] for r, _ in long]):.0f}",
                               f"{np.mean([r['seconds'] / n['seconds'] for r, n in long]):.2f}"] if long else "--"))
        pairs = [[(r, of["nflows", "steps", r["seed"]]) for r in
                  find(of.values(), flow="evenflow spline", regime=regime)] for regime, _ in COLUMNS.values()]
        row("evenflow spline - nflows", [[r[what] - n[what] for r, n in pair]
                                         for pair, (_, what) in zip(pairs, COLUMNS.values())], "", "")
        row("its standard error over rows", [[r["rows_error"][what == "best"] for r, _ in pair]
                                             for pair, (_, what) in zip(pairs, COLUMNS.values())], "", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder with the files of the tables")
    parser.add_argument("--out", required=True, help="folder for fidelity.json")
    parser.add_argument("--sets", type=lambda s: s.split(","), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=5e-4, help="Adam's, at first; of both")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks at the validation rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print what the file holds, run nothing")
    a = parser.parse_args()
    if not a.show:
        measure(a)
    show(load(a)["runs"])


if __name__ == "__main__":
    main()
