"""Medians and ratios over rounds, as a table and as JSON."""

import json
import math
import os
import statistics

from machine import attainable
from works import ALL_WORKS, CANNOT, operations


def best_of(runs: list[dict]) -> dict:
    """One process's result, or call by call the best of the same library on several numbers of threads."""
    timed = [r for r in runs if "ms" in r]
    if len(runs) == 1 or not timed:
        return runs[0]
    calls = dict.fromkeys(call for r in timed for call in r["ms"])
    return {**timed[-1], "ms": {c: min(r["ms"].get(c, math.inf) for r in timed) for c in calls},
            "ms_by_threads": {str(r["threads"]): r["ms"] for r in timed}}


def summarise(name: str, rounds: list[dict], measured: list[dict]) -> tuple[str, dict]:
    """rounds: library -> its result, one dict a round. Ratios are to the first library that ran, in the same round.

    Returns that library and, by library, medians of times and ratios, or why there are none.
    """
    work = ALL_WORKS[name]
    first = next((library for library in rounds[0] if any("ms" in r[library] for r in rounds)), "")
    libraries = {}
    for library in rounds[0]:
        results = [r[library] for r in rounds]
        good = [r for r in results if "ms" in r]
        if not good:
            libraries[library] = {k: v for k, v in results[0].items() if k in ("missing", "error")}
            continue
        entry = {"median_ms": {}, "ratio": {}, "percent_of_peak": {}}
        peak = attainable(measured, "bfloat16" if "bf16" in library or "autocast" in library else "float32")
        needed = operations(work.model, good[0]["sizes"])
        for call in good[0]["ms"]:
            median = entry["median_ms"][call] = statistics.median(r["ms"][call] for r in good if call in r["ms"])
            ratios = [r[library]["ms"][call] / r[first]["ms"][call] for r in rounds
                      if call in r[library].get("ms", {}) and call in r[first].get("ms", {})]
            if ratios:
                entry["ratio"][call] = statistics.median(ratios)
            if call in needed and peak:
                entry["percent_of_peak"][call] = 1e-4 * needed[call] / median / peak
        entry.update({key: good[0][key] for key in ("peak_mb", "state_mb", "errors") if key in good[0]})
        if (work.model, library) in CANNOT:
            entry["differs"] = CANNOT[work.model, library]
        libraries[library] = entry
    return first, libraries


def cell(entry: dict, call: str, is_first: bool) -> str:
    """Milliseconds, (times the first library's), percent of peak."""
    ms = entry["median_ms"].get(call)
    if ms is None:
        return "failed" if call in entry["errors"] else "-"
    text = f"{ms:.4g} ms"
    if not is_first and call in entry["ratio"]:
        text += f" ({entry['ratio'][call]:.2f})"
    percent = entry["percent_of_peak"].get(call, 0)
    return text + (f" {percent:3.0f} %" if percent >= 1 else "")


def show(first: str, libraries: dict, calls: list[str]) -> None:
    print(f"{'':16}" + "".join(f"{call:>26}" for call in calls))
    for library, entry in libraries.items():
        if "median_ms" not in entry:
            kind, text = next(iter(entry.items()))
            print(f"{library:16}  {kind}: {text}")
            continue
        print(f"{library:16}" + "".join(f"{cell(entry, call, library == first):>26}" for call in calls))
        taken = {call: mb for call, mb in entry.get("peak_mb", {}).items() if mb is not None}
        if taken and "state_mb" in entry:
            print(f"{'':18}MB besides parameters, gradients and moments: "
                  + ", ".join(f"{call} {mb - entry['state_mb']:.1f}" for call, mb in taken.items()))
        for call, text in entry["errors"].items():
            print(f"{'':18}{call}: {text}")
        if "differs" in entry:
            print(f"{'':18}{entry['differs']}")


def write(folder: str, name: str, result: dict, indent: int | None = 1) -> None:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + ".json")
    with open(path + ".part", "w") as file:
        json.dump(rounded(result), file, indent=indent)
        file.write("\n")
    os.replace(path + ".part", path)  # what was there stays, until all is written


def rounded(value):
    """Four digits are enough for times: the machine's noise is larger."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
