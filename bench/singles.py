"""Works of evenflow alone: kernels, scaling, and the time that an import takes."""

import os
import statistics
import subprocess

import native
from limits import PASSES
from machine import attainable, peaks
from works import GLOW, SCALING, SMALL_GLOW, WORKS, operations, products

IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def shapes() -> list[tuple]:
    """(n, h, w, cin, cout, kernel, edge) of every product in the works, largest images first."""
    works = [WORKS[name] for name in ("glow", "table", "table_wide", "nice")]
    return list(dict.fromkeys(shape for work in works for shape in products(work.model, work.sizes)))


def kernels(options) -> dict:
    """GFLOP/s of every convolution in every pass, float32; the peak is measured again in each round."""
    measured, rows, seconds = [], [], {}
    for _ in range(options.rounds):
        measured.append(peaks(options.threads))
        for shape in shapes()[:3 if options.smoke else None]:
            for i, direction in enumerate(PASSES):
                time = native.library().conv_seconds(i, *shape, options.threads, options.seconds / 10)
                seconds.setdefault((shape, direction), []).append(time)
    head = "".join(f"{d + ', GFLOP/s':>26}" for d in PASSES)
    print(f"{'n, h, w, cin, cout, kernel':34}{head}")
    for shape in shapes():
        n, h, w, cin, cout, kernel, _ = shape
        if (shape, PASSES[0]) not in seconds:
            continue
        needed = 2e-9 * n * h * w * cin * cout * kernel**2
        speed = {d: needed / statistics.median(seconds[shape, d]) for d in PASSES}
        percent = {d: 100 * s / attainable(measured, "float32") for d, s in speed.items()}
        rows.append({"n": n, "h": h, "w": w, "cin": cin, "cout": cout, "kernel": kernel, "gflops": speed,
                     "percent_of_peak": percent})
        cells = "".join(f"{speed[d]:14.1f} {percent[d]:9.0f} %" for d in PASSES)
        print(f"{str(shape[:6])[1:-1]:34}{cells}")
    return {"peak": measured, "shapes": rows}


def scaling(options, run_process) -> dict:
    """Time of a Glow training step against one size at a time."""
    base = SMALL_GLOW if options.smoke else {}
    measured = [peaks(options.threads)]
    runs = {str(change): [] for change in SCALING}
    for _ in range(options.rounds):
        for change in SCALING:
            sizes = {**base, **{k: v for k, v in change.items() if k != "threads"}}
            extra = ["--calls", "step", "--set", *(f"{k}={v}" for k, v in sizes.items())]
            threads = change.get("threads", options.threads)
            runs[str(change)].append(run_process("glow", "evenflow", threads, extra))
    measured.append(peaks(options.threads))
    rows = []
    print(f"{'':20}{'step':>12}{'GFLOP/s':>10}{'peak MB':>10}")
    for change in SCALING:
        results = runs[str(change)]
        ms = [r["ms"]["step"] for r in results]
        median = statistics.median(ms)
        speed = 1e-6 * operations("glow", results[0]["sizes"])["step"] / median
        rows.append({"change": change, "step_ms": median, "gflops": speed, "peak_mb": results[0]["peak_mb"]["step"],
                     "rounds": ms})
        label = ", ".join(f"{k} {v}" for k, v in change.items())
        print(f"{label:20}{median:9.4g} ms{speed:10.1f}{results[0]['peak_mb']['step']:10.0f}")
    return {"sizes": {**GLOW, **base}, "peak": measured, "steps": rows}


def import_time(options) -> dict:
    """Seconds that `import` takes in a fresh process, interpreter not counted; and the size of a wheel."""
    pythons = {"evenflow": options.python, "torch": options.python, "jax": options.jax_python}
    times, missing = {name: [] for name in pythons}, {}
    for _ in range(7):
        for name, python in pythons.items():
            done = subprocess.run([python, "-c", IMPORT.format(name)], capture_output=True, text=True)
            if done.returncode:
                missing[name] = done.stderr.strip().split("\n")[-1]
            else:
                times[name].append(float(done.stdout))
    result = {"seconds": {name: statistics.median(t) for name, t in times.items() if t}, "rounds": times,
              "missing": missing}
    for name in pythons:
        text = f"{result['seconds'][name]:.3f} s" if times[name] else f"missing: {missing[name]}"
        print(f"{name:16}{text}")
    if options.wheel:
        result["wheel_bytes"] = os.path.getsize(options.wheel)
        print(f"{'wheel':16}{result['wheel_bytes'] / 1e6:.2f} MB")
    return result
