"""Times one work in one library, in this process, and prints lines of JSON. `run.py` starts it.

usage: python worker.py WORK LIBRARY [--threads 2 --device cuda --seconds 2 --smoke --set width=128 batch=8
                                      --calls step | --turns | --profile]
With --turns, a line `CALL SECONDS` on standard input asks for one timing, which is printed as another line. Without it,
every call is timed, and the exit status is 1 if there is no model or a call failed. With --profile nothing is timed:
see Work.profile.
"""

import argparse
import ctypes
import importlib
import json
import os
import resource
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
           "peers_jax": ("jax", "flowjax")}
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


def gpu_tells(what: str) -> str:
    """Properties of the card, from nvidia-smi. OSError or CalledProcessError where there is no answer."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    done = subprocess.run(["nvidia-smi", "-i", card, f"--query-gpu={what}", "--format=csv,noheader,nounits"],
                          check=True, capture_output=True, text=True)
    return done.stdout.strip()


def gpu_mb() -> float | None:
    """Memory that is taken of the whole card: a container's driver does not know its processes. None: not told."""
    try:
        return 1.048576 * float(gpu_tells("memory.used"))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"expected memory of the GPU from nvidia-smi, got: {error}", file=sys.stderr)
        return None


class Memory:
    """Megabytes that this process takes at most, beyond what it held when this was made.

    On a GPU all libraries here keep what they have freed, so what is taken now is the most so far; CUDA's context
    counts, and nobody else may use the card.
    """

    def __init__(self, device: str):
        self._on_gpu = device == "cuda"
        if self._on_gpu:
            self._before = gpu_mb() or 0.0
        else:
            with open("/proc/self/statm") as file:
                self._before = 1e-6 * resource.getpagesize() * int(file.read().split()[1])

    def taken(self) -> float | None:
        """None where the machine does not tell."""
        if self._on_gpu:
            now = gpu_mb()
            return None if now is None else now - self._before
        with open("/proc/self/status") as file:  # not getrusage's, which starts at the parent's
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
        return 1.024e-3 * peak - self._before


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
        work = ALL_WORKS[a.work]
        changes = {name: json.loads(value) for name, value in (item.split("=") for item in a.set)}
        sizes = {**work.sizes, **(work.smoke if a.smoke else {}), **changes}
        if MODULE_OF[a.library] == "peers_jax":  # it takes a thread for every core that it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:a.threads])
        module = importlib.import_module(MODULE_OF[a.library])
        self.memory, self._on_gpu = Memory(a.device), a.device == "cuda"
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
            found = {"ms": median_ms(call, seconds)}
        except Exception as error:  # the other calls may work
            return {"error": reason(error)}
        return {**found, "peak_mb": self.memory.taken()} if name.startswith("step") else found

    def profile(self) -> None:
        """Every call once where a profiler looks, as ncu --profile-from-start off does; on the CPU none looks."""
        for call in self.calls.values():
            call()  # allocates
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
    def of_calls(key):
        return {call: timing[key] for call, timing in timings.items() if key in timing}
    return {**head, "ms": of_calls("ms"), "errors": of_calls("error"), "peak_mb": of_calls("peak_mb")}


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
    if a.turns:
        print(json.dumps(head), flush=True)
        for line in sys.stdin:
            call, seconds = line.split()
            print(json.dumps(work.time(call, float(seconds))), flush=True)
        return
    if work and a.profile:
        work.profile()
    elif work:
        head = collected(head, {call: work.time(call, a.seconds) for call in work.calls})
    print(json.dumps(head))
    sys.exit(1 if work is None or head.get("errors") else 0)


if __name__ == "__main__":
    main()
