"""Real NVP on tables against a full-covariance Gaussian and a Gaussian mixture, on the same split.

usage: python tables.py NAME FILE.npy [--epochs 60 --out results/tables_NAME.json]
Held-out log-likelihoods are nats a row, in the columns' own units. A tenth of the rows is held out, a tenth
chooses the epoch; the baselines are fitted to both other parts.
"""

import argparse
import json
import time

import numpy as np
from sklearn.mixture import GaussianMixture

import evenflow as ef
from machine import describe

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("file")
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--couplings", type=int, default=12)
parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
parser.add_argument("--permutation", default="lu")
parser.add_argument("--components", type=int, default=20)
parser.add_argument("--out")
a = parser.parse_args()

x = np.load(a.file).astype(np.float64)
x = x[np.isfinite(x).all(1)]
x = x[np.random.default_rng(0).permutation(len(x))]
tenth = len(x) // 10
test, valid, train = x[:tenth], x[tenth:2 * tenth], x[2 * tenth:]
fitted = x[tenth:]

# The baselines work in standardised columns, for conditioning; the density is put back into the data's units.
mean, std = fitted.mean(0), fitted.std(0)
result = {"data": a.name, "rows": len(x), "columns": x.shape[1], "held_out_rows": len(test), "machine": describe(),
          "settings": vars(a)}
for label, components in (("gaussian", 1), (f"mixture_{a.components}", a.components)):
    start = time.perf_counter()
    mixture = GaussianMixture(components, random_state=0, max_iter=300, reg_covar=1e-6).fit((fitted - mean) / std)
    nats = mixture.score_samples((test - mean) / std) - np.log(std).sum()
    result[label] = {"held_out_nats": nats.mean(), "standard_error": nats.std() / len(nats) ** 0.5,
                     "seconds": time.perf_counter() - start}
    print(label, result[label], flush=True)

start = time.perf_counter()
flow = ef.CouplingFlow(x.shape[1], couplings=a.couplings, hidden=tuple(a.hidden), permutation=a.permutation, seed=0)
flow.init(train.astype(np.float32))
history = flow.fit(train.astype(np.float32), valid=valid.astype(np.float32), epochs=a.epochs, batch_size=512,
                   optimizer="adam", lr=1e-3, warmup=100, lr_decay=0.9997, lr_floor=2e-5, clip=20.0, average=0.999,
                   patience=15, seed=0)
nats = flow.log_prob(test.astype(np.float32))
result["real_nvp"] = {"held_out_nats": nats.mean(), "standard_error": nats.std() / len(nats) ** 0.5,
                      "seconds": time.perf_counter() - start, "parameters": flow.num_params,
                      "valid_nats": [-h["valid_loss"] for h in history if "valid_loss" in h]}
print("real_nvp", {k: v for k, v in result["real_nvp"].items() if k != "valid_nats"}, flush=True)
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
