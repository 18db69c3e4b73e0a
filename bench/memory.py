"""Memory and gradients of a Glow training step with a zero activation budget, against depth.

usage: python memory.py [--image 32 --hidden 128 --batch 16 --out results/memory_depth.json]
One process a depth. Reported: the process's peak resident memory less what it held after its imports, and less 16 bytes
a parameter, that is parameters, gradients and two moments.
"""

import argparse
import json
import resource
import subprocess
import sys

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--image", type=int, default=32)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32])
parser.add_argument("--steps", type=int, help="measure one depth in this process")
parser.add_argument("--budget", default="0")
parser.add_argument("--out")
a = parser.parse_args()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure() -> dict:
    import evenflow as ef
    x = np.random.default_rng(0).integers(0, 256, (a.batch, a.image, a.image, 3)).astype(np.uint8)
    imported = resident()
    flow = ef.Glow((a.image, a.image, 3), levels=3, steps=a.steps, hidden=a.hidden, seed=0)
    flow.init(x)
    opt = ef.Adamax(flow, lr=1e-5)
    for _ in range(2):
        flow.zero_grad()
        flow.loss_and_grad(x, activation_budget=None if a.budget == "none" else int(a.budget))
        opt.step()
    with open("/proc/self/status") as file:  # unlike ru_maxrss, not inherited from the parent
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    states = 16 * flow.params.size
    return {"steps": a.steps, "drift": flow.last_step["drift"], "fallback": flow.last_step["fallback"],
            "parameters": flow.num_params, "states_mb": states / 1e6, "imported_mb": imported / 1e6,
            "peak_mb": peak / 1e6, "besides_mb": (peak - imported - states) / 1e6}

if a.steps:
    print(json.dumps(measure()))
    sys.exit()

from machine import describe  # noqa: E402

result = {"image": a.image, "hidden": a.hidden, "batch": a.batch, "machine": describe()}
for budget in ("0", "none"):
    rows = []
    for depth in a.depths:
        command = [sys.executable, __file__, "--image", str(a.image), "--hidden", str(a.hidden), "--batch",
                   str(a.batch), "--steps", str(depth), "--budget", budget]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(budget, rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    result["zero_budget" if budget == "0" else "default_budget"] = rows
    if budget == "0":
        result["growth"] = last["besides_mb"] / first["besides_mb"] - 1
        print("growth besides parameters, gradients and moments:", result["growth"])
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
