"""What the commands share: how they are declared, which data they take, how they report."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow._border.batch import Batch
from evenflow._border.console import write
from evenflow.data import load
from evenflow.data.numpy_files import read_npz_context
from evenflow.data.table import TABLES
from evenflow.density import column_names
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.runs import Plan, held_out, open_model, tested

NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
Argument = tuple[str, dict[str, Any]]
Answer = tuple[dict[str, Any], str]
"""What a command found, for --json, and in words."""


def argument(name: str, help: str, default: Any = None, many: bool = False, **options: Any) -> Argument:
    """The declaration of one argument of a command, see argparse; its line of help ends with the default."""
    shown = f"{help} ({default})" if default is not None else help
    return name, {"help": shown, "default": default, **({"nargs": "+"} if many else {}), **options}


def switch(name: str, help: str) -> Argument:
    """The declaration of an option without a value."""
    return name, {"help": help, "action": "store_true"}


MODEL = argument("path", "folder of a run, or a model file", metavar="MODEL")
MODEL_AND_DATA = (MODEL, argument("data", "data; default: the test part of the run's own", nargs="?", metavar="DATA"),
                  argument("--size", "folder of images: crop and resize to SIZE x SIZE", type=int))
TABLE = (argument("--columns", "CSV, Parquet: columns; default: the run's", many=True, metavar="NAME"),
         argument("--context", "CSV, Parquet: columns that the density is given; default: the run's", many=True,
                  metavar="NAME"))
SEED = argument("--seed", "of what is drawn", type=int, default=0)
COMMON = (argument("--device", "cpu or cuda", default="cpu"),
          argument("--threads", "0: all cores", type=int, default=0, metavar="N"),
          argument("--matmul-precision", "float32 nets on a GPU: highest, or high for half of the products",
                   default="highest", choices=("highest", "high")),
          switch("--json", "print the result as one line of JSON"))


def conditions_arguments(label: str, rows: str) -> tuple[Argument, ...]:
    """What `given_label` and `given_context` read."""
    return (argument("--label", f"class, by name or number; {label}"),
            argument("--given", f"context of a model that has one: its numbers, for all, or a file's name: {rows}",
                     many=True, metavar="GIVEN"))


def rows_arguments(count: int, default: str = "the first") -> tuple[Argument, ...]:
    """What `examples` reads."""
    return (argument("--n", "number of samples", type=int, default=count),
            argument("--rows", f"rows of the data instead; default: {default}", many=True, type=int, metavar="ROW"))


def command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str,
            *arguments: Argument) -> argparse.ArgumentParser:
    """Declares one command; `run` takes its arguments and returns the exit code."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example:\n  evenflow {name} {example}", allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30))
    sub._negative_number_matcher = NEGATIVE  # argparse takes -1e-3 for an option
    sub.set_defaults(run=run, parser=sub)
    for flag, options in (*arguments, *COMMON):
        sub.add_argument(flag, **options)
    return sub


def model_command(commands: Any, name: str, run: Callable[[argparse.Namespace, Flow, Plan | None], Answer], text: str,
                  example: str, *arguments: Argument) -> None:
    """Declares a command on a model, which `run` takes too, with the plan of its run. An answer with ok=False fails."""
    def answered(args: argparse.Namespace) -> int:
        result, words = run(args, *open_model(args.path, args.device, args.threads))
        report(args, result, words)
        return 0 if result.get("ok", True) else 1

    command(commands, name, answered, text, example, *arguments)


# Data

def examples(args: argparse.Namespace, flow: Flow, plan: Plan | None, of_a_class: int = 0) -> Batch:
    """The samples that --rows asks for, else the first --n.

    of_a_class: where not 0, those of the class with most samples, an even number, if there are so many.
    """
    data = tested(flow, held_out(flow, plan, args.data, args.size))
    usual = np.arange(len(data))
    if of_a_class and data.label is not None:
        alike = np.flatnonzero(data.label == np.bincount(data.label).argmax())
        usual = alike[:len(alike) // 2 * 2] if len(alike) >= of_a_class else usual
    return chosen(args, data, usual)


def chosen(args: argparse.Namespace, data: Batch, usual: np.ndarray) -> Batch:
    """--rows of the data, else the first --n of the usual ones."""
    rows = usual[:max(args.n, 0)] if args.rows is None else np.array(args.rows)
    if len(rows) == 0:
        raise ConfigError(f"[data] --n {args.n} asks for no samples")
    if rows.min() < 0 or rows.max() >= len(data):
        raise ConfigError(f"[data] --rows are in 0 ... {len(data) - 1} for these data, not {rows.tolist()}")
    return data[rows]


def class_number(label: str, classes: list[str]) -> int:
    """The number of a class, from its name or number."""
    if label in classes:
        return classes.index(label)
    number = int(label) if label.isdecimal() and len(label) < 19 else None  # Python reads 4300 digits at most
    if number is not None and (not classes or number < len(classes)):
        return number
    known = ", ".join(classes) if classes else "a number"
    raise ConfigError(f"[label] expected a label out of {known}, got {label!r}")


def given_label(args: argparse.Namespace, plan: Plan | None) -> int | None:
    """The number of the class that --label names."""
    return None if args.label is None else class_number(args.label, [] if plan is None else plan.classes)


def given_context(args: argparse.Namespace, flow: Flow, *, needed: bool) -> np.ndarray | None:
    """What --given says: (C,), or (M, C) of a file's rows; of a .npz file that has a context, of this."""
    if args.given is None and not (needed and flow.context):
        return None
    said = args.given or []
    if not flow.context:
        raise ConfigError(f"[given] --given {' '.join(said)}, but the model has no context")
    columns = column_names(flow).get("context")
    try:
        numbers = np.array([float(one) for one in said])
    except ValueError:
        numbers = _read_context(said[0], columns) if len(said) == 1 else np.empty(0)
    if numbers.shape[-1] != flow.context or not np.isfinite(numbers).all():
        names = f" ({', '.join(columns)})" if columns else ""
        raise ConfigError(f"[given] expected --given with {flow.context} numbers{names}, or with the name of a file "
                          f"that has as many columns, got {' '.join(said) or 'nothing'}")
    return numbers


def _read_context(path: str, columns: list[str] | None) -> np.ndarray:
    context = read_npz_context(path) if path.lower().endswith(".npz") else None
    if context is None:
        context = np.asarray(load(path, columns=columns if path.lower().endswith(TABLES) else None).train[:])
    return context.reshape(len(context), -1)


# Results

def report(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Prints a result as text or JSON, which has null for numbers that are none."""
    write(json.dumps(json.loads(json.dumps(result), parse_constant=lambda name: None)) if args.json else text)


def quality(result: dict[str, Any]) -> str:
    """What a model reaches on data, with its error: "log-likelihood -38.0253 +- 0.0200 nats", or bits/dim of images."""
    name, unit, value = ("", "bits/dim", result["bits_per_dim"]) if "bits_per_dim" in result else (
        "log-likelihood ", "nats", -result["nll_nats"])
    error = result["nll_nats_error" if name else "bits_per_dim_error"]
    spread, how = "" if error is None else f"+- {error:.4f} ", " (weighted)" if result["weighted"] else ""
    return f"{name}{value:.4f} {spread}{unit}{how}"
