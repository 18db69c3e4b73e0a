"""What the usual settings of a training on a table are worth: held-out log-likelihoods with them, and without each.

usage: python defaults.py [FILE.npy ...] [--rows 1000 5000 --seeds 3 --out results/defaults.json]
Rows of known densities, and of the files. A tenth of the rows chooses the epoch, of 200 at most; numbers are nats a row
on 5,000 other rows. "usual": what `fit` takes where nothing is given. "he_normal": hidden layers begin with He's normal
weights and zero biases; "lr_1e-3"; "batch_256", with 100 steps of warm-up; "before": all three.
"""

import argparse
import json
import math
import os

import numpy as np

import evenflow as ef
from machine import describe

HELD_OUT = 5000


def gaussian(n, seed):
    """Ten columns whose covariance has eigenvalues from 1 to 0.01."""
    rng = np.random.default_rng(1)
    axes, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    scale = np.sqrt(np.geomspace(1, 0.01, 10))
    z = np.random.default_rng(seed).standard_normal((n, 10))
    truth = -0.5 * (z**2).sum(1) - np.log(scale).sum() - 5 * math.log(2 * math.pi)
    return z * scale @ axes.T, truth


def student(n, seed):
    """Student's t with two degrees of freedom in four dimensions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4)) / np.sqrt(rng.chisquare(2, n) / 2)[:, None]
    constant = math.lgamma(3) - math.lgamma(1) - 2 * math.log(2 * math.pi)
    return x, constant - 3 * np.log1p((x**2).sum(1) / 2)


def moons(n, seed):
    return ef.data.two_moons(n, seed=seed)[0], None


def of_file(path):
    x = np.load(path).astype(np.float64)
    x = x[np.isfinite(x).all(1)]
    return lambda n, seed: (x[np.random.default_rng(seed).permutation(len(x))[:n]], None)


def he_normal(flow, seed):
    """He's normal weights and zero biases in the hidden layers."""
    rng = np.random.default_rng(seed)
    for name, value in flow.named_parameters().items():
        if ".dense" in name and ".dense2." not in name:
            he = math.sqrt(2 / value.shape[0]) if name.endswith("weight") else 0
            value[...] = he * rng.standard_normal(value.shape)


def held_out_nats(make, rows, seed, he=False, **settings):
    """(nats a row on HELD_OUT rows, those of the truth if it is known, epochs)."""
    x, truth = make(rows + HELD_OUT, seed)
    train, valid, test = np.split(x, [rows - rows // 10, rows])
    flow = ef.CouplingFlow(x.shape[1], couplings=8, hidden=(64, 64), mask="odd-even", base="logistic", seed=seed)
    flow.init(train)
    if he:
        he_normal(flow, seed)
    history = flow.fit(train, valid=valid, epochs=200, patience=20, on_nonfinite="rollback", seed=seed, **settings)
    return flow.log_prob(test).mean(), None if truth is None else truth[rows:].mean(), len(history)


BATCH = {"batch_size": 256, "warmup": 100}
VARIANTS = {"usual": {}, "he_normal": {"he": True}, "lr_1e-3": {"lr": 1e-3}, "batch_256": BATCH,
            "before": {"he": True, "lr": 1e-3, **BATCH}}

parser = argparse.ArgumentParser()
parser.add_argument("files", nargs="*", metavar="FILE.npy")
parser.add_argument("--rows", type=int, nargs="+", default=[1000, 5000])
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--out")
a = parser.parse_args()

data = {"two_moons": moons, "gaussian_10d": gaussian, "student_4d": student}
data.update({os.path.basename(path).rsplit(".", 1)[0]: of_file(path) for path in a.files})
result = {"machine": describe(), "seeds": a.seeds, "held_out_rows": HELD_OUT, "nats": {}}
for name, make in data.items():
    for rows in a.rows:
        found = result["nats"][f"{name}, {rows} rows"] = {}
        for variant, settings in VARIANTS.items():
            scores = [held_out_nats(make, rows, seed, **settings) for seed in range(a.seeds)]
            found[variant] = [round(float(score), 4) for score, _, _ in scores]
            if scores[0][1] is not None:
                found["truth"] = [round(float(truth), 4) for _, truth, _ in scores]
            print(f"{name} {rows} {variant}: {found[variant]}, {[score[2] for score in scores]} epochs", flush=True)
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
