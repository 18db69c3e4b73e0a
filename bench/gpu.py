"""What a machine with a GPU is asked for: agreement with the CPU, also under the sanitizer, and speed beside peers.

usage: python gpu.py check [kernels plain tests memcheck racecheck initcheck synccheck] [--limit 540]
       python gpu.py speed [kernels peers --works gpu_glow_64,... --rounds 3 --libraries evenflow,... --calls step,...
                           --limit 180]
Writes results/<name of the card>/, or the folder of --out: a file for each stage, when it ends. A failed or missing
stage is named at the end, and is the exit status; the others run all the same. --smoke needs no GPU and keeps nothing
without --out: tiny models on the CPU, check on the emulated device where EVENFLOW_EMULATED_BUILT names its build;
NVIDIA's tools are left out.
"""

import argparse
import csv
import glob
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

import machine
import report
import worker
from works import WORKS_ON_GPUS

import evenflow as ef
from evenflow._border.extras import installed_libraries

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TESTS = os.path.join(ROOT, "tests", "python")
# Kernels take far longer under the sanitizer: passes, gradients, training steps and samples of two small models.
SANITIZED = ("test_device.py", *(f"test_device_arrays.py::{name}" for name in (
    "test_calls", "test_gradients", "test_training_steps", "test_initialisation", "test_samples")))
STAGES = {"check": ("kernels", "plain", "tests", "memcheck", "racecheck", "initcheck", "synccheck"),
          "speed": ("kernels", "peers")}
# Runs a command. No preexec_fn: Python warns of one in a program that has threads.
ENDS_WITH_US = (sys.executable, "-c", f"import os, sys; sys.path.insert(0, {HERE!r}); import worker; "
                "worker.end_with_parent(); os.execvp(sys.argv[1], sys.argv[1:])")
TIME = "gpu__time_duration.sum"
PERCENTS = {"memory": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
            "tensor_cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"}
NSIGHT = "/opt/nvidia/nsight-compute/*/"


