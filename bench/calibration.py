"""Calibration beside sbi's: are ranks and curves the same on the same draws, and is the verdict right?

    python bench/calibration.py [--seeds 20]

The density is a standard normal one, in float32, of a flow whose couplings are the identity. Rows are drawn from it,
from one that is 1.3 times as wide, and from one that is shifted by 0.3. Needs sbi.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sbi.diagnostics.sbc import _run_sbc
from sbi.diagnostics.tarp import _run_tarp

import evenflow as ef

N, D, DRAWS = 1000, 2, 1000
CASES = {"right": lambda x: x, "too narrow": lambda x: 1.3 * x, "shifted": lambda x: x + 0.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    flow = ef.CouplingFlow(D, context=1, law="affine", net="mlp", base="gaussian", preprocess="none",
                           permutation="none")
    rng = np.random.default_rng(0)
    flow.init(rng.standard_normal((99, D)), context=rng.standard_normal((99, 1)))
    for name, change in CASES.items():
        right, ranks, curve, ours, theirs = 0, 0, 0.0, [], []
        for seed in range(seeds):
            x = change(np.random.default_rng(seed + 1).standard_normal((N, D))).astype(np.float32)
            context, start = np.zeros((N, 1)), time.perf_counter()
            found = ef.calibration(flow, x, context, draws=DRAWS, seed=seed)
            ours.append(time.perf_counter() - start)
            right += found.ok == (name == "right")
            start = time.perf_counter()
            drawn = flow.sample(DRAWS, context=context, per_context=True, seed=seed)
            draws, rows = torch.from_numpy(np.ascontiguousarray(drawn.transpose(1, 0, 2))), torch.from_numpy(x)
            wanted = _run_sbc(rows, rows, draws, show_progress_bar=False).numpy()
            scale = rows.double().std(0, unbiased=False)
            points = (torch.from_numpy(found.references) / scale, draws.double() / scale, rows.double() / scale)
            share, level = (one.numpy() for one in _run_tarp(points[1], points[2], points[0]))
            theirs.append(time.perf_counter() - start)
            ranks += int((wanted != found.ranks).sum())
            own = np.array([np.mean(found.tarp < edge) for edge in level[1:-1].astype(np.float32)])
            curve = max(curve, float(np.abs(own - share[1:-1]).max()))
        print(f"{name:12} verdict right {right} of {seeds}; ranks that differ from sbi's {ranks} of {seeds * N * D}; "
              f"largest difference of the TARP curves {curve:.4f}; seconds, with the draws: {np.median(ours):.2f}, sbi "
              f"{np.median(theirs):.2f}", flush=True)


if __name__ == "__main__":
    main()
