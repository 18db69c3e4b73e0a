"""What a machine with a GPU is asked for: agreement under the sanitizer, speed beside peers, a training beside torch.

usage: python gpu.py check [tests memcheck ... --limit 540]  [--smoke]
       python gpu.py speed [kernels peers --works gpu_glow_64,... --rounds 3 --libraries evenflow,... --calls step,...
                           --limit 180]  [--smoke]
       python gpu.py train DATA [--only evenflow --minutes 20 --resume --out FOLDER]  [--smoke]
Writes results/gpu/<name of the card>/, or the folder of --out: a file for each part, and all of them in summary.json,
as soon as there is something new. A failed or missing stage is named at the end, and is the exit status. --smoke needs
no GPU and keeps nothing without --out: tiny models on the CPU, check on the emulated device where
EVENFLOW_EMULATED_BUILT names its build; NVIDIA's tools are left out.
"""

import argparse
import csv
import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

import evenflow as ef
import machine
import report
import worker
from works import WORKS_ON_GPUS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TESTS = os.path.join(ROOT, "tests", "python")
# Kernels take far longer under the sanitizer: passes, gradients, training steps and samples of two small models.
SANITIZED = ("test_device.py", *(f"test_device_arrays.py::{name}" for name in (
    "test_calls", "test_gradients", "test_training_steps", "test_initialisation", "test_samples")))
STAGES = {"check": ("kernels", "tests", "memcheck", "racecheck", "initcheck", "synccheck"),
          "speed": ("kernels", "peers")}
# Runs a command. No preexec_fn: Python warns of one in a program that has threads.
ENDS_WITH_US = (sys.executable, "-c", f"import os, sys; sys.path.insert(0, {HERE!r}); import worker; "
                "worker.end_with_parent(); os.execvp(sys.argv[1], sys.argv[1:])")
TIME = "gpu__time_duration.sum"
PERCENTS = {"memory": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
            "tensor_cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"}
NSIGHT = "/opt/nvidia/nsight-compute/*/"


def run(outcomes: dict, stage: str, *command: str, limit: float | None = None, seen: list | None = None,
        **environment: str) -> bool:
    """Notes what became of a stage; others run all the same. From the root, whose settings pytest needs.

    seen: takes the lines that it prints, which are shown as they come.
    """
    print(f"\n== {stage}: {' '.join(command)}", flush=True)
    piped = {} if seen is None else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True,
                                     "errors": "replace"}
    with subprocess.Popen([*ENDS_WITH_US, *command], cwd=ROOT, env={**os.environ, **environment},
                          start_new_session=True, **piped) as process:
        reader = threading.Thread(target=pass_on, args=(process.stdout, seen), daemon=True)
        if piped:
            reader.start()
        try:
            status = process.wait(limit)
            outcomes[stage] = f"exit status {status}" if status else "ok"
        except subprocess.TimeoutExpired:
            outcomes[stage] = f"expected to end within {limit:g} s, did not"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # a tool, and the program under it
            if piped:
                reader.join(5)  # what a test has left running may hold its output
    return outcomes[stage] == "ok"


def pass_on(lines, seen: list) -> None:
    for line in lines:
        print(line, end="", flush=True)
        seen.append(line.rstrip())


def tests_run(outcomes: dict, stage: str, *command: str, **options) -> dict:
    """A stage of tests: how many of them passed, failed or were skipped. One that ran none is no success.

    Both doctest and pytest give status 0 where all are left out.
    """
    seen: list = []
    good = run(outcomes, stage, *command, seen=seen, **options)
    counts = counted(seen)
    if good and not counts.get("passed"):
        outcomes[stage] = f"expected tests to run, got {counts or 'none'}"
    return counts


def counted(lines: list[str]) -> dict[str, int]:
    """The last summary of pytest or doctest among lines; {} where there is none."""
    for line in reversed(lines):
        line = re.sub(r"\x1b\[[\d;]*m", "", line)
        if re.match(r"\[doctest\] test cases:", line) or re.match(r"[= ]*\d+ \w+.* in [\d.]+s", line):
            return {kind: int(number) for number, kind in
                    re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?|xfailed|xpassed)\b", line)}
    return {}


def backend() -> dict[str, str]:
    """Where a program that is not Python finds the backend of an installed evenflow_cuda, as Python does by itself."""
    if os.environ.get("EVENFLOW_CUDA_LIBRARY"):
        return {}
    found = importlib.util.find_spec("evenflow_cuda")
    for folder in (found and found.submodule_search_locations) or ():
        path = os.path.join(folder, "libevenflow_cuda.so")
        if os.path.exists(path):
            return {"EVENFLOW_CUDA_LIBRARY": path}
    return {}


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, os.path.join(HERE, name), *arguments]


