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
    """Libraries that --quick and --smoke leave out."""
    best_of_threads: bool = False
    """Peers also run on one thread, and the better counts: on small batches a second one may cost time."""


SMALL_GLOW = dict(size=16, levels=2, steps=2, width=32, batch=4)


def glow(libraries: tuple[str, ...], calls: tuple[str, ...] = ("step", "log_prob", "sample"), *, size: int = 32,
         levels: int = 3, steps: int = 8, width: int = 512, batch: int = 16, slow: tuple[str, ...] = ()) -> Work:
    title = f"Glow {size}x{size}x3, L={levels}, K={steps}, width {width}, batch {batch}"
    return Work(title, "glow", dict(size=size, levels=levels, steps=steps, width=width, batch=batch), SMALL_GLOW,
                libraries, calls, slow)


def table(dims: int, hidden: tuple[int, ...], batch: int, libraries: tuple[str, ...],
          calls: tuple[str, ...] = ("step", "log_prob", "sample"), best_of_threads: bool = False) -> Work:
    title = f"Real NVP, D={dims}, 8 couplings x {hidden}, batch {batch}"
    sizes = dict(law="affine", net="mlp", dims=dims, context=0, couplings=8, hidden=hidden, batch=batch)
    return Work(title, "real_nvp", sizes,
                dict(dims=min(dims, 8), couplings=2, hidden=(8, 8), batch=16), libraries, calls,
                best_of_threads=best_of_threads)


def spline(title: str, libraries: tuple[str, ...], **sizes: Any) -> Work:
    """Halves that pass and change in turn, and a Gaussian base."""
    small = dict(dims=3, couplings=2, hidden=(8, 8), bins=4, batch=16)
    return Work(title, "spline", dict(law="spline", net="residual", bound=4.0, **sizes), small, libraries,
                ("step", "log_prob", "sample_100000", "log_prob_1", "sample_1"), best_of_threads=True)


DEPTHS = (4, 8, 16, 32)
AUTOCAST = ("torch-autocast", "torch-compile-autocast")
GLOW_PEERS = ("torch", "torch-compile", "normflows", "nflows", "FrEIA")
WORKS = {
    "glow": glow(("evenflow", *GLOW_PEERS), ("step", "step_rebuilding", "log_prob", "sample")),
    "glow_bf16": glow(("evenflow-bf16", "evenflow", *GLOW_PEERS, *AUTOCAST), slow=AUTOCAST),
    "table": table(2, (64, 64), 256, ("evenflow", "jax", "flowjax", "torch", "torch-compile", "normflows", "nflows",
                                      "zuko", "FrEIA"),
                   ("step", "log_prob", "sample", "sample_100000", "log_prob_1"), best_of_threads=True),
    "table_wide": table(64, (512, 512), 1024, ("evenflow", "evenflow-bf16", "torch", "torch-compile", "jax")),
    "spline": spline("Spline flow, D=6, 10 couplings of 8 bins, residual nets 2 x 256, batch 512",
                     ("evenflow", "evenflow-bf16", "jax", "torch", "torch-compile", "nflows"),
                     dims=6, context=0, couplings=10, hidden=(256, 256), bins=8, batch=512),
    "spline_context": spline("Spline flow, D=5 given 10, 5 couplings of 10 bins, residual nets 2 x 50, batch 200",
                             ("evenflow", "jax", "torch", "torch-compile", "nflows"),
                             dims=5, context=10, couplings=5, hidden=(50, 50), bins=10, batch=200),
    "nice": Work("NICE, 784 dimensions, 4 couplings x 5 layers of 1000, batch 200", "nice",
                 dict(dims=784, couplings=4, hidden=(1000,) * 5, batch=200),
                 dict(dims=16, couplings=2, hidden=(16, 16), batch=8),
                 ("evenflow", "torch", "torch-compile", "jax")),
    **{f"glow_depth_{k}": glow(("evenflow",), ("step_rebuilding", "step"), steps=k, width=128, batch=64)
       for k in DEPTHS},
}

OURS_ON_GPUS = ("evenflow", "evenflow-high")
"""In float32: "high" is the one to compare with peers' TF32."""
GPU_PEERS = ("torch", "torch-autocast", "torch-graph", "torch-graph-autocast", "normflows", "normflows-autocast",
             "torch-compile", "torch-compile-autocast", "torch-compile-graph", "torch-compile-graph-autocast")
