"""Time of a training step, of log_prob and of sampling: evenflow beside plain torch, in turns, in one run.

usage: python steps.py [glow|table] [--rounds 5 --threads 2 --out results/steps_glow.json]
Every round starts one process a library; medians over the rounds' medians, and the median of the rounds' ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("work", choices=["glow", "table"])
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--library", choices=["evenflow", "torch"], help="time one library in this process")
parser.add_argument("--out")
a = parser.parse_args()

GLOW = dict(size=32, levels=3, steps=8, width=512, batch=16)
TABLE = dict(dims=2, couplings=8, hidden=(64, 64), batch=256)


def median_ms(call, least_seconds=2.0, least=5):
    call()
    call()
    times = []
    while sum(times) < least_seconds or len(times) < least:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def evenflow():
    import numpy as np

    import evenflow as ef
    rng = np.random.default_rng(0)
    if a.work == "glow":
        flow = ef.Glow((GLOW["size"], GLOW["size"], 3), levels=GLOW["levels"], steps=GLOW["steps"],
                       hidden=GLOW["width"], learn_top=False, threads=a.threads)
        x = rng.integers(0, 256, (GLOW["batch"], GLOW["size"], GLOW["size"], 3)).astype(np.uint8)
    else:
        flow = ef.RealNVP(TABLE["dims"], couplings=TABLE["couplings"], hidden=TABLE["hidden"], preprocess="none",
                          threads=a.threads)
        x = rng.standard_normal((TABLE["batch"], TABLE["dims"])).astype(np.float32)
    flow.init(x)
    opt = ef.Adam(flow, lr=1e-5)

    def step(budget=None):
        flow.zero_grad()
        flow.loss_and_grad(x, activation_budget=budget)
        opt.step()

    return {"step": median_ms(step), "step_rebuilding_everything": median_ms(lambda: step(0)),
            "log_prob": median_ms(lambda: flow.log_prob(x)), "sample": median_ms(lambda: flow.sample(len(x)))}


def torch_peer():
    import torch

    import torch_models
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.work == "glow":
        model = torch_models.Glow(3, GLOW["levels"], GLOW["steps"], GLOW["width"]).to(memory_format=torch.channels_last)
        x = torch.rand(GLOW["batch"], 3, GLOW["size"], GLOW["size"]) - 0.5
        sample = lambda: model.sample(len(x), GLOW["size"])
    else:
        model = torch_models.RealNVP(TABLE["dims"], TABLE["couplings"], TABLE["hidden"])
        x = torch.randn(TABLE["batch"], TABLE["dims"])
        sample = lambda: model.sample(len(x))
    opt = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step():
        opt.zero_grad()
        (-model.log_prob(x).mean()).backward()
        opt.step()

    def log_prob():
        with torch.no_grad():
            model.log_prob(x)

    return {"step": median_ms(step), "log_prob": median_ms(log_prob), "sample": median_ms(sample)}


if a.library:
    print(json.dumps(evenflow() if a.library == "evenflow" else torch_peer()))
    sys.exit()

from machine import describe  # noqa: E402

rounds = {"evenflow": [], "torch": []}
for _ in range(a.rounds):
    for library in rounds:
        command = [sys.executable, __file__, a.work, "--library", library, "--threads", str(a.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
        rounds[library].append(json.loads(done.stdout))
import torch  # noqa: E402

result = {"work": a.work, "sizes": GLOW if a.work == "glow" else TABLE, "threads": a.threads, "rounds": a.rounds,
          "machine": dict(describe(), torch=torch.__version__), "load_average": os.getloadavg(),
          "median_ms": {lib: {k: round(statistics.median(r[k] for r in rs), 4) for k in rs[0]}
                        for lib, rs in rounds.items()},
          "torch_over_evenflow": {k: round(statistics.median(t[k] / e[k] for e, t in zip(rounds["evenflow"],
                                                                                         rounds["torch"])), 3)
                                  for k in rounds["torch"][0]}}
print(json.dumps(result, indent=1))
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
