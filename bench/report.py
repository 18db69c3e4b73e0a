"""Medians and ratios over rounds, as a table and as JSON."""

import glob
import json
import math
import os
import statistics

from machine import attainable
from worker import MODULE_OF
from works import ALL_WORKS, CANNOT, operations

SUMMARY = "summary"


def best_of(runs: list[dict]) -> dict:
    """One process's result, or call by call the best of the same library on several numbers of threads."""
    if len(runs) == 1:
        return runs[0]
    timed = [r for r in runs if "ms" in r]
    if not timed:
        return runs[0]
    calls = dict.fromkeys(call for r in timed for call in r["ms"])
    return {**timed[-1], "ms": {c: min(r["ms"].get(c, math.inf) for r in timed) for c in calls},
            "ms_by_threads": {str(r["threads"]): r["ms"] for r in timed}}


def summarise(name: str, rounds: list[dict], measured: list[dict]) -> tuple[str, dict]:
    """rounds: library -> its result, one dict a round. Ratios are to the first library that ran, in the same round.

    Returns that library and, by library, medians of times and ratios, or why there are none.
    """
    work = ALL_WORKS[name]
    ran = [library for library in rounds[0] if any("ms" in r[library] for r in rounds)]
    first = ran[0] if ran else ""
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
            entry["median_ms"][call] = statistics.median(r["ms"][call] for r in good if call in r["ms"])
            ratios = [r[library]["ms"][call] / r[first]["ms"][call] for r in rounds
                      if call in r[library].get("ms", {}) and call in r[first].get("ms", {})]
            if ratios:
                entry["ratio"][call] = statistics.median(ratios)
            if call in needed and peak:
                seconds = entry["median_ms"][call] / 1e3
                entry["percent_of_peak"][call] = 100e-9 * needed[call] / seconds / peak
        entry["peak_mb"], entry["state_mb"] = (good[0].get(key) for key in ("peak_mb", "state_mb"))
        entry["errors"] = good[0]["errors"]
        if (work.model, library) in CANNOT:
            entry["differs"] = CANNOT[work.model, library]
        libraries[library] = entry
    return first, libraries


def show(first: str, libraries: dict, calls: tuple) -> None:
    """Milliseconds, (times the first library's), percent of peak."""
    print(f"{'':16}" + "".join(f"{call:>26}" for call in calls))
    for library, entry in libraries.items():
        if "median_ms" not in entry:
            kind, text = next(iter(entry.items()))
            print(f"{library:16}  {kind}: {text}")
            continue
        cells = []
        for call in calls:
            ms = entry["median_ms"].get(call)
            if ms is None:
                cells.append("failed" if call in entry["errors"] else "-")
                continue
            text = f"{ms:.4g} ms"
            if library != first and call in entry["ratio"]:
                text += f" ({entry['ratio'][call]:.2f})"
            if entry["percent_of_peak"].get(call, 0) >= 1:
                text += f" {entry['percent_of_peak'][call]:3.0f} %"
            cells.append(text)
        print(f"{library:16}" + "".join(f"{c:>26}" for c in cells))
        for call, text in entry["errors"].items():
            print(f"{'':18}{call}: {text}")
        if "differs" in entry:
            print(f"{'':18}{entry['differs']}")


def write(folder: str, name: str, result: dict, digits: int = 4) -> None:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + ".json")
    with open(path + ".part", "w") as file:
        json.dump(rounded(result, digits), file, indent=1)
        file.write("\n")
    os.replace(path + ".part", path)  # what was there stays, until all is written


def merge(folder: str) -> dict:
    """summary.json: all other results of a folder in one file, by name, and what they say; returns the latter."""
    parts: dict = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        name = os.path.basename(path).removesuffix(".json")
        if name != SUMMARY:
            with open(path) as file:
                try:
                    parts[name] = json.load(file)
                except ValueError as error:  # what wrote it was killed
                    parts[name] = {"error": f"expected JSON, got: {error}"}
    works = {name: part for name, part in parts.items() if name in ALL_WORKS and part.get("sizes")}
    said = {"steps": {name: best_steps({name: part}) for name, part in works.items()},
            "steps_at_any_batch": best_steps({name: p for name, p in works.items() if name.startswith("gpu_glow256_")}),
            "memory_mb": {name: memory(part) for name, part in works.items()}}
    write(folder, SUMMARY, {**said, "parts": parts})
    return said


def best_steps(works: dict) -> dict:
    """Images or rows a second in a training step: the best of evenflow and of its peers in any of some works' results,
    and the ratio of these. No peer is the best where none that compiles has been timed.
    """
    rates = [{"library": library, "work": name, "per_s": 1e3 * part["sizes"]["batch"] / entry["median_ms"]["step"]}
             for name, part in works.items() for library, entry in part["libraries"].items()
             if "step" in entry.get("median_ms", {}) and MODULE_OF[library] != "limits"]
    ours = [rate for rate in rates if MODULE_OF[rate["library"]] == "ours"]
    peers = [rate for rate in rates if rate not in ours]
    best = {"ours": max(ours, key=lambda rate: rate["per_s"], default=None), "peer": "no compiled peer"}
    if any(rate["library"].startswith("torch-compile") for rate in peers):
        best["peer"] = max(peers, key=lambda rate: rate["per_s"])
        if ours:
            best["ratio"] = best["ours"]["per_s"] / best["peer"]["per_s"]
    return best


def memory(part: dict) -> dict:
    """By library: a step's peak, and what of it is no parameter, gradient or moment; these grow with depth."""
    return {library: {call: {"peak": mb, "besides_state": mb - entry["state_mb"]}
                      for call, mb in entry["peak_mb"].items() if mb is not None}
            for library, entry in part["libraries"].items() if entry.get("peak_mb") and entry.get("state_mb")}


def show_merged(said: dict) -> None:
    def text(best):
        if not isinstance(best, dict):
            return best or "none"
        return f"{best['per_s']:.4g} ({best['library']}, {best['work']})"
    best = {**said["steps"], "best at any batch, gpu_glow256": said["steps_at_any_batch"]}
    for name, it in best.items():
        ratio = f", ratio {it['ratio']:.2f}" if "ratio" in it else ""
        print(f"{name}: a second, ours {text(it['ours'])}, peers {text(it['peer'])}{ratio}")
    for name, libraries in said["memory_mb"].items():
        for library, calls in libraries.items():
            for call, mb in calls.items():
                print(f"{name}, {library}, {call}: {mb['peak']:.0f} MB, {mb['besides_state']:.0f} besides parameters, "
                      "gradients and moments")


def rounded(value, digits: int):
    """Four digits are enough for times: the machine's noise is larger."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
