"""Commands on a trained model: eval, score, sample, info, verify."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evenflow import _core
from evenflow.cli.common import Answer, given_context, given_label, quality
from evenflow.data.table import Columns
from evenflow.density import column_names, core_of
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.latent import enlarged
from evenflow.runs import Plan, evaluate, held_out, tested
from evenflow.runs.export import write_samples
from evenflow.runs.stream import read_rows
from evenflow.score import log_probs, score_rows

BFLOAT16 = {"amx": "matrices", "avx512_bf16": "pairs"}
"""What an instruction set multiplies at once."""


def evaluate_command(flow: Flow, plan: Plan | None, data: str | None = None, *, size: int | None = None,
                     columns: list[str] | None = None, context: list[str] | None = None, label: str | None = None,
                     weight: str | None = None) -> Answer:
    """Mean log-likelihood of held-out data, bits/dim of images.

    evenflow eval runs/digits --json

    label: CSV, Parquet: column of classes, no number for the model
    weight: CSV, Parquet: column of what rows count for in the mean; default: the run's, where it is
    """
    part = held_out(flow, plan, data, size, chosen=Columns.of(columns, label, context, weight))
    result = evaluate(flow, part)
    return result, f"{quality(result)} on {result['n']} samples"


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
        rows = (read_rows(None, flow, plan, None, size) if isinstance(reference, bool) else
                read_rows(reference, flow, plan, columns, size, context))
        parts, counts = zip(*log_probs(flow, rows, seed))
        scores, weights = np.concatenate(parts), None if counts[0] is None else np.concatenate(counts)
    result = score_rows(flow, read_rows(data, flow, plan, columns, size, context), out, scores, seed, weights)
    weighted = " (weighted)" if result["weighted"] else ""
    return ({**result, "reference": None if scores is None else len(scores), "out": out},
            f"{result['n']} rows, log-likelihood {result['mean']:.4f} nats on average{weighted}, {result['min']:.4f} "
            f"... {result['max']:.4f}\n{out}")


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
        flow = enlarged(flow, enlarge, device=flow.device, threads=threads)
    out = out or "samples" + (".png" if flow.is_image else ".csv" if flow.columns else ".npy")
    n = write_samples(flow, n, out, temperature, seed, number, flow.columns, context)
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
             f"latent levels: {', '.join(str(tuple(shape)) for shape in levels)}", f"instruction set: {_core.isa()}"]
    if flow.device != "cpu":
        lines.append(f"matmul precision: {_core.matmul_precision()}")
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
           seed: int = 0) -> Answer:
    """Test a model: inverse, log-determinant, gradients. Exit code 1: failed.

    evenflow verify runs/digits

    label: CSV, Parquet: column of classes, no number for the model
    """
    part = tested(flow, held_out(flow, plan, data, size, chosen=Columns.of(columns, label, context)))
    found = flow.verify(part.x, seed=seed, **part.conditions)
    return {**dataclasses.asdict(found), "ok": found.ok, "failures": found.failures}, str(found)
