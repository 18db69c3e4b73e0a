"""Times one work in one library, in this process; prints one line of JSON. `run.py` starts it.

usage: python worker.py WORK LIBRARY [--threads 2 --device cuda --seconds 2 --smoke --set width=128 batch=8
                                      --calls step | --turns]
With --turns, a line `CALL SECONDS` on standard input asks for one timing, which is printed as another line.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time

from works import ALL_WORKS

MODULES = {"ours": ("evenflow", "evenflow-bf16"), "peers_torch": ("torch", "torch-compile", "torch-autocast",
                                                                           "torch-compile-autocast"),
           "peers_flows": ("normflows", "normflows-autocast", "nflows", "zuko", "FrEIA"), "peers_jax": ("jax", "flowjax")}
MODULE_OF = {library: module for module, libraries in MODULES.items() for library in libraries}
LEAST_CALLS = 3


def median_ms(call, seconds: float) -> float:
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


class Work:
    """A model in one library, and calls of it by name."""

    def __init__(self, a):
        work = ALL_WORKS[a.work]
        changes = {name: int(value) for name, value in (item.split("=") for item in a.set)}
        sizes = {**work.sizes, **(work.smoke if a.smoke else {}), **changes}
        if MODULE_OF[a.library] == "peers_jax":  # it takes a thread for every core that it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:a.threads])
        module = importlib.import_module(MODULE_OF[a.library])
        calls = module.build(a.library, work.model, sizes, a.threads, a.device)
        self.calls = {name: calls[name] for name in a.calls or work.calls if name in calls}
        self.head = {"sizes": sizes, "versions": module.versions(a.library), "calls": list(self.calls)}
        self.memory_mb = gpu_mb if a.device == "cuda" else peak_mb
        self.warm: set = set()

    def time(self, name: str, seconds: float) -> dict:
        """{"ms": the median}, and after a step the memory taken so far; or {"error": why there is none}."""
        call = self.calls[name]
        try:
            for _ in range(1 if name in self.warm else 2):  # compiles, allocates; fills the caches again
                call()
            self.warm.add(name)
            found = {"ms": median_ms(call, seconds)}
        except Exception as error:  # the other calls may work
            return {"error": reason(error)}
        return {**found, "peak_mb": self.memory_mb()} if name.startswith("step") else found


def opened(a) -> tuple[Work | None, dict]:
    """The work and its head, or why there is none."""
    try:
        work = Work(a)
        return work, work.head
    except ImportError as error:
        return None, {"missing": reason(error)}
    except Exception as error:
        return None, {"error": reason(error)}


def collected(head: dict, timings: dict[str, dict]) -> dict:
    """What a library's timings of one round come to."""
    peaks = [t["peak_mb"] for t in timings.values() if "peak_mb" in t]
    return {**head, "ms": {call: t["ms"] for call, t in timings.items() if "ms" in t},
            "errors": {call: t["error"] for call, t in timings.items() if "error" in t},
            **({"peak_mb": peaks[-1]} if peaks else {})}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=ALL_WORKS)
    parser.add_argument("library", choices=MODULE_OF)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="least time for each call")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="SIZE=VALUE")
    parser.add_argument("--calls", nargs="*")
    parser.add_argument("--turns", action="store_true")
    a = parser.parse_args()
    work, head = opened(a)
    if not a.turns:
        timings = {call: work.time(call, a.seconds) for call in work.calls} if work else None
        print(json.dumps(head if timings is None else collected(head, timings)))
        return
    print(json.dumps(head), flush=True)
    for line in sys.stdin:
        call, seconds = line.split()
        print(json.dumps(work.time(call, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
