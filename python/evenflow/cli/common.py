"""What the commands share: how they are declared, which data they take, how they report."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
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
OnModel = Callable[[argparse.Namespace, Flow, "Plan | None"], int]


def argument(name: str, help: str | None = None, **options: Any) -> Argument:
    """The declaration of one argument of a command, see argparse; its line of help ends with the default."""
    usual = options.get("default")
    shown = "" if usual is None or help is None or "store_true" in options.values() else f" ({usual})"
    return name, {"help": None if help is None else help + shown, **options}


MODEL = argument("path", "folder of a run, or a model file", metavar="MODEL")
MODEL_AND_DATA = (MODEL, argument("data", "data; default: the test part of the run's own", nargs="?", metavar="DATA"),
                  argument("--size", "folder of images: crop and resize to SIZE x SIZE", type=int))
TABLE = (argument("--columns", "CSV, Parquet: columns; default: the run's", nargs="+", metavar="NAME"),
         argument("--context", "CSV, Parquet: columns that the density is given; default: the run's", nargs="+",
                  metavar="NAME"))
SEED = argument("--seed", "of what is drawn", type=int, default=0)


def conditions_arguments(label: str, rows: str) -> tuple[Argument, ...]:
    """What `given_label` and `given_context` read."""
    return (argument("--label", f"class, by name or number; {label}"),
            argument("--given", "context of a model that has one: its numbers, for all, or a file's name: " + rows,
                     nargs="+", metavar="GIVEN"))


def rows_arguments(count: int, default: str = "the first") -> tuple[Argument, ...]:
    """What `examples` reads."""
    return (argument("--n", "number of samples", type=int, default=count),
            argument("--rows", f"rows of the data instead; default: {default}", type=int, nargs="+", metavar="ROW"))


def command(commands: Any, name: str, run: Any, text: str, example: str, *arguments: Argument) -> Any:
    """Declares one command; `run` takes its arguments and returns the exit code."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example:\n  {example}", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    sub._negative_number_matcher = NEGATIVE  # argparse takes -1e-3 for an option
    sub.set_defaults(run=run, parser=sub, flags=_flags)
    for flag, options in (*arguments, argument("--device", "cpu or cuda", default="cpu"),
                          argument("--threads", "0: all cores", type=int, default=0),
                          argument("--matmul-precision", "float32 nets on a GPU: highest, or high for half of the "
                                   "products", default="highest", choices=("highest", "high")),
                          argument("--json", "print the result as one line of JSON", action="store_true")):
        sub.add_argument(flag, **options)
    return sub


def model_command(commands: Any, name: str, run: OnModel, text: str, example: str, *arguments: Argument) -> None:
    """Declares a command on a model, which `run` takes too, with the plan of its run."""
    command(commands, name, lambda args: run(args, *open_model(args.path, args.device, args.threads)), text, example,
            *arguments)


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Options by the names of their values, but those that name columns: errors speak of what is in these."""
    return {action.dest: action.option_strings[0] for action in parser._actions
            if action.option_strings and action.dest not in ("context", "label", "weight")}


def hint(name: str, known: Iterable[str]) -> str:
    """"; did you mean ...?" where an option has a name like this one, or is its initials, as lr of learning-rate."""
    known, words = list(known), re.split("[-_]", name.strip("-"))
    initials = [one for one in known if len(words) > 1 and one.strip("-") == "".join(word[:1] for word in words)]
    near = initials or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


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
    return data[chosen_rows(args, usual, len(data))]


def chosen_rows(args: argparse.Namespace, usual: np.ndarray, count: int) -> np.ndarray:
    """--rows, checked against the number of samples, else the first --n of the usual ones."""
    rows = usual[:max(args.n, 0)] if args.rows is None else np.array(args.rows)
    if len(rows) == 0:
        raise ConfigError(f"[data] --n {args.n} asks for no samples")
    if rows.min() < 0 or rows.max() >= count:
        raise ConfigError(f"[data] --rows are in 0 ... {count - 1} for these data, not {rows.tolist()}")
    return rows


def given_label(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> int | None:
    """The number of the class that --label names."""
    if args.label is None:
        return None
    if not flow.classes:
        raise ConfigError("[label] label given, but the model has no classes")
    number = class_number(args.label, plan.classes if plan is not None else [])
    if number >= flow.classes:
        raise ConfigError(f"[label] expected a label in 0 ... {flow.classes - 1}, got {number}")
    return number


def class_number(label: str, classes: list[str]) -> int:
    """The number of a class, from its name or number."""
    if label in classes:
        return classes.index(label)
    number = int(label) if label.isdecimal() and len(label) < 19 else None  # Python reads 4300 digits at most
    if number is not None and (not classes or number < len(classes)):
        return number
    known = ", ".join(classes) if classes else "a number"
    raise ConfigError(f"[label] expected a label out of {known}, got {label!r}")


def given_context(args: argparse.Namespace, flow: Flow, plan: Plan | None, *, needed: bool) -> np.ndarray | None:
    """What --given says: (C,), or (M, C) of a file's rows; of a .npz file that has a context, of this."""
    if args.given is None and not (needed and flow.context):
        return None
    said = " ".join(args.given or ["nothing"])
    if not flow.context:
        raise ConfigError(f"[given] --given {said}, but the model has no context")
    columns = column_names(flow).get("context")
    names = f" ({', '.join(columns)})" if columns else ""
    try:
        numbers = np.array([float(one) for one in args.given or ()])
    except ValueError:
        numbers = np.empty(0)
        if len(args.given) == 1:
            table = read_npz_context(said) if said.lower().endswith(".npz") else None
            if table is None:
                table = load(said, columns=columns if said.lower().endswith(TABLES) else None).train[:]
            if table.ndim == 2 and table.shape[1] == flow.context:
                return table
            raise ConfigError(f"[given] {said}: expected {flow.context} columns{names}, got data of "
                              f"{table.shape[1:]}") from None
    if len(numbers) != flow.context or not np.isfinite(numbers).all():
        raise ConfigError(f"[given] expected --given with {flow.context} numbers{names}, or with the name of a file, "
                          f"got {said}")
    return numbers


# Results

def report(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Prints a result as text or JSON, which has None for numbers that it lacks."""
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write(json.dumps(finite(result)) if args.json else text)


def quality(result: dict[str, Any]) -> str:
    """What a model reaches on data, with its error: "log-likelihood -38.0253 +- 0.0200 nats", or bits/dim of images."""
    name, unit, value = ("", "bits/dim", result["bits_per_dim"]) if "bits_per_dim" in result else (
        "log-likelihood ", "nats", -result["nll_nats"])
    error = result["nll_nats_error" if name else "bits_per_dim_error"]
    spread, how = "" if error is None else f"+- {error:.4f} ", " (weighted)" if result["weighted"] else ""
    return f"{name}{value:.4f} {spread}{unit}{how}"
