"""Times one work in one library, in this process; prints one line of JSON. `run.py` starts it.

usage: python worker.py WORK LIBRARY [--threads 2 --device cuda --seconds 2 --smoke --set width=128 batch=8
                                      --calls step | --turns | --profile]
With --turns, a line `CALL SECONDS` on standard input asks for one timing, which is printed as another line; without,
the exit status is 1 if there is no model, or a call failed. With --profile nothing is timed: see Work.profile.
"""

import argparse
import ctypes
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from works import ALL_WORKS

MODULES = {"ours": ("evenflow", "evenflow-high", "evenflow-bf16"),
           "peers_torch": tuple(f"torch{compiled}{graph}{autocast}" for compiled in ("", "-compile")
                                for graph in ("", "-graph") for autocast in ("", "-autocast")),
           "peers_flows": ("normflows", "normflows-autocast", "nflows", "zuko", "FrEIA"),
           "peers_jax": ("jax", "flowjax"), "limits": ("peak", "peak-bf16", "products")}
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


def gpu_tells(what: str) -> str:
    """A property of the card, from nvidia-smi. OSError or CalledProcessError where there is no answer."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    done = subprocess.run(["nvidia-smi", "-i", card, f"--query-gpu={what}", "--format=csv,noheader,nounits"],
                          check=True, capture_output=True, text=True)
    return done.stdout.strip()


def gpu_mb() -> float:
    """Memory that is taken of the GPU. Of the card: a container's driver does not know its processes."""
    return 1.048576 * float(gpu_tells("memory.used"))


class Memory:
    """Megabytes that this process has taken so far; all libraries here keep what they have freed on a GPU.

    There they count from the process' start, with CUDA's context, and nobody else may use the card.
    """

    def __init__(self, device: str):
        self._on_gpu, self._before = device == "cuda", 0.0
        if self._on_gpu:
            self._before = self._read() or 0.0

    def taken(self) -> float | None:
        """None where the machine does not tell."""
        now = self._read() if self._on_gpu else peak_mb()
        return None if now is None else now - self._before

    @staticmethod
    def _read() -> float | None:
        try:
            return gpu_mb()
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"expected memory of the GPU from nvidia-smi, got: {error}", file=sys.stderr)
            return None


def tell_profiler(what: str) -> None:
    """Start or Stop, through the driver: of a thread whose context a call has made."""
    status = getattr(ctypes.CDLL("libcuda.so.1"), f"cuProfiler{what}")()
    if status:
        raise RuntimeError(f"[worker] expected cuProfiler{what} to give 0, got {status}")


def reason(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


class Work:
    """A model in one library, and calls of it by name."""

    def __init__(self, a):
        self.memory, self._on_gpu = Memory(a.device), a.device == "cuda"
        work = ALL_WORKS[a.work]
        changes = {name: int(value) for name, value in (item.split("=") for item in a.set)}
        sizes = {**work.sizes, **(work.smoke if a.smoke else {}), **changes}
        if MODULE_OF[a.library] == "peers_jax":  # it takes a thread for every core that it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:a.threads])
        module = importlib.import_module(MODULE_OF[a.library])
        self.own_ms = getattr(module, "own_ms", None)  # where no model runs
        calls = module.build(a.library, work.model, sizes, a.threads, a.device)
        self.calls = {name: calls[name] for name in a.calls or work.calls if name in calls}
        self.head = {"sizes": sizes, "versions": module.versions(a.library), "calls": list(self.calls)}
        if "parameters" in calls:  # with gradients and Adam's two moments, in float32
            self.head["state_mb"] = 16e-6 * calls["parameters"]()
        self.warm: set = set()

    def time(self, name: str, seconds: float) -> dict:
        """{"ms": the median}, and after a step the memory taken so far; or {"error": why there is none}."""
        call = self.calls[name]
        try:
            for _ in range(1 if name in self.warm else 2):  # compiles, allocates; fills the caches again
                call()
            self.warm.add(name)
            found = {"ms": (self.own_ms or median_ms)(call, seconds)}
        except Exception as error:  # the other calls may work
            return {"error": reason(error)}
        if self.own_ms or not name.startswith("step"):
            return found
        return {**found, "peak_mb": self.memory.taken()}

    def profile(self) -> None:
        """Every call once where a profiler looks, as ncu --profile-from-start off does; on the CPU none looks."""
        for call in self.calls.values():
            call()  # allocates; the next one launches its kernels one by one, and the third as a graph
            if self._on_gpu:
                tell_profiler("Start")
            call()
            if self._on_gpu:
                tell_profiler("Stop")


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
    peaks = {call: t["peak_mb"] for call, t in timings.items() if "peak_mb" in t}
    return {**head, "ms": {call: t["ms"] for call, t in timings.items() if "ms" in t},
            "errors": {call: t["error"] for call, t in timings.items() if "error" in t},
            **({"peak_mb": peaks} if peaks else {})}


def end_with_parent() -> None:
    """For a process in a session of its own: it would keep the card when its parent is killed, without a limit."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


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
    parser.add_argument("--profile", action="store_true")
    a = parser.parse_args()
    if a.turns:
        end_with_parent()
    work, head = opened(a)
    if a.profile and work:
        work.profile()
        print(json.dumps(head))
        return
    if not a.turns:
        timings = {call: work.time(call, a.seconds) for call in work.calls} if work else None
        result = head if timings is None else collected(head, timings)
        print(json.dumps(result))
        sys.exit(1 if work is None or result["errors"] else 0)
    print(json.dumps(head), flush=True)
    for line in sys.stdin:
        call, seconds = line.split()
        print(json.dumps(work.time(call, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