"""The compiled ones last: they take minutes, and what was measured before is kept."""
GPU_GLOWS = ("evenflow-bf16", *OURS_ON_GPUS, *GPU_PEERS)
WORKS_ON_GPUS = {
    "gpu_table": table(2, (64, 64), 256, (*OURS_ON_GPUS, *GPU_PEERS), ("step", "log_prob", "sample_1000000")),
    "gpu_table_64": table(64, (128, 128), 256, (*OURS_ON_GPUS, *GPU_PEERS), ("step", "log_prob", "log_prob_1")),
    **{f"gpu_glow_{n}": glow(GPU_GLOWS, steps=32, batch=n) for n in (16, 64, 256, 512)},
    **{f"gpu_glow256_{n}": glow(GPU_GLOWS, size=256, levels=6, steps=32, batch=n) for n in (4, 16, 64)},
    **{f"gpu_glow_depth_{k}": glow(("evenflow", "torch"), ("step_rebuilding", "step"), steps=k, batch=64)
       for k in DEPTHS},
}
"""--device cuda runs these: tables first, which take the least time, then batches until peers run out of memory."""
SWEEP = Work("Couplings of a shape that sweep.py draws", "coupling",
             dict(law="affine", net="mlp", dims=6, context=0, couplings=8, hidden=(100, 100), bins=8, bound=4.0,
                  batch=512), {}, ("evenflow", "evenflow-bf16", "jax", "torch-compile", "torch"), ("step", "log_prob"))
ALL_WORKS = {**WORKS, **WORKS_ON_GPUS, "sweep": SWEEP}

CANNOT = {
    ("glow", "FrEIA"): "1x1 convolutions are fixed rotations, not learned; split parts are standard normal",
    ("glow", "nflows"): "split parts are standard normal, without a learned prior",
    ("glow", "normflows"): "split parts have a Gaussian that does not depend on the other half",
    ("real_nvp", "flowjax"): "scales are softplus, not exp",
    ("real_nvp", "nflows"): "masks alternate columns; scales are a sigmoid, not exp",
    ("real_nvp", "zuko"): "masks alternate columns",
    ("spline", "nflows"): "masks alternate columns",
}
"""Where a library can't express our model, and what it has instead."""


def products(model: str, sizes: dict[str, Any]) -> list[tuple[int, int, int, int, int, int, bool]]:
    """(n, h, w, cin, cout, kernel, edge) of every product in one pass: of nets, 1x1 convolutions, split priors."""
    batch, found = sizes["batch"], []
    if model == "glow":
        side, channels, width = sizes["size"], 3, sizes["width"]
        for level in range(sizes["levels"]):
            side, channels = side // 2, 4 * channels
            image = (batch, side, side)
            found += sizes["steps"] * [(*image, channels, channels, 1, False), (*image, channels // 2, width, 3, True),
                                       (*image, width, width, 1, False), (*image, width, channels, 3, True)]
            if level + 1 < sizes["levels"]:
                channels //= 2
                found.append((*image, channels, 2 * channels, 3, True))
        return found
    context, hidden = sizes.get("context", 0), sizes["hidden"]
    numbers = {"affine": 2, "additive": 1, "spline": 3 * sizes.get("bins", 0) - 1}[sizes.get("law", "additive")]
    for i in range(sizes["couplings"]):
        halves = (sizes["dims"] + 1) // 2, sizes["dims"] // 2
        passed, changed = halves if i % 2 == 0 else halves[::-1]
        widths = [passed + context, *hidden, numbers * changed]
        layers = list(zip(widths, widths[1:]))
        if sizes.get("net") == "residual":
            width = hidden[0]
            gates = len(hidden) * [(context, width)] if context else []
            layers = [layers[0], *gates, *2 * len(hidden) * [(width, width)], layers[-1]]
        found += [(batch, 1, 1, a, b, 1, False) for a, b in layers]
    return found


def operations(model: str, sizes: dict[str, Any]) -> dict[str, float]:
    """Operations of the products in each call, two a multiply-add: a step has three passes, log_prob one."""
    forward = 2 * sum(n * h * w * cin * cout * kernel**2 for n, h, w, cin, cout, kernel, _ in
                      products(model, sizes))
    return {"step": 3 * forward, "log_prob": forward, "sample": forward}
