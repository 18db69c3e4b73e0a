"""Commands on a trained model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evenflow import _core, latent
from evenflow.calibrate import calibration as calibrated
from evenflow.cli.common import Answer, chosen, class_number, examples, given_context, given_label, quality
from evenflow.data import Dataset
from evenflow.data.table import Columns
from evenflow.density import bounds_of, column_names, core_of, for_flow, tell_of_redrawn
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.inpaint import MASKS, hidden_pixels, inpaint
from evenflow.runs import Plan, evaluate, held_out, tested
from evenflow.runs.export import decode_rows, encode_rows, write_data, write_samples
from evenflow.runs.stream import read_latents, read_rows
from evenflow.score import log_probs, score_rows

BFLOAT16 = {"amx": "matrices", "avx512_bf16": "pairs"}
"""What an instruction set multiplies at once."""
CALIBRATED = 1000
"""Rows that a calibration is tested on."""
STRENGTHS = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
"""Of an edit."""


# Numbers


def evaluate_command(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
                     columns: list[str] | None = None, context: list[str] | None = None, label: str | None = None,
                     weight: str | None = None) -> Answer:
    """Held-out log-likelihood, nats a row, or bits a dimension of images.

    evenflow eval runs/digits --json

    label: CSV, Parquet: column of classes, no number for the model
    weight: CSV, Parquet: column of what rows count for in the mean; default: the run's, where it is
    """
    part = held_out(flow, plan, data, size, chosen=Columns.of(columns, label, context, weight))
    result = evaluate(flow, part)
    return result, quality(result)


def score(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
          columns: list[str] | None = None, context: list[str] | None = None, seed: int = 0,
          reference: str | bool = False, out: str = "scores.csv") -> Answer:
    """Log-likelihood of every row, to a file. Large files are read piece by piece.

    evenflow score runs/digits images.npy --reference --out scores.csv

    reference: also p-values against these rows; without a name: the test part of the run's own data
    out: .csv or .npy
    """
    scores, weights = None, None
    if data is None and reference is True:
        raise ConfigError("[score] name DATA to score: the run's own are the --reference")
    if reference:
        rows = (read_rows(None, flow, plan) if isinstance(reference, bool) else
                read_rows(reference, flow, plan, columns, size, context))
        parts, counts = zip(*log_probs(flow, rows, seed))
        scores, weights = np.concatenate(parts), None if counts[0] is None else np.concatenate(counts)
    result = score_rows(flow, read_rows(data, flow, plan, columns, size, context), out, scores, seed, weights)
    weighted = "weighted " if result["weighted"] else ""
    return ({**result, "reference": None if scores is None else len(scores), "out": out},
            f"log-likelihood: {result['mean']:.4f} nats a row on average (higher is better), {result['min']:.4f} ... "
            f"{result['max']:.4f}, over {result['n']:,} {weighted}rows\n{out}")


def sample(flow: Flow, plan: Plan | None, *, n: int = 100, seed: int = 0, temperature: float = 1.0,
           label: str | None = None, given: list[str] | None = None, enlarge: int = 1, out: str | None = None,
           threads: int = 0) -> Answer:
    """Draw samples.

    evenflow sample runs/digits --n 64 --temperature 0.8 --out samples.png

    temperature: factor on the latent draw
    label: class, by name or number; default: all in turn
    given: context of a model that has one: its numbers, for all, or a file's name: N samples of each row
    enlarge: glow, realnvp: images so many times as high and wide as those it was trained on
    out: a picture (.png), an array (.npy), a table (.csv), or a new folder for single pictures; default: samples.png,
     for a table samples.csv or, without names of columns, samples.npy
    """
    number, context = given_label(label, plan), given_context(given, flow, needed=True)
    if enlarge != 1:
        flow = latent.enlarged(flow, enlarge, device=flow.device, threads=threads)
    out = out or "samples" + (".png" if flow.is_image else ".csv" if flow.columns else ".npy")
    source, names = Columns() if plan is None else plan.source, flow.columns or [str(j) for j in range(flow.dims)]
    n, lost = write_samples(flow, n, out, temperature, seed, number, flow.columns, context,
                            lambda x: source.rounded(x, names, bounds_of(flow)))
    tell_of_redrawn(lost, n)
    return {"n": n, "out": out}, out


def info(flow: Flow, plan: Plan | None, *, tensors: bool = False) -> Answer:
    """What a model is.

    evenflow info runs/digits --tensors

    tensors: all layers and tensors
    """
    levels, names = [list(shape) for _, shape in core_of(flow).levels()], column_names(flow)
    result: dict[str, Any] = {"config": flow.config, "parameters": flow.num_params, "dims": flow.dims,
                              "initialized": flow.initialized, "levels": levels, "instruction_set": _core.isa(),
                              "matmul_precision": _core.matmul_precision(), "columns": names}
    lines = [flow.summary() if tensors else repr(flow),
             *(f"{'columns' if what == 'x' else what}: {', '.join(own)}" for what, own in names.items()),
             f"latent levels: {', '.join(str(tuple(shape)) for shape in levels)}",
             f"instruction set: {_core.isa()}; matmul precision: {_core.matmul_precision()}"]
    if flow.config.get("conditioner_dtype") == "bfloat16":
        result["bfloat16"] = BFLOAT16.get(_core.isa(), "widened")
        lines.append(f"bfloat16 nets: multiplied as {result['bfloat16']} on this machine")
    if plan is not None:
        result["run"] = vars(plan)
        lines.append(f"trained on {plan.source.data}: {plan.settings}")
    if tensors:
        result["tensors"] = {name: list(v.shape) for name, v in flow.named_parameters().items()}
    return result, "\n".join(lines)


def verify(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
           columns: list[str] | None = None, context: list[str] | None = None, label: str | None = None,
           seed: int = 0, calibration: str | bool = False) -> Answer:
    """Test a model: inverse, log-determinant, gradients. Exit code 1: failed.

    evenflow verify runs/digits

    label: CSV, Parquet: column of classes, no number for the model
    calibration: tables: also test whether densities are as wide as they say, on up to 1,000 rows; with a name, its
     picture
    """
    part = tested(flow, held_out(flow, plan, data, size, chosen=Columns.of(columns, label, context)))
    found = flow.verify(part.x, seed=seed, **part.conditions)
    result, text = {**dataclasses.asdict(found), "ok": found.ok, "failures": found.failures}, str(found)
    if calibration is False:
        return result, text
    part = part[:CALIBRATED]
    report = calibrated(flow, part.x, part.context, seed=seed)
    if isinstance(calibration, str):
        report.plot(calibration)
    return {**result, "ok": found.ok and report.ok, "failures": found.failures + report.failures,
            "calibration": {"distances": report.distances, "band": report.band}}, f"{text}\n{report}"


# Latents, and work by gradients

def encode(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
           columns: list[str] | None = None, context: list[str] | None = None, out: str = "latents.npy") -> Answer:
    """Data to latents. Large files are read piece by piece.

    evenflow encode runs/digits images.npy --out latents.npy

    out: .npy, .csv, or .npz with labels or the context too
    """
    n = encode_rows(flow, read_rows(data, flow, plan, columns, size, context), out)
    return {"n": n, "dims": flow.dims, "out": out}, out


def decode(flow: Flow, plan: Plan | None, latents: str, *, label: str | None = None, given: list[str] | None = None,
           out: str = "decoded.npy") -> Answer:
    """Latents to data.

    evenflow decode runs/digits latents.npy --out decoded.png

    latents: file of `evenflow encode`: .npy, .csv or .npz
    label: class, by name or number; for latents without labels
    given: context of a model that has one: its numbers, for all, or a file's name: a row for each sample
    out: a picture (.png), an array (.npy) or, for images, a new folder; .csv for tables
    """
    number, context = given_label(label, plan), given_context(given, flow, needed=False)
    return {"n": decode_rows(flow, read_latents(latents), out, number, flow.columns, context), "out": out}, out


def reconstruct(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None, n: int = 10,
                rows: list[int] | None = None, seed: int = 0, keep: list[int] | None = None, rest: str = "zero",
                out: str | None = None) -> Answer:
    """Data through the latent space and back; with --keep, from the coarsest levels alone.

    evenflow reconstruct runs/digits --keep 2 1 --out reconstruct.png

    keep: so many of the coarsest levels; several: one line of pictures each (all levels)
    rest: the other levels: zero, redraw
    out: originals, then reconstructions: a picture (.png), a new folder or, as tables need, an array (.npy); default:
     reconstruct.png or .npy
    """
    batch, levels = examples(flow, plan, data, size, n, rows), len(core_of(flow).levels())
    shown, found = [latent.as_floats(flow, batch.x)], []
    with write_data("reconstruct", flow, out := _name(flow, "reconstruct", out), columns=len(batch)) as write:
        for kept in keep or [levels]:
            shown.append(latent.reconstruct(flow, batch.x, keep=kept, rest=rest, seed=seed, **batch.conditions))
            error = np.abs(shown[-1].astype(np.float64) - shown[0])
            found.append({"keep": kept, "worst_error": float(error.max()), "mean_error": float(error.mean())})
        write(np.stack(shown))
    unit = "levels" if flow.is_image else "units of the data"
    lines = [f"keep {r['keep']} of {levels} levels: worst error {r['worst_error']:.3g}, "
             f"mean error {r['mean_error']:.3g} {unit}" for r in found]
    return {"n": len(batch), "reconstructions": found, "out": out}, "\n".join([*lines, out])


def interpolate(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None, n: int = 8,
                rows: list[int] | None = None, manifold: bool = False, steps: int = 9,
                out: str | None = None) -> Answer:
    """From sample to sample through latent space: start and end in turn.

    evenflow interpolate runs/digits --rows 0 4 9 2 --steps 9 --out interpolate.png

    rows: rows of the data instead; default: the first, of one class where the model has classes
    manifold: Real NVP's manifold of four samples, on steps x steps angles
    steps: samples a line
    out: one line a pair: a picture (.png), a new folder or, as tables need, an array (.npy); default: interpolate.png
     or .npy
    """
    alike = 4 if manifold else 2
    batch = examples(flow, plan, data, size, 4 if manifold else n, rows, of_a_class=alike)
    if len(batch) % alike:
        raise ConfigError(f"[interpolate] expected rows in groups of {alike}, got {len(batch)}")
    for values in batch.conditions.values():
        groups = values.reshape(-1, alike, *values.shape[1:])
        if (groups != groups[:, :1]).any():
            raise ConfigError("[interpolate] start and end have to be of one class or context; choose such --rows")
    given = batch[::alike].conditions
    with write_data("interpolate", flow, out := _name(flow, "interpolate", out), columns=steps) as write:
        if manifold:
            write(latent.manifold(flow, batch.x, steps=steps, **{name: own[0] for name, own in given.items()}))
        else:
            write(latent.interpolate(flow, batch.x[0::2], batch.x[1::2], steps=steps, **given))
    return {"samples": len(batch), "steps": steps, "out": out}, out


def edit(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None, positive: list[str],
         negative: list[str] | None = None, n: int = 8, rows: list[int] | None = None,
         strengths: list[float] = STRENGTHS, out: str | None = None) -> Answer:
    """Move samples along an attribute vector: mean latent with the attribute minus without.

    evenflow edit runs/digits --positive 0 --negative 6 --out edit.png

    positive: attributes of the data (CelebA), or classes
    negative: those without; default: all others
    rows: rows of the data instead; default: the first without the attribute
    strengths: multiples of the vector
    out: one line a sample: a picture (.png), a new folder or, as tables need, an array (.npy); default: edit.png or
     .npy
    """
    part = held_out(flow, plan, data, size, labelled=True)
    marks = {}
    for which in ("train", "test") if part.test is not None else ("train",):
        has = _marked(part, positive, which)
        marks[which] = has, ~has if negative is None else _marked(part, negative, which)
    train = for_flow(flow, part.part("train"))
    direction = latent.attribute(flow, train.x, *marks["train"], **train.conditions)
    without = np.flatnonzero(marks[which][1] & ~marks[which][0])
    if rows is None and not len(without):
        raise ConfigError(f"[edit] no sample of the {which} part is without the attribute; choose --rows to edit")
    batch = chosen(for_flow(flow, part.part(which)), rows, without, n)
    with write_data("edit", flow, out := _name(flow, "edit", out), columns=len(strengths)) as write:
        write(latent.edit(flow, batch.x, direction, strengths, **batch.conditions))
    counts = [int(group.sum()) for group in marks["train"]]
    length = float(np.linalg.norm(direction))
    return ({"positive": counts[0], "negative": counts[1], "length": length, "strengths": strengths, "out": out},
            f"direction: {counts[0]} samples with the attribute, {counts[1]} without, length {length:.3g}\n{out}")


def inpaint_command(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
                    mask: list[str] | None = None, n: int = 10, rows: list[int] | None = None, seed: int = 0,
                    steps: int = 2000, out: str = "inpaint.png") -> Answer:
    """Fill in hidden pixels by noisy gradient ascent on the log-likelihood (NICE, section 5.2).

    evenflow inpaint runs/digits --mask top random75 --out inpaint.png

    mask: what is hidden, one after the other: top, bottom, even, odd, left, right, rows, columns, random75, random90,
     or all of these (top)
    steps: the authors took 111895
    out: originals, then a line of hidden and one of filled images a mask: .png, .npy or a new folder
    """
    batch, masks = examples(flow, plan, data, size, n, rows), MASKS if mask == ["all"] else mask or ["top"]
    if not flow.is_image:
        raise ConfigError("[inpaint] the model is of tables, which have no pixels")
    lines, error = [original := latent.as_floats(flow, batch.x)], {}
    with write_data("inpaint", flow, out, columns=len(batch)) as write:
        for one in masks:
            hidden = hidden_pixels(one, flow.shape[0], flow.shape[1], seed)
            grey = np.where(hidden[..., None], 2.0**flow.bits / 2, original).astype(flow.dtype)
            lines += [grey, inpaint(flow, batch.x, hidden, steps=steps, seed=seed, **batch.conditions)]
            error[one] = float(np.abs(lines[-1] - original)[:, hidden].mean())
        write(np.stack(lines))
    text = [f"{one}: hidden pixels {value:.2f} levels from the original on average" for one, value in error.items()]
    return {"n": len(batch), "mean_error": error, "out": out}, "\n".join([*text, out])


def _name(flow: Flow, command: str, out: str | None) -> str:
    """By default a picture, or for a table an array."""
    return out or command + (".png" if flow.is_image else ".npy")


def _marked(part: Dataset, names: list[str], which: str) -> np.ndarray:
    """Which samples of one part, "train" or "test", have one of some attributes or classes, (N,) bool."""
    known, values, labels = part.attributes, getattr(part, f"{which}_attributes"), part.part(which).label
    if not known:
        if labels is None:
            raise ConfigError("[edit] the data have no labels and no attributes to edit by")
        known, values = part.classes, labels[:, None] == np.arange(len(part.classes))
    return np.asarray(values[:, [class_number(name, known) for name in names]].any(axis=1))