def find_tool(name: str) -> str | None:
    """Of CUDA's toolkit: on the PATH, in its usual folder, from PyPI, or of the newest Nsight Compute."""
    try:
        import nvidia
        packages = [os.path.join(folder, "cu13", "bin") for folder in nvidia.__path__]
    except ImportError:
        packages = []
    nsight = sorted(glob.glob(NSIGHT), key=lambda folder: [int(n) for n in re.findall(r"\d+", folder)], reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin", *packages, *nsight]))


def device_tests() -> list[str]:
    """The files with tests that take a device: an import that fails in another would end all."""
    found = []
    for path in sorted(glob.glob(os.path.join(TESTS, "test_*.py"))):
        with open(path) as file:
            if "pytest.mark.any_device" in file.read():
                found.append(path)
    return found


def check(a, folder: str) -> dict:
    """Kernels and layers by the C++ tests, all Python tests that take a device, then some of these under each of
    compute-sanitizer's tools; or the stages named.
    """
    built = os.environ.get("EVENFLOW_EMULATED_BUILT") if a.smoke else None
    libraries = {"EVENFLOW_CUDA_LIBRARY": f"{built}/libevenflow_emulated.so",
                 "EVENFLOW_NCCL_LIBRARY": f"{built}/libfake_nccl.so"} if built else {}
    device = "cpu" if a.smoke and not built else "cuda"
    pytest = [sys.executable, "-m", "pytest", "-q", "-o", "faulthandler_timeout=120",  # names a test that hangs
              "-W", "default",  # no errors: other versions of libraries may warn
              "-m", "any_device", "--device", device]
    some = [os.path.join(TESTS, name) for name in SANITIZED]
    outcomes: dict = {}
    if a.smoke:
        tests_run(outcomes, "tests", *pytest, *device_tests(), **libraries)
        tests_run(outcomes, "tests for the sanitizer", *pytest, *some, **libraries)
        return outcomes
    sanitizer, kernels = find_tool("compute-sanitizer"), os.environ.get("EVENFLOW_DEVICE_TESTS")
    for stage in a.stages:
        counts = {}
        if stage == "kernels":
            if kernels:
                counts = tests_run(outcomes, stage, kernels, "--test-suite=any device", limit=a.limit,
                                   EVENFLOW_TEST_DEVICE="cuda", **backend())
            else:
                outcomes[stage] = ("expected EVENFLOW_DEVICE_TESTS to name device_tests of a build with "
                                   "EVENFLOW_TESTS, got nothing")
        elif stage == "tests":
            counts = tests_run(outcomes, stage, *pytest, *device_tests(), limit=a.limit)
        elif sanitizer:  # some tests are about calls that fail; the library itself reports those that must not
            # Memory is taken and released in a stream's order: does another use it before, or after?
            more = ["--track-stream-ordered-races", "all"] if stage == "memcheck" else []
            counts = tests_run(outcomes, stage, sanitizer, "--tool", stage, "--error-exitcode", "1",
                               "--report-api-errors", "no", *more, *pytest, *some, limit=a.limit)
        else:
            outcomes[stage] = 'expected compute-sanitizer, got none; pip install "cuda-toolkit[sanitizer]"'
        keep(a, folder, f"check_{stage}", {"outcome": outcomes[stage], "counts": counts})
    return outcomes


def speed(a, folder: str) -> dict:
    """The kernels of a training step, then run.py's works beside peers; or the stages named."""
    outcomes: dict = {}
    device = ["--device", "cpu", "--smoke"] if a.smoke else ["--device", "cuda"]
    if "kernels" in a.stages:
        # Four steps a level: the kernels of 32, and an eighth of the launches, each of which ncu repeats.
        step = script("worker.py", "gpu_glow_64", "evenflow-bf16", *device, "--calls", "step", "--profile",
                      "--set", "steps=4")
        if a.smoke:
            run(outcomes, "step for ncu", *step)
        else:
            profile(a, folder, outcomes, step)
            keep(a, folder, "speed_kernels", {"outcome": outcomes["kernels"]})
    if "peers" in a.stages:
        works = a.works or ("gpu_glow_16,gpu_table_64" if a.smoke else ",".join(WORKS_ON_GPUS))
        rounds = a.rounds or (1 if a.smoke else 3)
        fewer = [f"--{name}={value}" for name, value in (("libraries", a.libraries), ("calls", a.calls)) if value]
        # Where both that compile take as long, a round of a work still ends within ten minutes.
        limit = ["--limit", str(a.limit or 180)]
        if run(outcomes, "peers", *script("run.py", *device, "--works", works, "--rounds", str(rounds), *fewer,
                                          *limit, "--out", folder, "--summary")):
            outcomes.update(our_failures(folder, works.split(",")))
        keep(a, folder, "speed_peers", {"outcome": outcomes["peers"]})
    return outcomes


def profile(a, folder: str, outcomes: dict, step: list[str]) -> None:
    """The kernels of a command between the profiler's start and stop, by ncu."""
    ncu = find_tool("ncu")
    if not ncu:
        outcomes["kernels"] = "expected ncu, got none; it is part of CUDA's toolkit, as Nsight Compute"
        return
    with tempfile.TemporaryDirectory() as scratch:
        log, metrics = os.path.join(scratch, "kernels.csv"), known_metrics(ncu)
        # By itself ncu holds the clocks at their base and empties the caches before each launch: no step meets that.
        ended = run(outcomes, "kernels", ncu, "--profile-from-start", "off", "--clock-control", "none",
                    "--cache-control", "none", "--metrics", ",".join(metrics), "--csv",
                    "--print-units", "base", "--log-file", log, *step, limit=a.limit or 540, LC_ALL="C")
        text = ""
        if os.path.exists(log):
            with open(log) as file:
                text = file.read()
    why = list(dict.fromkeys(line for line in text.splitlines() if line.startswith("==ERROR==")))[:2]
    if not ended:
        outcomes["kernels"] = "; ".join([outcomes["kernels"], *why])
        return
    try:
        found = kernels(text)
    except (KeyError, ValueError) as error:  # the other stage runs all the same
        outcomes["kernels"] = worker.reason(error)
        return
    if not found:  # it ends well where it may not read the counters, too
        outcomes["kernels"] = "; ".join(["expected ncu to see kernels, got none", *why])
        return
    show(found)
    keep(a, folder, "kernels", {"metrics": metrics, "kernels": found})


def known_metrics(ncu: str) -> list[str]:
    """The metrics that this ncu has for this card: one that it has not would end it. All, where it lists none."""
    try:
        listed = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True, timeout=120).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        listed = []
    wanted = [TIME, *PERCENTS.values()]
    if TIME.split(".")[0] not in listed:
        return wanted
    for name in wanted:
        if name.split(".")[0] not in listed:
            print(f"left out, as ncu has no such metric here: {name}", flush=True)
    return [name for name in wanted if name.split(".")[0] in listed]


