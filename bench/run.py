"""Measures evenflow beside its peers on this machine. README.md says how to install the peers.

usage: python run.py [--rounds 3] [--quick | --smoke] [--works glow,table,...] [--libraries evenflow,...]
                     [--jax-python PATH] [--threads 2] [--device cuda] [--wheel PATH] [--out FOLDER]
Every round starts one process a library, in turns. The machine's peak is measured before and after each work.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import machine
import report
import singles
from works import ALL_WORKS, WORKS, WORKS_ON_GPUS

HERE = os.path.dirname(os.path.abspath(__file__))
SINGLES = ("import", "scaling", "kernels")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="short timings, no autocast; not written")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that all runs; not written")
    parser.add_argument("--works", help="these alone, with commas between")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--libraries", help="these alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=sys.executable, help="has torch and the libraries over it")
    parser.add_argument("--jax-python", default=sys.executable, help="has jax and flowjax")
    parser.add_argument("--wheel", help="report its size with the import times")
    parser.add_argument("--out", help="folder for one JSON file a work")
    a = parser.parse_args()
    usual = WORKS_ON_GPUS if a.device == "cuda" else [*WORKS, *SINGLES]
    a.works = a.works.split(",") if a.works else list(usual)
    unknown = set(a.works) - {*ALL_WORKS, *SINGLES}
    if unknown:
        parser.error(f"unknown works: {', '.join(sorted(unknown))}")
    for python in (a.python, a.jax_python):
        if not shutil.which(python):
            parser.error(f"no interpreter at {python}")
    a.seconds = 0.05 if a.smoke else 0.3 if a.quick else 2.0
    if not (a.out or a.quick or a.smoke):
        a.out = os.path.join(HERE, "results")
    return a


def run_worker(a, work: str, library: str, threads: int, extra: list[str]) -> dict:
    python = a.jax_python if library in ("jax", "flowjax") else a.python
    command = [python, os.path.join(HERE, "worker.py"), work, library, "--threads", str(threads), "--device", a.device,
               "--seconds", str(a.seconds), *(["--smoke"] if a.smoke else []), *extra]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "nothing on standard error").split("\n")[-1]
        result = {"error": f"exit status {done.returncode}: {last}"[:200]}
    else:
        result = json.loads(done.stdout.strip().split("\n")[-1])
    seconds = time.perf_counter() - begun
    print(f"  {work}, {library}, {threads} threads: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"threads": threads, **result}


def run_work(a, name: str) -> dict:
    work, peaks = ALL_WORKS[name], machine.gpu_peaks if a.device == "cuda" else lambda: machine.peaks(a.threads)
    libraries = [x for x in work.libraries if not ((a.quick or a.smoke) and x in work.slow)
                 and (not a.libraries or x in a.libraries.split(","))]
    measured, rounds = [peaks()], []
    for i in range(a.rounds):
        results = {}
        turn = i % len(libraries)  # nobody is always first
        for library in libraries[turn:] + libraries[:turn]:
            ours = library.startswith("evenflow")
            counts = (1, a.threads) if work.best_of_threads and not ours and a.threads > 1 else (a.threads,)
            results[library] = report.best_of([run_worker(a, name, library, n, []) for n in counts])
        rounds.append({library: results[library] for library in libraries})
    measured.append(peaks())
    first, summary = report.summarise(name, rounds, measured)
    versions = {k: v for r in rounds[0].values() for k, v in r.get("versions", {}).items()}
    print(machine.peak_text(measured))
    report.show(first, summary, work.calls)
    return {"peak": measured, "versions": versions, "ratios_to": first, "libraries": summary, "rounds": rounds}


def main():
    a = arguments()
    for name in a.works:
        title = ALL_WORKS[name].title if name in ALL_WORKS else name
        note = "; smoke test with tiny sizes" if a.smoke else ""
        print(f"\n== {title}; {a.threads} threads, {a.rounds} rounds{note}", flush=True)
        if name == "import":
            result = singles.import_time(a)
        elif name == "scaling":
            result = singles.scaling(a, lambda *args: run_worker(a, *args))
        elif name == "kernels":
            result = singles.kernels(a)
        else:
            result = run_work(a, name)
        head = {"work": name, "title": title, "threads": a.threads, "machine": machine.describe(),
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"), "date": time.strftime("%Y-%m-%d")}
        if a.device == "cuda":
            head["machine"]["gpu"] = machine.gpu_name()
        if a.out:
            report.write(a.out, name, {**head, **result})


if __name__ == "__main__":
    main()
