"""Times one work in one library, in this process; prints one line of JSON. `run.py` starts it.

usage: python worker.py WORK LIBRARY [--threads 2 --device cuda --seconds 2 --smoke --set width=128 batch=8
                                      --calls step]
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import time

from works import ALL_WORKS

MODULES = {"ours": ("evenflow", "evenflow-bf16"), "peers_torch": ("torch", "torch-compile", "torch-autocast",
                                                                           "torch-compile-autocast"),
           "peers_flows": ("normflows", "normflows-autocast", "nflows", "zuko", "FrEIA"), "peers_jax": ("jax", "flowjax")}
MODULE_OF = {library: module for module, libraries in MODULES.items() for library in libraries}
LEAST_CALLS = 3


def median_ms(call, seconds: float) -> float:
    call()  # compiles, allocates
    call()
    times, total = [], 0.0  # added up as they come: a pass over all of them would empty the caches
    while total < seconds or len(times) < LEAST_CALLS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return 1e3 * statistics.median(times)


def peak_mb() -> float:
    """Largest resident memory so far. Not getrusage's, which starts at the parent's."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM:"))


def gpu_mb() -> float:
    """Memory that this process has taken of the GPU; all libraries here keep what they have freed."""
    done = subprocess.run(["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
                          check=True, capture_output=True, text=True)
    rows = (line.split(",") for line in done.stdout.splitlines())
    return sum(1.048576 * float(used) for pid, used in rows if int(pid) == os.getpid())


def reason(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


def measure(a) -> dict:
    work = ALL_WORKS[a.work]
    changes = {name: int(value) for name, value in (item.split("=") for item in a.set)}
    sizes = {**work.sizes, **(work.smoke if a.smoke else {}), **changes}
    if MODULE_OF[a.library] == "peers_jax":  # it takes a thread for every core that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:a.threads])
    try:
        module = importlib.import_module(MODULE_OF[a.library])
        calls = module.build(a.library, work.model, sizes, a.threads, a.device)
    except ImportError as error:
        return {"missing": reason(error)}
    except Exception as error:
        return {"error": reason(error)}
    result = {"sizes": sizes, "ms": {}, "errors": {}}
    for name in a.calls or work.calls:
        if name not in calls:
            continue
        try:
            result["ms"][name] = median_ms(calls[name], a.seconds)
        except Exception as error:  # the other calls may work
            result["errors"][name] = reason(error)
        if name.startswith("step"):
            result["peak_mb"] = gpu_mb() if a.device == "cuda" else peak_mb()
    return {**result, "versions": module.versions(a.library)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=ALL_WORKS)
    parser.add_argument("library", choices=MODULE_OF)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="least time for each call")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="SIZE=VALUE")
    parser.add_argument("--calls", nargs="*")
    print(json.dumps(measure(parser.parse_args())))
