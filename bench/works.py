"""What is measured: models, sizes, calls, libraries. Imports nothing that an environment may lack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """One model, run by several libraries in turns. Ratios are to the first library."""

    title: str
    model: str
    sizes: dict[str, Any]
    smoke: dict[str, Any]
    """What --smoke changes in `sizes`."""
    libraries: tuple[str, ...]
    calls: tuple[str, ...] = ("step", "log_prob", "sample")
    slow: tuple[str, ...] = ()
    """Libraries that --quick leaves out."""
    best_of_threads: bool = False
    """Peers also run on one thread, and the better counts: on small batches a second one may cost time."""


GLOW = dict(size=32, levels=3, steps=8, width=512, batch=16)
SMALL_GLOW = dict(size=16, levels=2, steps=2, width=32, batch=4)
GLOW_PEERS = ("torch", "torch-compile", "normflows", "nflows", "FrEIA")
LIMITS = ("peak", "products")
"""Of the machine, in turns with the libraries: see limits.py."""

WORKS = {
    "glow": Work("Glow 32x32x3, L=3, K=8, width 512, batch 16", "glow", GLOW, SMALL_GLOW,
                 ("evenflow", *GLOW_PEERS, *LIMITS), ("step", "step_rebuilding", "log_prob", "sample")),
    "glow_bf16": Work("Glow as above, bfloat16 inside the coupling nets", "glow", GLOW, SMALL_GLOW,
                      ("evenflow-bf16", "evenflow", *GLOW_PEERS, "torch-autocast", "torch-compile-autocast",
                       "peak-bf16", *LIMITS),
                      slow=("torch-autocast", "torch-compile-autocast")),
    "table": Work("Real NVP, D=2, 8 couplings x (64, 64), batch 256", "real_nvp",
                  dict(dims=2, couplings=8, hidden=(64, 64), batch=256),
                  dict(couplings=2, hidden=(8, 8), batch=16),
                  ("evenflow", "jax", "flowjax", "torch", "torch-compile", "normflows", "nflows", "zuko",
                   "FrEIA"),
                  ("step", "log_prob", "sample", "sample_100000", "log_prob_1"), best_of_threads=True),
    "table_wide": Work("Real NVP, D=64, 8 couplings x (512, 512), batch 1024", "real_nvp",
                       dict(dims=64, couplings=8, hidden=(512, 512), batch=1024),
                       dict(dims=8, couplings=2, hidden=(16, 16), batch=32),
                       ("evenflow", "evenflow-bf16", "torch", "torch-compile", "jax", "peak-bf16", *LIMITS)),
    "nice": Work("NICE, 784 dimensions, 4 couplings x 5 layers of 1000, batch 200", "nice",
                 dict(dims=784, couplings=4, hidden=(1000,) * 5, batch=200),
                 dict(dims=16, couplings=2, hidden=(16, 16), batch=8),
                 ("evenflow", "torch", "torch-compile", "jax", *LIMITS)),
}

OURS_ON_GPUS = ("evenflow", "evenflow-high")
"""In float32: "high" is the one to compare with peers' TF32."""
GPU_PEERS = ("torch", "torch-autocast", "torch-graph", "torch-graph-autocast", "normflows", "normflows-autocast",
             "torch-compile", "torch-compile-autocast", "torch-compile-graph", "torch-compile-graph-autocast")
"""The compiled ones last: they take minutes, and what was measured before is kept."""


def _gpu_glow(size: int, levels: int, batch: int) -> Work:
    return Work(f"Glow {size}x{size}x3, L={levels}, K=32, width 512, batch {batch}", "glow",
                dict(size=size, levels=levels, steps=32, width=512, batch=batch), SMALL_GLOW,
                ("evenflow-bf16", *OURS_ON_GPUS, *GPU_PEERS), ("step", "log_prob", "sample"))


