"""Measures evenflow beside its peers on this machine. README.md says how to install the peers.

usage: python run.py [--rounds 9] [--quick | --smoke] [--works glow,table,...] [--libraries evenflow,...]
                     [--calls step,...] [--jax-python PATH] [--threads 2] [--device cuda] [--out FOLDER]
Every library has a process of its own. In every round each call is timed in all of them, one after the other, so that
whatever else the machine does slows all of them. The machine's peak is measured in every round, too.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import machine
import report
import worker
from singles import SINGLES
from works import ALL_WORKS, WORKS, WORKS_ON_GPUS

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="short timings, no autocast")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that all runs")
    parser.add_argument("--works", help="these alone, with commas between")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--libraries", help="these alone")
    parser.add_argument("--calls", help="of each work these alone: step, log_prob, sample, ...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="has torch and the libraries over it")
    parser.add_argument("--jax-python", default=sys.executable, help="has jax and flowjax")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS",
                        help="for one timing, with what is compiled for it")
    parser.add_argument("--out", help="folder for one JSON file a work; nothing is written without it")
    a = parser.parse_args()
    usual = WORKS_ON_GPUS if a.device == "cuda" else [*WORKS, *SINGLES]
    a.works = a.works.split(",") if a.works else list(usual)
    unknown = set(a.works) - {*ALL_WORKS, *SINGLES}
    if unknown:
        parser.error(f"unknown works: {', '.join(sorted(unknown))}")
    for name in a.works if a.calls else ():
        if name in SINGLES or not calls_of(a, name):
            parser.error(f"--calls {a.calls} leaves nothing of {name}")
    for python in (a.python, a.jax_python):
        if not shutil.which(python):
            parser.error(f"no interpreter at {python}")
    a.set = []
    a.seconds = 0.05 if a.smoke else 0.3 if a.quick else 2.0
    return a


def calls_of(a, work: str) -> list[str]:
    return [call for call in ALL_WORKS[work].calls if not a.calls or call in a.calls.split(",")]


class Worker:
    """A process that times calls when asked to."""

    def __init__(self, a, work: str, library: str, threads: int):
        self.threads, self.seconds, self._limit = threads, a.seconds, a.limit
        python = a.jax_python if library in ("jax", "flowjax") else a.python
        command = [python, os.path.join(HERE, "worker.py"), work, library, "--threads", str(threads), "--device",
                   a.device, *(["--smoke"] if a.smoke else []), "--set", *a.set, "--turns"]
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                                         text=True, start_new_session=True)
        self._gave_up = False
        self.head = self._answer()
        self._timings: dict[str, dict] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict:
        late = threading.Timer(self._limit, self._give_up)
        late.start()
        try:
            for line in self._process.stdout:  # a library may print too
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            late.cancel()
        status = self._process.wait()
        if self._gave_up:
            return {"error": f"expected an answer within {self._limit:g} s, got none"}
        self._errors.seek(0)
        last = (self._errors.read().strip() or "nothing on standard error").split("\n")[-1]
        return {"error": f"exit status {status}: {last}"[:200]}

    def _give_up(self) -> None:
        self._gave_up = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what it started holds its output, too

    def time(self, call: str) -> None:
        if call not in self.head.get("calls", ()) or "error" in self._timings.get(call, {}):  # it won't work now either
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{call} {self.seconds}\n")
            self._process.stdin.flush()
        self._timings[call] = self._answer()

    def result(self) -> dict:
        """Of the last timings."""
        result = worker.collected(self.head, self._timings) if "calls" in self.head else self.head
        return {"threads": self.threads, **result}


def peaks(a) -> list[dict]:
    """None, and then no percents of it, without a static library of evenflow, or on a GPU that torch can't use."""
    try:
        return [machine.gpu_peaks() if a.device == "cuda" else machine.peaks(a.threads)]
    except Exception as error:  # of many kinds
        print(f"no peak of the machine: {worker.reason(error)}", file=sys.stderr)
        return []


def run_rounds(a, name: str, makers: list) -> Iterator[tuple[list[dict], list[list[dict]]]]:
    """Peaks, and results of all workers, round by round: after each round, those so far.

    On a GPU one worker at a time is there, since each keeps its memory, and results come after each of its calls.
    """
    calls, measured, rounds = calls_of(a, name), [], []
    with contextlib.ExitStack() as stack:
        kept = [] if a.device == "cuda" else [stack.enter_context(make()) for make in makers]
        for i in range(a.rounds):
            begun = time.perf_counter()
            measured += peaks(a)
            if kept:
                for call in calls:
                    for k in range(len(kept)):
                        kept[(i + k) % len(kept)].time(call)  # nobody is always first
                rounds.append([w.result() for w in kept])
                yield measured, rounds
            else:
                rounds.append([{"error": "not measured yet"}] * len(makers))
                for k, make in enumerate(makers):  # evenflow first: peers compile for minutes
                    with make() as only:
                        rounds[-1][k] = only.result()
                        for call in calls:
                            only.time(call)
                            rounds[-1][k] = only.result()
                            yield measured, rounds
            print(f"  {name}, round {i + 1}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)


def result_of(name: str, rounds: list[dict], measured: list[dict]) -> dict:
    first, summary = report.summarise(name, rounds, measured)
    versions = {k: v for r in rounds[0].values() for k, v in r.get("versions", {}).items()}
    sizes = rounds[0][first].get("sizes") if first else None
    return {"peak": measured, "versions": versions, "sizes": sizes, "ratios_to": first, "libraries": summary,
            "rounds": [{library: {k: r[k] for k in ("ms", "ms_by_threads") if k in r}
                        for library, r in results.items()} for results in rounds]}


def run_work(a, name: str, keep, best_of_threads: bool | None = None) -> dict:
    """keep(result so far): whatever stops this may come at any time. best_of_threads: instead of the work's own."""
    work = ALL_WORKS[name]
    alone = work.best_of_threads if best_of_threads is None else best_of_threads
    libraries = [x for x in work.libraries if not ((a.quick or a.smoke) and x in work.slow)
                 and (not a.libraries or x in a.libraries.split(","))]
    pairs = [(library, threads) for library in libraries for threads in
             ((1, a.threads) if alone and not library.startswith("evenflow") and a.threads > 1
              else (a.threads,))]
    result, measured = result_of(name, [{}], []), []
    for measured, so_far in run_rounds(a, name, [functools.partial(Worker, a, name, *pair) for pair in pairs]):
        rounds = [{library: report.best_of([r for r, pair in zip(results, pairs) if pair[0] == library])
                   for library in libraries} for results in so_far]
        result = result_of(name, rounds, measured)
        keep(result)
    if measured:
        print(machine.peak_text(measured))
    report.show(result["ratios_to"], result["libraries"], calls_of(a, name))
    return result


def main():
    a = arguments()
    for name in a.works:
        title = ALL_WORKS[name].title if name in ALL_WORKS else name
        note = "; smoke test with tiny sizes" if a.smoke else ""
        print(f"\n== {name}: {title}; {a.threads} threads, {a.rounds} rounds{note}", flush=True)
        head = {"work": name, "title": title, "threads": a.threads, "machine": machine.describe(),
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"), "date": time.strftime("%Y-%m-%d")}
        if a.device == "cuda":
            head["machine"]["gpu"] = machine.gpu_name()

        def keep(result, name=name, head=head):
            if a.out:
                report.write(a.out, name, {**head, **result})

        keep(SINGLES[name](a) if name in SINGLES else run_work(a, name, keep))


if __name__ == "__main__":
    main()
