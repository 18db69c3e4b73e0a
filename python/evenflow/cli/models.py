"""Commands on a trained model: eval, score, sample, info, verify."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from evenflow import _core
from evenflow.cli.common import (command, given_arguments, given_context, given_label, model_and_data, model_argument,
                                 quality, report, table_arguments)
from evenflow.data import Dataset
from evenflow.data.table import Columns
from evenflow.errors import ConfigError
from evenflow.runs.export import write_samples
from evenflow._border.files import Weighted
from evenflow.flow import Flow
from evenflow.latent import enlarged
from evenflow.runs import Plan, evaluate, held_out, open_model, tested
from evenflow.score import log_probs, score_rows
from evenflow.runs.stream import read_rows


def evaluate_command(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    result = evaluate(flow, _part(args, flow, plan, args.weight))
    report(args, result, f"{quality(result)} on {result['n']} samples")
    return 0


def score(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    reference, weights = None, None
    if args.data is None and args.reference == "":
        raise ConfigError("[score] name DATA to score: the run's own are the --reference")
    if args.reference is not None:
        chosen = (args.columns, args.size, args.context) if args.reference else (None, args.size, None)
        reference, weights = _scored(flow, read_rows(args.reference or None, flow, plan, *chosen), args.seed)
    rows = read_rows(args.data, flow, plan, args.columns, args.size, args.context)
    result = score_rows(flow, rows, args.out, reference, args.seed, weights)
    report(args, {**result, "reference": None if reference is None else len(reference), "out": args.out},
           f"{result['n']} rows, log-likelihood {result['mean']:.4f} nats on average"
           f"{' (weighted)' if result['weighted'] else ''}, {result['min']:.4f} ... {result['max']:.4f}\n{args.out}")
    return 0


def _scored(flow: Flow, rows: Iterable[Weighted], seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """log_prob of all rows, and what they count for."""
    weights: list[np.ndarray] = []

    def noted() -> Iterator[Weighted]:
        for x, given, weight in rows:
            weights.extend(() if weight is None else (weight,))
            yield x, given, weight

    scores = np.concatenate(list(log_probs(flow, noted(), seed)))
    return scores, np.concatenate(weights) if weights else None


def sample(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    label, context = given_label(args, flow, plan), given_context(args, flow, plan, needed=True)
    if args.enlarge != 1:
        flow = enlarged(flow, args.enlarge, device=args.device, threads=args.threads)
    usual = "samples" + (".png" if flow.is_image else ".csv" if flow.columns else ".npy")
    out = usual if args.out is None else args.out
    n = write_samples(flow, args.n, out, args.temperature, args.seed, label, flow.columns, context)
    report(args, {"n": n, "out": out}, out)
    return 0


def info(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    result: dict[str, Any] = {"config": flow.config, "parameters": flow.num_params, "dims": flow.dims,
                              "initialized": flow.initialized,
                              "levels": [list(shape) for _, shape in flow._core.levels()],
                              "instruction_set": _core.isa(), "matmul_precision": _core.matmul_precision()}
    result["columns"] = flow._names
    lines = [repr(flow), *(f"{'columns' if what == 'x' else what}: {', '.join(names)}" for what, names in
                           flow._names.items()),
             "latent levels: " + ", ".join(map(str, map(tuple, result["levels"]))),
             f"instruction set: {_core.isa()}"]
    if flow.device != "cpu":
        lines.append(f"matmul precision: {_core.matmul_precision()}")
    if flow.config.get("conditioner_dtype") == "bfloat16":
        result["bfloat16"], text = {
            "amx": ("matrices", "multiplied as small matrices by this machine's instructions"),
            "avx512_bf16": ("pairs", "multiplied in pairs by this machine's instructions")}.get(
                _core.isa(), ("widened", "widened to float32 on this machine, at float32's speed"))
        lines.append(f"bfloat16 nets: {text}")
    if plan is not None:
        result["run"] = dataclasses.asdict(plan)
        lines.append(f"trained on {plan.source.path}: {plan.training}")
    if args.tensors:
        result["tensors"] = {name: list(v.shape) for name, v in flow.named_parameters().items()}
        lines += [f"{name} {tuple(shape)}" for name, shape in result["tensors"].items()]
    report(args, result, "\n".join(lines))
    return 0


def verify(args: argparse.Namespace) -> int:
    flow, plan = open_model(args.path, args.device, args.threads)
    data = tested(flow, _part(args, flow, plan))
    found = flow.verify(data.x, seed=args.seed, **data.conditions)
    report(args, {**dataclasses.asdict(found), "ok": found.ok, "failures": found.failures}, str(found))
    return 0 if found.ok else 1


def _part(args: argparse.Namespace, flow: Flow, plan: Plan | None, weight: str | None = None) -> Dataset:
    chosen = Columns.of(args.columns, args.label, args.context, weight)
    return held_out(flow, plan, args.data, args.size, chosen=chosen)


def _table_arguments(sub: argparse.ArgumentParser) -> None:
    table_arguments(sub)
    sub.add_argument("--label", metavar="NAME", help="CSV, Parquet: column of classes, no number for the model")


def _add_score(commands: Any) -> None:
    sub = command(commands, "score", score,
                  "Log-likelihood of every row, to a file. Large files are read piece by piece.",
                  "evenflow score runs/digits images.npy --reference --out scores.csv")
    model_and_data(sub)
    table_arguments(sub)
    sub.add_argument("--reference", nargs="?", const="", metavar="DATA",
                     help="also p-values against these rows; without DATA: the test part of the run's own")
    sub.add_argument("--seed", type=int, default=0, help="of the noise that images get")
    sub.add_argument("--out", default="scores.csv", metavar="FILE", help=".csv or .npy (scores.csv)")


def add_commands(commands: Any) -> None:
    sub = command(commands, "eval", evaluate_command, "Mean negative log-likelihood of held-out data.",
                  "evenflow eval runs/digits --json")
    model_and_data(sub)
    _table_arguments(sub)
    sub.add_argument("--weight", metavar="NAME",
                     help="CSV, Parquet: column of what rows count for in the mean; default: the run's, where it is")
    _add_score(commands)
    sub = command(commands, "sample", sample, "Draw samples.",
                  "evenflow sample runs/digits --n 64 --temperature 0.8 --out samples.png")
    model_argument(sub)
    sub.add_argument("--n", type=int, default=100, help="number of samples (100)")
    sub.add_argument("--temperature", type=float, default=1.0, help="factor on the latent draw (1.0)")
    sub.add_argument("--seed", type=int, default=0)
    given_arguments(sub, "default: all in turn", "N samples of each row")
    sub.add_argument("--enlarge", type=int, default=1, metavar="K",
                     help="glow, realnvp: images K times as high and wide as those it was trained on")
    sub.add_argument("--out", metavar="FILE",
                     help="a picture (.png), an array (.npy), a table (.csv), or a new folder for single "
                          "pictures; default: samples.png, for a table samples.csv or, without names of columns, "
                          "samples.npy")
    sub = command(commands, "info", info, "What a model is.", "evenflow info runs/digits --tensors")
    model_argument(sub)
    sub.add_argument("--tensors", action="store_true", help="list all tensors")
    sub = command(commands, "verify", verify,
                  "Test a model: inverse, log-determinant, gradients. Exit code 1: failed.",
                  "evenflow verify runs/digits")
    model_and_data(sub)
    _table_arguments(sub)
    sub.add_argument("--seed", type=int, default=0)