WORKS_ON_GPUS = {
    "gpu_table": Work("Real NVP, D=2, 8 couplings x (64, 64), batch 256", "real_nvp",
                      dict(dims=2, couplings=8, hidden=(64, 64), batch=256),
                      dict(couplings=2, hidden=(8, 8), batch=16), (*OURS_ON_GPUS, *GPU_PEERS),
                      ("step", "log_prob", "sample_1000000")),
    "gpu_table_64": Work("Real NVP, D=64, 8 couplings x (128, 128), batch 256", "real_nvp",
                         dict(dims=64, couplings=8, hidden=(128, 128), batch=256),
                         dict(dims=8, couplings=2, hidden=(8, 8), batch=16), (*OURS_ON_GPUS, *GPU_PEERS),
                         ("step", "log_prob", "log_prob_1")),
    **{f"gpu_glow_{n}": _gpu_glow(32, 3, n) for n in (16, 64, 256, 512)},
    **{f"gpu_glow256_{n}": _gpu_glow(256, 6, n) for n in (4, 16, 64)},
    **{f"gpu_glow_depth_{k}": Work(f"Glow 32x32x3, L=3, K={k}, width 512, batch 64", "glow",
                                   dict(size=32, levels=3, steps=k, width=512, batch=64), SMALL_GLOW,
                                   ("evenflow", "torch"), ("step_rebuilding", "step"))
       for k in (4, 8, 16, 32)},
}
"""--device cuda runs these: tables first, which take the least time, then batches until peers run out of memory."""
ALL_WORKS = {**WORKS, **WORKS_ON_GPUS}

CANNOT = {
    ("glow", "FrEIA"): "1x1 convolutions are fixed rotations, not learned; split parts are standard normal",
    ("glow", "nflows"): "split parts are standard normal, without a learned prior",
    ("glow", "normflows"): "split parts have a Gaussian that does not depend on the other half",
    ("real_nvp", "flowjax"): "scales are softplus, not exp",
    ("real_nvp", "nflows"): "masks alternate columns; scales are a sigmoid, not exp",
    ("real_nvp", "zuko"): "masks alternate columns",
}
"""Where a library can't express our model, and what it has instead."""

SCALING = ([dict(batch=n) for n in (4, 8, 16, 32)] + [dict(width=n) for n in (64, 128, 256, 512)]
           + [dict(steps=n) for n in (4, 8, 16)] + [dict(size=n) for n in (16, 32, 64)] + [dict(threads=1)])
"""Changes to GLOW, one at a time."""


def convolutions(sizes: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """(pixels, cin, cout, kernel) of every product in one pass of a Glow, couplings, 1x1 and split priors."""
    found = []
    side, channels = sizes["size"], 3
    for level in range(sizes["levels"]):
        side, channels = side // 2, 4 * channels
        pixels, width = sizes["batch"] * side * side, sizes["width"]
        found += sizes["steps"] * [(pixels, channels, channels, 1), (pixels, channels // 2, width, 3),
                                   (pixels, width, width, 1), (pixels, width, channels, 3)]
        if level + 1 < sizes["levels"]:
            channels //= 2
            found.append((pixels, channels, 2 * channels, 3))
    return found


def dense(model: str, sizes: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(rows, in, out) of every product in one pass of a table's model."""
    found = []
    for i in range(sizes["couplings"]):
        large, small = (sizes["dims"] + 1) // 2, sizes["dims"] // 2
        passed, changed = (large, small) if i % 2 == 0 else (small, large)
        widths = [passed, *sizes["hidden"], changed * (1 if model == "nice" else 2)]
        found += [(sizes["batch"], a, b) for a, b in zip(widths, widths[1:])]
    return found


def products(model: str, sizes: dict[str, Any]) -> list[tuple[int, int, int, int, int, int, bool]]:
    """(n, h, w, cin, cout, kernel, edge) of every product in one pass, as `conv_seconds` takes them."""
    if model != "glow":
        return [(rows, 1, 1, a, b, 1, False) for rows, a, b in dense(model, sizes)]
    found = []
    for pixels, cin, cout, kernel in convolutions(sizes):
        side = round((pixels / sizes["batch"]) ** 0.5)
        found.append((sizes["batch"], side, side, cin, cout, kernel, kernel == 3))
    return found


def operations(model: str, sizes: dict[str, Any]) -> dict[str, float]:
    """Operations of the products in each call, two a multiply-add: a step has three passes, log_prob one."""
    if model == "glow":
        forward = 2 * sum(pixels * kernel**2 * a * b for pixels, a, b, kernel in convolutions(sizes))
    else:
        forward = 2 * sum(rows * a * b for rows, a, b in dense(model, sizes))
    return {"step": 3 * forward, "log_prob": forward, "sample": forward}