def run(command: list[str], limit: float | None = None, **environment: str) -> tuple[str, list[str]]:
    """Outcome of a command, "ok" or what was wrong, and its lines, which are shown as they come.

    It runs in the root, whose settings pytest needs.
    """
    print(f"\n== {' '.join(command)}", flush=True)
    lines: list[str] = []

    def pass_on(output):
        for line in output:
            print(line, end="", flush=True)
            lines.append(line.rstrip())

    with subprocess.Popen([*ENDS_WITH_US, *command], cwd=ROOT, env={**os.environ, **environment},
                          start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        reader = threading.Thread(target=pass_on, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            status = process.wait(limit)
            outcome = f"exit status {status}" if status else "ok"
        except subprocess.TimeoutExpired:
            outcome = f"expected to end within {limit:g} s, did not"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # a tool, and the program under it
            reader.join(5)  # what a test has left running may hold its output
    return outcome, lines


def run_tests(command: list[str], **options) -> tuple[str, dict]:
    """Outcome, and "counts" of tests that passed, failed or were skipped. Where none ran it is no success.

    Both doctest and pytest give status 0 where all are left out.
    """
    outcome, lines = run(command, **options)
    counts = counted(lines)
    if outcome == "ok" and not counts.get("passed"):
        outcome = f"expected tests to run, got {counts or 'none'}"
    return outcome, {"counts": counts}


def counted(lines: list[str]) -> dict[str, int]:
    """The last summary of pytest or doctest among lines; {} where there is none."""
    for line in reversed(lines):
        line = re.sub(r"\x1b\[[\d;]*m", "", line)
        if re.match(r"\[doctest\] test cases:", line) or re.match(r"[= ]*\d+ \w+.* in [\d.]+s", line):
            return {kind: int(number) for number, kind in
                    re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?|xfailed|xpassed)\b", line)}
    return {}


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


def check(a, stage: str) -> tuple[str, dict]:
    """Kernels and layers by the C++ tests, with and without cuBLASLt; the Python tests that take a device, some of them
    under a sanitizer.
    """
    built = os.environ.get("EVENFLOW_EMULATED_BUILT") if a.smoke else None
    libraries = {"EVENFLOW_CUDA_LIBRARY": f"{built}/libevenflow_emulated.so",
                 "EVENFLOW_CUBLASLT_LIBRARY": f"{built}/libfake_cublaslt.so"} if built else {}
    device = "cpu" if a.smoke and not built else "cuda"
    pytest = [sys.executable, "-m", "pytest", "-q", "-o", "faulthandler_timeout=120",  # names a test that hangs
              "-W", "default",  # no errors: other versions of libraries may warn
              "-m", "any_device", "--device", device]
    limit = a.limit or 540
    if stage == "tests":
        return run_tests([*pytest, *device_tests()], limit=limit, **libraries)
    if stage in ("kernels", "plain"):
        kernels = os.environ.get("EVENFLOW_DEVICE_TESTS")
        if not kernels:
            return "expected EVENFLOW_DEVICE_TESTS to name device_tests of a build with EVENFLOW_TESTS, got nothing", {}
        found = {**installed_libraries(), "EVENFLOW_TEST_DEVICE": "cuda"}
        if stage == "plain":
            found["EVENFLOW_CUBLASLT_LIBRARY"] = "none"
        return run_tests([kernels, "--test-suite=any device"], limit=limit, **found)
    sanitizer = find_tool("compute-sanitizer")
    if not sanitizer:
        return 'expected compute-sanitizer, got none; pip install "cuda-toolkit[sanitizer]"', {}
    # Memory is taken and released in a stream's order: does another use it before, or after?
    more = ["--track-stream-ordered-races", "all"] if stage == "memcheck" else []
    # Some tests are about calls that fail; the library itself reports those that must not.
    return run_tests([sanitizer, "--tool", stage, "--error-exitcode", "1", "--report-api-errors", "no", *more, *pytest,
                      *(os.path.join(TESTS, name) for name in SANITIZED)], limit=limit)


def speed(a, stage: str) -> tuple[str, dict]:
    """The kernels of a training step, or run.py's works beside peers."""
    device = ["--device", "cpu", "--smoke"] if a.smoke else ["--device", "cuda"]
    if stage in ("kernels", "plain"):
        # Four steps a level: the kernels of 32, and an eighth of the launches, each of which ncu repeats.
        step = [sys.executable, os.path.join(HERE, "worker.py"), "gpu_glow_64", "evenflow-bf16", *device, "--calls",
                "step", "--profile", "--set", "steps=4"]
        return (run(step)[0], {}) if a.smoke else profile(step, a.limit or 540)
    works = a.works or ("gpu_glow_16,gpu_table_64" if a.smoke else ",".join(WORKS_ON_GPUS))
    fewer = [f"--{name}={value}" for name, value in (("libraries", a.libraries), ("calls", a.calls)) if value]
    # Where both that compile take as long as a timing may, a round of a work still ends within ten minutes.
    outcome, _ = run([sys.executable, os.path.join(HERE, "run.py"), *device, "--works", works,
                      "--rounds", str(a.rounds or (1 if a.smoke else 3)), "--limit", str(a.limit or 180), *fewer,
                      "--out", a.out])
    failures = our_failures(a.out, works.split(",")) if outcome == "ok" else {}
    return (f"failed: {', '.join(failures)}" if failures else outcome), {"failures": failures}


def profile(step: list[str], limit: float) -> tuple[str, dict]:
    """The kernels of a command between the profiler's start and stop, by ncu."""
    ncu = find_tool("ncu")
    if not ncu:
        return "expected ncu, got none; it is part of CUDA's toolkit, as Nsight Compute", {}
    with tempfile.TemporaryDirectory() as scratch:
        log, metrics = os.path.join(scratch, "kernels.csv"), known_metrics(ncu)
        # By itself ncu holds the clocks at their base and empties the caches before each launch: no step meets that.
        outcome, _ = run([ncu, "--profile-from-start", "off", "--clock-control", "none", "--cache-control", "none",
                          "--metrics", ",".join(metrics), "--csv", "--print-units", "base", "--log-file", log, *step],
                         limit, LC_ALL="C")
        text = ""
        if os.path.exists(log):
            with open(log) as file:
                text = file.read()
    found = []
    if outcome == "ok":
        try:
            found = kernels(text)
            outcome = "ok" if found else "expected ncu to see kernels, got none"  # it may not read the counters
        except (KeyError, ValueError) as error:
            outcome = worker.reason(error)
    if outcome != "ok":
        why = dict.fromkeys(line for line in text.splitlines() if line.startswith("==ERROR=="))
        return "; ".join([outcome, *list(why)[:2]]), {}
    show(found)
    return outcome, {"metrics": metrics, "kernels": found}


def known_metrics(ncu: str) -> list[str]:
    """The metrics that this ncu has for this card: one that it has not would end it. All, where it lists none."""
    try:
        listed = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True, timeout=120).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        listed = []
    wanted = [TIME, *PERCENTS.values()]
    if TIME.split(".")[0] not in listed:
        return wanted
    return [name for name in wanted if name.split(".")[0] in listed]


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


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    for job, stages in STAGES.items():
        sub = jobs.add_parser(job)
        sub.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(stages)}; otherwise all")
        sub.add_argument("--smoke", action="store_true", help="does everything run? without a GPU")
        sub.add_argument("--out", metavar="FOLDER", help="otherwise results/<name of the card>")
        sub.add_argument("--limit", type=float, metavar="SECONDS",
                         help="for a stage, otherwise 540; of peers for one timing, otherwise 180")
        if job == "speed":
            for name in ("--works", "--libraries", "--calls"):
                sub.add_argument(name, help="of run.py, with commas between")
            sub.add_argument("--rounds", type=int, help="of run.py; otherwise 3")
    a = parser.parse_args()
    unknown = set(a.stages) - set(STAGES[a.job])
    if unknown:
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}")
    a.stages = a.stages or (["tests"] if a.smoke and a.job == "check" else list(STAGES[a.job]))
    return a


def measure(a, card: str | None) -> dict[str, str]:
    """Outcomes of all stages, each with a file of its own as soon as it has ended."""
    outcomes = {}
    for stage in a.stages:
        outcomes[stage], found = {"check": check, "speed": speed}[a.job](a, stage)
        report.write(a.out, f"{a.job}_{stage}", {
            "machine": {**machine.describe(), "gpu": card}, "date": time.strftime("%Y-%m-%d"),
            "outcome": outcomes[stage], **found})
    return outcomes


def main():
    a = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the stage, too
    card = None
    if not a.smoke:
        try:
            ef.CouplingFlow(2, couplings=1, hidden=(2,), device="cuda")
        except ef.DeviceError as error:
            sys.exit(str(error))
        card = machine.gpu_name()
    with tempfile.TemporaryDirectory() as passing:
        usual = passing if a.smoke else os.path.join(HERE, "results", re.sub(r"\W+", "_", card.lower()))
        a.out = os.path.abspath(a.out or usual)  # stages run in the root of the repository, this perhaps elsewhere
        outcomes = measure(a, card)
    print(f"\n== {a.job}" + "".join(f"\n{stage}: {outcome}" for stage, outcome in outcomes.items()))
    sys.exit(any(outcome != "ok" for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
