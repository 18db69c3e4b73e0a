"""A Glow trained for the same time by evenflow and by torch on a GPU: same model, start, batches and noise.

usage: python gpu_training.py photos32.npz [--minutes 20 --out results/gpu_training.json --pictures FOLDER]
The file has uint8 images `train` and `test` (N, H, W, 3). torch is the tests' oracle, eager, with TF32. Looking at
held-out data does not count as time. Both sets of parameters are scored and sampled by evenflow, each after its
training; an error there is written with the results, and is the exit status.
"""

import argparse
import json
import math
import os
import sys
import time

import numpy as np
import torch

import evenflow as ef
from evenflow import plot
from machine import describe, gpu_name

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "python"))
import oracle  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--minutes", type=float, default=20.0)
parser.add_argument("--device", default="cuda")
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--steps", type=int, default=32, help="K, of the model")
parser.add_argument("--hidden", type=int, default=512)
parser.add_argument("--lr", type=float, default=5e-4)
parser.add_argument("--warmup", type=int, default=200, help="steps")
parser.add_argument("--held-out", type=int, default=1000, help="images")
parser.add_argument("--out")
parser.add_argument("--pictures")
a = parser.parse_args()


def batches(train):
    """(batch, seed of its noise), for ever; every epoch in a new order."""
    step, epoch = 0, 0
    while True:
        order = np.random.default_rng((0, epoch)).permutation(len(train))
        for begin in range(0, len(train) - a.batch + 1, a.batch):
            yield train[np.sort(order[begin:begin + a.batch])], step
            step += 1
        epoch += 1


def train_for(minutes, data, step):
    """[seconds, bits a dimension] of every step(batch, seed, rate), until the time is over."""
    curve, start = [], time.perf_counter()
    for x, seed in batches(data):
        nats = step(x, seed, a.lr * min(1.0, (seed + 1) / a.warmup))
        curve.append([time.perf_counter() - start, nats / (math.log(2) * x[0].size)])
        if curve[-1][0] > 60 * minutes:
            return curve


def new_flow(shape, **options):
    return ef.Glow(shape, levels=3, steps=a.steps, hidden=a.hidden, seed=0, device=a.device, **options)


def write(results):
    if a.out:
        head = {"machine": describe(), "gpu": gpu_name() if a.device == "cuda" else None, "minutes": a.minutes,
                "batch": a.batch, "steps_a_level": a.steps, "hidden": a.hidden,
                "torch_version": torch.__version__}
        with open(a.out, "w") as file:
            json.dump({**head, **results}, file, indent=1)


def report(results, name, flow, test, curve):
    """What was reached, and a picture of samples. Where some are not finite, the other trains all the same."""
    result = results[name] = {"steps": len(curve), "curve": [
        [round(v, 4) for v in point] for point in curve[::max(1, len(curve) // 200)]]}
    write(results)
    try:
        held_out = flow.bits_per_dim(test[:a.held_out], seed=0)
        result["held_out_bits_per_dim"] = float(held_out.mean())
        result["held_out_standard_error"] = float(held_out.std() / len(held_out) ** 0.5)
        print(name, {k: v for k, v in result.items() if k != "curve"}, flush=True)
        write(results)
        if a.pictures:
            images = ef.to_uint8(flow.sample(64, temperature=0.7, seed=0))
            plot.save_grid(images, os.path.join(a.pictures, f"{name}.png"))
    except ef.Error as error:
        result["error"] = str(error)
        print(name, error, flush=True)
        write(results)


def main():
    images = np.load(a.data)
    train, test = images["train"], images["test"]
    if a.pictures:  # what lacks is to be found missing before the minutes are spent
        plot.writer(3)
        os.makedirs(a.pictures, exist_ok=True)
    if a.out:
        os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
    torch.zeros(1, device=a.device)
    flow = new_flow(train.shape[1:], conditioner_dtype="bfloat16")
    flow.init(train[:256])
    start = {name: v.copy() for name, v in flow.named_parameters().items()}
    optimizer = ef.Adam(flow, lr=a.lr)

    def our_step(x, seed, rate):
        optimizer.lr = rate
        return flow.train_step(x, optimizer, seed=seed)

    results = {}
    report(results, "evenflow", flow, test, train_for(a.minutes, train, our_step))

    torch.set_default_device(a.device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    other, trained = new_flow(train.shape[1:]), set(flow.named_grads())
    params = {name: torch.tensor(v).requires_grad_(name in trained) for name, v in start.items()}
    adam = torch.optim.Adam([v for v in params.values() if v.requires_grad], lr=a.lr, fused=True)

    def torch_step(x, seed, rate):
        levels = torch.tensor(flow._block("training", x, 0, len(x), seed))
        loss = oracle.glow.loss(params, levels, flow.config)[0]
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate
        adam.step()
        return loss.item()

    curve = train_for(a.minutes, train, torch_step)
    for name, v in other.named_parameters().items():
        v[...] = params[name].detach().cpu().numpy()
    report(results, "torch", other, test, curve)
    sys.exit(any("error" in result for result in results.values()))


if __name__ == "__main__":
    main()
