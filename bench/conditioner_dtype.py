"""Does bfloat16 in the coupling nets cost likelihood? Glow on 32x32 photographs, trained twice from one start.

usage: python conditioner_dtype.py DATA_FOLDER [--dtype float32|bfloat16] [--seeds 0 --steps 1000 --threads 2 --out FILE]
Without --dtype both are trained, one after the other, from each seed's start, data order and noise. The rate falls
to zero in the second half, or what is compared would be where the noise of the last steps left each. Bits a dimension of
the held-out images, by the trained dtype and with the same parameters by the other, and whether decode(encode(x)) gives
the images back.
"""

import argparse
import json
import os
import time

import numpy as np

import evenflow as ef
from machine import describe

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--dtype", choices=["float32", "bfloat16"])
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out")
a = parser.parse_args()

SETTINGS = dict(levels=3, steps=8, hidden=512)
BATCH, LR, WARMUP, CLIP = 16, 5e-4, 50, 100.0


def glow(dtype, images, seed):
    return ef.Glow(images.shape[1:], conditioner_dtype=dtype, threads=a.threads, seed=seed, **SETTINGS)


def train(dtype, seed, images, held_out):
    flow = glow(dtype, images, seed)
    order = np.random.default_rng(seed)
    flow.init(images[order.permutation(len(images))[:256]])
    optimizer = ef.Adamax(flow, lr=LR)
    curve, fallbacks, drift, begun = [], 0, 0.0, time.perf_counter()
    rows = order.permutation(len(images))
    for step in range(a.steps):
        if (step + 1) * BATCH > len(rows):
            rows = np.concatenate([rows, order.permutation(len(images))])
        optimizer.lr = LR * min(1.0, (step + 1) / WARMUP, 2 * (1 - step / a.steps))
        loss = flow.train_step(images[np.sort(rows[step * BATCH:(step + 1) * BATCH])], optimizer,
                               seed=seed * a.steps + step, max_norm=CLIP)
        curve.append(loss / (flow.dims * np.log(2)))
        fallbacks += flow.last_step["fallback"]
        drift = max(drift, flow.last_step["drift"])
        if step % 100 == 99:
            print(f"{dtype}: step {step + 1}, {np.mean(curve[-100:]):.4f}", flush=True)
    seconds = time.perf_counter() - begun
    bits = flow.bits_per_dim(held_out, seed=0)
    other = glow("float32" if dtype == "bfloat16" else "bfloat16", images, seed)
    other.init(images[:BATCH])
    other.params[:] = flow.params
    error = np.abs(flow.decode(flow.encode(held_out)) - held_out).reshape(len(held_out), -1).max(1)
    return {"seed": seed, "held_out_bits_per_dim": bits.mean(),
            "held_out_by_other_dtype": other.bits_per_dim(held_out, seed=0).mean(),
            "standard_error": bits.std() / len(bits) ** 0.5,
            "seconds": seconds, "threads": a.threads, "fallbacks": fallbacks, "largest_drift": drift,
            "images_decoded_exactly": int((error < 0.5).sum()), "images": len(held_out),
            "worst_level_error": float(error.max()), "bits_of_worst": float(bits[error.argmax()]),
            "curve_of_100s": [round(float(np.mean(curve[i:i + 100])), 4) for i in range(0, a.steps, 100)]}


data = np.load(os.path.join(a.data, "photos32.npz"))
result = {"settings": SETTINGS, "batch": BATCH, "lr": LR, "warmup": WARMUP, "optimizer": f"adamax, norm clipped at {CLIP:g}, rate to zero over the second half",
          "steps": a.steps, "machine": describe()}
for dtype in [a.dtype] if a.dtype else ["float32", "bfloat16"]:
    result[dtype] = [train(dtype, seed, data["train"], data["test"]) for seed in a.seeds]
    print(dtype, *result[dtype], sep="\n", flush=True)
if a.out:
    with open(a.out, "w") as file:
        json.dump(result, file, indent=1)
