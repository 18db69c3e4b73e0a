"""Commands on a trained model: eval, score, sample, info, verify."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from evenflow import _core
from evenflow._border.batch import Batch
from evenflow.cli.common import (MODEL, MODEL_AND_DATA, SEED, TABLE, Answer, argument, conditions_arguments,
                                 given_context, given_label, model_command, quality, switch)
from evenflow.data import Dataset
from evenflow.data.table import Columns
from evenflow.density import column_names, core_of
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.latent import enlarged
from evenflow.runs import Plan, evaluate, held_out, tested
from evenflow.runs.export import write_samples
from evenflow.runs.stream import read_rows
from evenflow.score import log_probs, score_rows

BFLOAT16 = {"amx": ("matrices", "multiplied as small matrices by this machine's instructions"),
            "avx512_bf16": ("pairs", "multiplied in pairs by this machine's instructions")}


def evaluate_command(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    result = evaluate(flow, _part(args, flow, plan, args.weight))
    return result, f"{quality(result)} on {result['n']} samples"


def score(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    reference, weights = None, None
    if args.data is None and args.reference == "":
        raise ConfigError("[score] name DATA to score: the run's own are the --reference")
    if args.reference is not None:
        chosen = (args.columns, args.size, args.context) if args.reference else (None, args.size, None)
        reference, weights = _scored(flow, read_rows(args.reference or None, flow, plan, *chosen), args.seed)
    rows = read_rows(args.data, flow, plan, args.columns, args.size, args.context)
    result = score_rows(flow, rows, args.out, reference, args.seed, weights)
    weighted = " (weighted)" if result["weighted"] else ""
    return ({**result, "reference": None if reference is None else len(reference), "out": args.out},
            f"{result['n']} rows, log-likelihood {result['mean']:.4f} nats on average{weighted}, {result['min']:.4f} "
            f"... {result['max']:.4f}\n{args.out}")


def _scored(flow: Flow, rows: Iterable[Batch], seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """log_prob of all rows, and what they count for."""
    weights: list[np.ndarray] = []

    def noted() -> Iterator[Batch]:
        for batch in rows:
            weights.extend(() if batch.weight is None else (batch.weight,))
            yield batch

    scores = np.concatenate(list(log_probs(flow, noted(), seed)))
    return scores, np.concatenate(weights) if weights else None


def sample(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    label, context = given_label(args, plan), given_context(args, flow, needed=True)
    if args.enlarge != 1:
        flow = enlarged(flow, args.enlarge, device=args.device, threads=args.threads)
    out = args.out or "samples" + (".png" if flow.is_image else ".csv" if flow.columns else ".npy")
    n = write_samples(flow, args.n, out, args.temperature, args.seed, label, flow.columns, context)
    return {"n": n, "out": out}, out


def info(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    levels, names = [list(shape) for _, shape in core_of(flow).levels()], column_names(flow)
    result: dict[str, Any] = {"config": flow.config, "parameters": flow.num_params, "dims": flow.dims,
                              "initialized": flow.initialized, "levels": levels, "instruction_set": _core.isa(),
                              "matmul_precision": _core.matmul_precision(), "columns": names}
    lines = [repr(flow), *(f"{'columns' if what == 'x' else what}: {', '.join(own)}" for what, own in names.items()),
             "latent levels: " + ", ".join(str(tuple(shape)) for shape in levels), f"instruction set: {_core.isa()}"]
    if flow.device != "cpu":
        lines.append(f"matmul precision: {_core.matmul_precision()}")
    if flow.config.get("conditioner_dtype") == "bfloat16":
        result["bfloat16"], text = BFLOAT16.get(
            _core.isa(), ("widened", "widened to float32 on this machine, at float32's speed"))
        lines.append(f"bfloat16 nets: {text}")
    if plan is not None:
        result["run"] = vars(plan)
        lines.append(f"trained on {plan.source.data}: {plan.settings}")
    if args.tensors:
        result["tensors"] = {name: list(v.shape) for name, v in flow.named_parameters().items()}
        lines += [f"{name} {tuple(shape)}" for name, shape in result["tensors"].items()]
    return result, "\n".join(lines)


def verify(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> Answer:
    data = tested(flow, _part(args, flow, plan))
    found = flow.verify(data.x, seed=args.seed, **data.conditions)
    return {**dataclasses.asdict(found), "ok": found.ok, "failures": found.failures}, str(found)


def _part(args: argparse.Namespace, flow: Flow, plan: Plan | None, weight: str | None = None) -> Dataset:
    chosen = Columns.of(args.columns, args.label, args.context, weight)
    return held_out(flow, plan, args.data, args.size, chosen=chosen)


def add_commands(commands: Any) -> None:
    """Declares them."""
    label = argument("--label", "CSV, Parquet: column of classes, no number for the model", metavar="NAME")
    model_command(commands, "eval", evaluate_command, "Mean log-likelihood of held-out data, bits/dim of images.",
                  "runs/digits --json", *MODEL_AND_DATA, *TABLE, label,
                  argument("--weight", "CSV, Parquet: column of what rows count for in the mean; default: the run's, "
                           "where it is", metavar="NAME"))
    model_command(commands, "score", score,
                  "Log-likelihood of every row, to a file. Large files are read piece by piece.",
                  "runs/digits images.npy --reference --out scores.csv", *MODEL_AND_DATA, *TABLE, SEED,
                  argument("--reference", "also p-values against these rows; without DATA: the test part of the run's "
                           "own", nargs="?", const="", metavar="DATA"),
                  argument("--out", ".csv or .npy", default="scores.csv"))
    model_command(commands, "sample", sample, "Draw samples.",
                  "runs/digits --n 64 --temperature 0.8 --out samples.png", MODEL, SEED,
                  argument("--n", "number of samples", type=int, default=100),
                  argument("--temperature", "factor on the latent draw", type=float, default=1.0),
                  *conditions_arguments("default: all in turn", "N samples of each row"),
                  argument("--enlarge", "glow, realnvp: images K times as high and wide as those it was trained on",
                           type=int, default=1, metavar="K"),
                  argument("--out", "a picture (.png), an array (.npy), a table (.csv), or a new folder for single "
                           "pictures; default: samples.png, for a table samples.csv or, without names of columns, "
                           "samples.npy"))
    model_command(commands, "info", info, "What a model is.", "runs/digits --tensors", MODEL,
                  switch("--tensors", "list all tensors"))
    model_command(commands, "verify", verify, "Test a model: inverse, log-determinant, gradients. Exit code 1: failed.",
                  "runs/digits", *MODEL_AND_DATA, *TABLE, label, SEED)
