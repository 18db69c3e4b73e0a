"""Training curves of evenflow and of the torch oracle: same model, start, data order and noise.

usage: python training_curves.py RUN DATA_FOLDER [--steps N --out results/curves_RUN.json]
RUN: nice_mnist (the paper's net, 10 epochs) | real_nvp_mnist | glow_mnist | glow_photos32
Both train in float32 with the rules of evenflow's optimisers; losses are bits a dimension of each batch.
"""

import argparse
import gzip
import json
import math
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "python"))
import evenflow as ef
import oracle
from machine import describe

parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("data")
parser.add_argument("--steps", type=int)
parser.add_argument("--oracle-steps", type=int, help="steps of the oracle; all by default")
parser.add_argument("--out")
a = parser.parse_args()


def mnist():
    def images(name):
        with gzip.open(os.path.join(a.data, "mnist", name)) as file:
            return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return images("train-images-idx3-ubyte.gz"), images("t10k-images-idx3-ubyte.gz")


def photos():
    data = np.load(os.path.join(a.data, "photos32.npz"))
    return data["train"], data["test"]


ADAM = dict(beta1=0.9, beta2=0.999, eps=1e-8)
RUNS = {
    "nice_mnist": dict(data=mnist, model=ef.NICE, forward=oracle.nice.forward, steps=3000, batch=200, rule="adam",
                       lr=1e-3, options=dict(ADAM, beta2=0.99, eps=1e-4), warmup=0,
                       config=dict(couplings=4, hidden=(1000,) * 5, prior="logistic", order="tile", preprocess="none",
                                   bits=8)),
    "real_nvp_mnist": dict(data=mnist, model=ef.RealNVP, forward=oracle.real_nvp.image_forward, steps=200, batch=32,
                           rule="adam", lr=1e-3, options=ADAM, warmup=20,
                           config=dict(scales=2, base_dim=16, residual_blocks=2, bottleneck=False, skip=True,
                                       batch_norm=True, weight_norm=True, coupling="affine", recursion=2, bits=8)),
    "glow_mnist": dict(data=mnist, model=ef.Glow, forward=oracle.glow.forward, steps=400, batch=64, rule="adamax",
                       lr=5e-4, options=ADAM, warmup=50,
                       config=dict(levels=2, steps=4, hidden=128, coupling="affine", permutation="lu", learn_top=True,
                                   classes=0, class_weight=0.0, bits=8)),
    "glow_photos32": dict(data=photos, model=ef.Glow, forward=oracle.glow.forward, steps=400, batch=32, rule="adamax",
                          lr=5e-4, options=ADAM, warmup=50,
                          config=dict(levels=3, steps=4, hidden=128, coupling="affine", permutation="lu",
                                      learn_top=True, classes=0, class_weight=0.0, bits=8)),
}


def batches(train, batch, steps):
    """Yields (batch, seed of its noise): every epoch in a new order."""
    step, epoch = 0, 0
    while True:
        order = np.random.default_rng((0, epoch)).permutation(len(train))
        for begin in range(0, len(train) - batch + 1, batch):
            if step == steps:
                return
            yield train[np.sort(order[begin:begin + batch])], step
            step += 1
        epoch += 1


run = RUNS[a.run]
steps = a.steps or run["steps"]
train, test = run["data"]()
shape = train.shape[1:]
bits = math.log(2) * train[0].size
rate = lambda step: run["lr"] * min(1.0, (step + 1) / run["warmup"] if run["warmup"] else 1.0)

flow = run["model"](shape, seed=0, **run["config"])
first, _ = next(batches(train, 256, 1))
flow.init(first)
start_values = {name: torch.from_numpy(v.copy()) for name, v in flow.named_parameters().items()}
names = list(flow.named_grads())

opt = {"adam": ef.Adam, "adamax": ef.Adamax}[run["rule"]](
    flow, lr=run["lr"], **run["options"])
ours, drift, fallbacks = [], 0.0, 0
for x, seed in batches(train, run["batch"], steps):
    flow.zero_grad()
    opt.lr = rate(len(ours))
    ours.append(flow.loss_and_grad(x, seed=seed) / bits)
    drift, fallbacks = max(drift, flow.last_step["drift"]), fallbacks + flow.last_step["fallback"]
    opt.step()
held_out = flow.bits_per_dim(test[:2000], seed=0)
print(f"evenflow: last 20 batches {np.mean(ours[-20:]):.4f}, held out {held_out.mean():.4f}",
      flush=True)
roundtrip = np.abs(np.rint(flow.decode(flow.encode(test[:500]))) - test[:500]).max()

theirs = []
oracle_steps = steps if a.oracle_steps is None else a.oracle_steps
if oracle_steps:
    params = {name: v.clone().requires_grad_(name in names) for name, v in start_values.items()}
    trained = {name: params[name] for name in names}
    torch_opt = oracle.optim.Optimizer(trained, run["rule"], lr=run["lr"], **run["options"])
    for x, seed in batches(train, run["batch"], oracle_steps):
        levels = flow._block("training", x, 0, len(x), seed)
        z, logdet = run["forward"](params, torch.from_numpy(levels), run["config"], training=True)
        loss = oracle.mean_nll(z, logdet, run["config"].get("prior", "gaussian"))
        grads = torch.autograd.grad(loss, list(trained.values()))
        torch_opt.settings["lr"] = rate(len(theirs))
        torch_opt.step(dict(zip(trained, grads)))
        theirs.append(loss.item() / bits)
    print(f"oracle: last 20 batches {np.mean(theirs[-20:]):.4f}", flush=True)

result = {"run": a.run, "machine": dict(describe(), torch=torch.__version__), "steps": steps, "oracle_steps": oracle_steps, "batch": run["batch"],
          "config": run["config"], "rule": run["rule"], "lr": run["lr"], "options": run["options"],
          "warmup_steps": run["warmup"],
          "held_out_bits_per_dim": held_out.mean(), "held_out_standard_error": held_out.std() / len(held_out) ** 0.5,
          "finite": bool(np.isfinite(ours).all()), "largest_drift": drift, "fallbacks": fallbacks,
          "decode_encode_worst_level": float(roundtrip)}
if theirs:
    gap = np.abs(np.array(ours[:oracle_steps]) - np.array(theirs))
    result["gap"] = {"first_10_steps_max": gap[:10].max(), "first_100_steps_max": gap[:100].max(), "max": gap.max(),
                     "mean_of_last_fifth": [np.mean(c[oracle_steps * 4 // 5:oracle_steps]) for c in (ours, theirs)],
                     "batch_to_batch_std_of_last_fifth": np.std(ours[oracle_steps * 4 // 5:oracle_steps])}
    print(result["gap"])
every = max(1, steps // 100)
result["curve_every"] = every
result["curve_evenflow"] = [round(float(v), 5) for v in ours[::every]]
result["curve_oracle"] = [round(float(v), 5) for v in theirs[::every]]
print({k: v for k, v in result.items() if not k.startswith("curve")})
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