def our_failures(folder: str, works: list[str]) -> dict:
    """run.py notes what fails and goes on, as it must with peers; here evenflow's calls count, and memory."""
    failures = {}
    for work in works:
        with open(os.path.join(folder, work + ".json")) as file:
            libraries = json.load(file)["libraries"]
        for library, entry in libraries.items():
            if not library.startswith("evenflow"):
                continue
            if entry.get("errors") or "median_ms" not in entry:
                failures[f"{work}, {library}"] = str(entry.get("errors") or entry)
            elif not all((entry.get("peak_mb") or {}).values()):
                failures[f"{work}, {library}"] = f"expected memory in MB, got {entry['peak_mb']}"
    return failures


def kernels(text: str) -> list[dict]:
    """ncu's CSV, a line for a launch's metric, as a dict for a kernel: the longest first.

    Launches, milliseconds, and percents of peaks, weighted by time; None where ncu has no number. Launches without a
    time are left out.
    """
    launches: dict = {}
    for row in csv.DictReader(line for line in text.splitlines() if line.startswith('"')):
        digits = row["Metric Value"].replace(",", "")
        value = float(digits) if re.fullmatch(r"[\d.eE+-]+", digits) else None
        if row["Metric Name"] == TIME and value is not None and row["Metric Unit"] not in ("ns", "nsecond"):
            raise ValueError(f"[kernels] expected times in ns, got {row['Metric Unit']}")
        launch = launches.setdefault((row["Process ID"], row["ID"]), {"kernel": short_name(row["Kernel Name"])})
        launch[row["Metric Name"]] = value
    timed, found = [launch for launch in launches.values() if launch.get(TIME) is not None], []
    for name in dict.fromkeys(launch["kernel"] for launch in timed):
        its = [launch for launch in timed if launch["kernel"] == name]
        entry = {"kernel": name, "launches": len(its), "ms": 1e-6 * sum(launch[TIME] for launch in its)}
        for kind, metric in PERCENTS.items():
            known = [(launch[TIME], launch[metric]) for launch in its if launch.get(metric) is not None]
            entry[kind] = sum(ns * percent for ns, percent in known) / sum(ns for ns, _ in known) if known else None
        found.append(entry)
    return sorted(found, key=lambda entry: -entry["ms"])


def short_name(kernel: str) -> str:
    """void evenflow::cuda::run_body<evenflow::device::Sum<float>>(T1) -> Sum<float>"""
    plain = re.sub(r"(\(anonymous namespace\)|\b\w+)::", "", kernel)
    body = re.fullmatch(r"void run_body<(.*)>\(.*\)", plain)
    return body[1].strip() if body else plain


