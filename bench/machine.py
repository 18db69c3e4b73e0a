"""What a result was measured on, and what that machine can do at most."""

import os
import platform
import subprocess

import native
import numpy as np
from worker import gpu_tells

import evenflow as ef
from evenflow import _core


def describe() -> dict:
    """Processor, cores, instruction set and versions."""
    model = platform.processor()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "isa": _core.isa(),
            "evenflow": ef.__version__, "numpy": np.__version__, "python": platform.python_version()}


def peaks(threads: int) -> dict:
    """GFLOP/s of multiply-adds in registers, the best of three; GB/s of main memory; how busy the machine is.

    bfloat16 is None without its instruction.
    """
    library = native.library()
    gflops = {kind: max(getattr(library, f"{kind}_gflops")(threads) for _ in range(3)) or None
              for kind in ("float32", "bfloat16")}
    gbs = {name: getattr(library, name)(threads) for name in ("read_gbs", "update_gbs")}
    return {**gflops, **gbs, "load_average": os.getloadavg()[0]}


def gpu_peaks() -> dict:
    """The same of a GPU, through torch: products of large matrices (float32 as TF32), a large copy."""
    import torch
    torch.set_float32_matmul_precision("high")

    def best_seconds(call):
        times = []
        for _ in range(10):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(1e-3 * begin.elapsed_time(end))
        return min(times[2:])

    n, found = 8192, {}
    for name in ("float32", "bfloat16"):
        x = torch.randn(n, n, device="cuda", dtype=getattr(torch, name))
        found[name] = 2e-9 * n**3 / best_seconds(lambda x=x: x @ x)
    busy = gpu_state()
    x = torch.randn(1 << 28, device="cuda")  # zeros take less power, and may be compressed
    to = torch.empty_like(x)
    moved = 2e-9 * x.numel() * x.element_size() / best_seconds(lambda: to.copy_(x))
    x = to = None
    torch.cuda.empty_cache()  # of which the libraries are to have all
    return {**found, "read_gbs": moved, "update_gbs": moved, "after_products": busy, "load_average": os.getloadavg()[0]}


def gpu_state() -> dict[str, str] | None:
    """Clocks in MHz, power in W and temperature in degrees Celsius, as nvidia-smi has them; None where it is not."""
    names = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
    try:
        values = gpu_tells(",".join(names)).split(",")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {name: value.strip() for name, value in zip(names, values)}


def gpu_name() -> str:
    try:
        return gpu_tells("name")
    except (OSError, subprocess.CalledProcessError):
        return "unknown GPU"


def attainable(measured: list[dict], dtype: str) -> float | None:
    """The best measured GFLOP/s for products of that dtype; None where nothing was measured.

    bfloat16 may also be widened and multiplied as float32, which is faster on some processors.
    """
    kinds = ("float32", "bfloat16") if dtype == "bfloat16" else ("float32",)
    return max((m[kind] for m in measured for kind in kinds if m[kind]), default=None)


def peak_text(measured: list[dict]) -> str:
    """Least and most of each peak over the rounds."""
    def spread(kind):
        values = [m[kind] for m in measured if m[kind]]
        return f"{min(values):.4g} to {max(values):.4g}" if values else "none"
    return (f"peak float32 {spread('float32')}, bfloat16 {spread('bfloat16')} GFLOP/s; "
            f"memory read {spread('read_gbs')}, update {spread('update_gbs')} GB/s")
