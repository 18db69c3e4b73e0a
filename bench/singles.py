"""Works of evenflow alone: the products of the other works, and the time that an import takes."""

import statistics
import subprocess

import native
from machine import attainable, peak_text, peaks
from works import WORKS, products

PASSES = ("forward", "backward_data", "backward_weights")  # by their numbers in conv_seconds
IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def kernels(a) -> dict:
    """GFLOP/s of every product in every pass, float32, operands warm. It has no peers: a third of the rounds do."""
    works = [WORKS[name] for name in ("glow", "table", "table_wide", "nice")]
    shapes = list(dict.fromkeys(shape for work in works for shape in products(work.model, work.sizes)))
    shapes = shapes[:3 if a.smoke else None]
    measured, seconds = [], {(shape, i): [] for shape in shapes for i in range(len(PASSES))}
    for _ in range(max(1, a.rounds // 3)):
        measured.append(peaks(a.threads))
        for (shape, i), times in seconds.items():
            times.append(native.library().conv_seconds(i, *shape, a.threads, a.seconds / 10))
    print(peak_text(measured))
    print(f"{'n, h, w, cin, cout, kernel':34}" + "".join(f"{d + ', GFLOP/s':>26}" for d in PASSES))
    rows = []
    for shape in shapes:
        n, h, w, cin, cout, kernel, _ = shape
        needed = 2e-9 * n * h * w * cin * cout * kernel**2
        speed = {d: needed / statistics.median(seconds[shape, i]) for i, d in enumerate(PASSES)}
        percent = {d: 100 * s / attainable(measured, "float32") for d, s in speed.items()}
        rows.append({"n": n, "h": h, "w": w, "cin": cin, "cout": cout, "kernel": kernel, "gflops": speed,
                     "percent_of_peak": percent})
        print(f"{str(shape[:6])[1:-1]:34}" + "".join(f"{speed[d]:14.1f} {percent[d]:9.0f} %" for d in PASSES))
    return {"peak": measured, "shapes": rows}


def import_time(a) -> dict:
    """Seconds that `import` takes in a fresh process, interpreter not counted."""
    pythons = {"evenflow": a.python, "torch": a.python, "jax": a.jax_python}
    times, missing = {name: [] for name in pythons}, {}
    for _ in range(1 if a.smoke else 7):
        for name, python in pythons.items():
            done = subprocess.run([python, "-c", IMPORT.format(name)], capture_output=True, text=True)
            if done.returncode:
                missing[name] = done.stderr.strip().split("\n")[-1]
            else:
                times[name].append(float(done.stdout))
    medians = {name: statistics.median(t) for name, t in times.items() if t}
    for name in pythons:
        print(f"{name:16}" + (f"{medians[name]:.3f} s" if name in medians else f"missing: {missing[name]}"))
    return {"seconds": medians, "rounds": times, "missing": missing}


SINGLES = {"import": import_time, "kernels": kernels}