def show(found: list[dict]) -> None:
    total = sum(entry["ms"] for entry in found)
    print(f"{'ms':>9} {'of all':>7} {'launches':>9} {'memory':>7} {'tensor':>7}  kernel (percents of peak)")
    for entry in found:
        percents = [f"{entry[kind]:5.1f} %" if entry[kind] is not None else "-" for kind in PERCENTS]
        print(f"{entry['ms']:9.3f} {100 * entry['ms'] / total:5.1f} % {entry['launches']:9} "
              + " ".join(f"{percent:>7}" for percent in percents) + f"  {entry['kernel'][:120]}")


def train(a, folder: str) -> dict:
    """Some minutes each of evenflow and torch, from the same start, each in a process that ends without the other."""
    outcomes: dict = {}
    data, tiny = os.path.abspath(a.data or ""), []  # stages run in the root of the repository, this perhaps elsewhere
    if a.smoke:
        data = os.path.join(folder, "noise.npz")
        noise = np.random.default_rng(0).integers(0, 256, (2, 64, 16, 16, 3), np.uint8)
        np.savez(data, train=noise[0], test=noise[1])
        tiny = ["--device", "cpu", "--minutes", "0.02", "--steps", "1", "--hidden", "8", "--batch", "8",
                "--lr", "1e-5"]  # more, and a flow learns these images by heart until it has no finite samples
    minutes = ["--minutes", str(a.minutes)] if a.minutes else []
    resume = ["--resume"] if a.resume else []
    for library in (a.only,) if a.only else ("evenflow", "torch"):
        run(outcomes, library, *script("gpu_training.py", library, data, "--out", folder, *tiny, *minutes, *resume))
    return outcomes


def keep(a, folder: str, name: str, result: dict) -> None:
    """Writes a part of the results, and the summary of all."""
    report.write(folder, name, {"machine": {**machine.describe(), "gpu": a.card}, "date": time.strftime("%Y-%m-%d"),
                                **result})
    report.merge(folder)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    parsers = {}
    for job in (check, speed, train):
        parsers[job] = jobs.add_parser(job.__name__, description=job.__doc__)
        parsers[job].set_defaults(call=job)
        parsers[job].add_argument("--smoke", action="store_true",
                                  help="does everything run? without a GPU; nothing is kept without --out")
        parsers[job].add_argument("--out", metavar="FOLDER", help="otherwise results/gpu/<name of the card>")
    for job in (check, speed):
        parsers[job].add_argument("stages", nargs="*", metavar="STAGE",
                                  help=f"of {', '.join(STAGES[job.__name__])}; otherwise all")
    parsers[check].add_argument("--limit", type=float, default=540, metavar="SECONDS", help="for a stage")
    for name in ("--works", "--libraries", "--calls"):
        parsers[speed].add_argument(name, help="of run.py, with commas between")
    parsers[speed].add_argument("--rounds", type=int, help="of run.py; otherwise 3")
    parsers[speed].add_argument("--limit", type=float, metavar="SECONDS",
                                help="of run.py for one timing, and for the kernels; otherwise 180 and 540")
    parsers[train].add_argument("data", nargs="?", help="of gpu_training.py")
    parsers[train].add_argument("--minutes", type=float, help="of gpu_training.py, for each of both")
    parsers[train].add_argument("--only", choices=("evenflow", "torch"), help="one of both")
    parsers[train].add_argument("--resume", action="store_true", help="from the checkpoints that are there")
    a = parser.parse_args()
    if a.job in STAGES:
        unknown = set(a.stages) - set(STAGES[a.job])
        if unknown:
            parser.error(f"unknown stages: {', '.join(sorted(unknown))}")
        a.stages = a.stages or list(STAGES[a.job])
    if a.job == "train" and not a.data and not a.smoke:
        parser.error("train needs a file of images: gpu_training.py says which")
    return a


def measure(a, folder: str) -> dict:
    """The job's outcomes; its stages run elsewhere, and are told where the folder is."""
    folder = os.path.abspath(folder)
    os.makedirs(folder, exist_ok=True)
    outcomes = a.call(a, folder)
    said = report.merge(folder)
    if a.job == "speed":
        report.show_merged(said)
    print(f"written: {folder}")
    return outcomes


def main():
    a = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the stage, too
    if a.smoke:
        a.card = None
        with tempfile.TemporaryDirectory() as passing:
            outcomes = measure(a, a.out or passing)
    else:
        try:
            ef.CouplingFlow(2, couplings=1, hidden=(2,), device="cuda")
        except ef.DeviceError as error:
            sys.exit(str(error))
        a.card = machine.gpu_name()
        outcomes = measure(a, a.out or os.path.join(HERE, "results", "gpu", re.sub(r"\W+", "_", a.card.lower())))
    print(f"\n== {a.job}" + "".join(f"\n{stage}: {outcome}" for stage, outcome in outcomes.items()))
    sys.exit(any(outcome != "ok" for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
