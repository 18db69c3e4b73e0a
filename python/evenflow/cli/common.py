"""What the commands share: how they are declared, which data they take, how they report."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from evenflow._border.console import write
from evenflow.data import load
from evenflow.data.numpy_files import read_npz_context
from evenflow.data.table import TABLES
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.runs import Plan, held_out, tested

NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


def command(commands: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    """Declares one command; `run` takes its arguments and returns the exit code."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example:\n  {example}", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    sub._negative_number_matcher = NEGATIVE  # argparse takes -1e-3 for an option
    sub.set_defaults(run=run, parser=sub)
    sub.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    sub.add_argument("--threads", type=int, default=0, help="0 (default): all cores")
    sub.add_argument("--matmul-precision", default="highest", choices=("highest", "high"),
                     help="float32 nets on a GPU: highest (default), or high for half of the products")
    sub.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return sub


def hint(name: str, known: Iterable[str]) -> str:
    """"; did you mean ...?" where an option has a name like this one, or is its initials, as lr of learning-rate."""
    known, words = list(known), re.split("[-_]", name.strip("-"))
    initials = [one for one in known if len(words) > 1 and one.strip("-") == "".join(word[:1] for word in words)]
    near = initials or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def spelled(text: str, flags: dict[str, str]) -> str:
    """An error as the command line spells it: --batch-size for batch_size=3 and "expected batch_size >= 1"."""
    name = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    if name:
        listed = rf"(?<=expected )(?:{name})(?:(?:, | and )(?:{name}))*(?= (?:with |to be |in \d|[<>=]))"
        text = re.sub(listed, lambda found: re.sub(name, lambda one: flags[one[0]], found[0]), text)
        text = re.sub(rf"(?<![\w./=-])({name})(?: ?= ?)", lambda found: flags[found[1]] + " ", text)
        text = re.sub(rf"(?<![\w./=-])({name})(?![\w./=-])",
                      lambda found: flags[found[1]] if "_" in found[1] else found[1], text)
    return text


def model_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", metavar="MODEL", help="folder of a run, or a model file")


def model_and_data(sub: argparse.ArgumentParser) -> None:
    model_argument(sub)
    sub.add_argument("data", nargs="?", metavar="DATA", help="data; default: the test part of the run's own")
    sub.add_argument("--size", type=int, help="folder of images: crop and resize to SIZE x SIZE")


def table_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--columns", nargs="+", metavar="NAME", help="CSV, Parquet: columns; default: the run's")
    sub.add_argument("--context", nargs="+", metavar="NAME",
                     help="CSV, Parquet: columns that the density is given; default: the run's")


def given_arguments(sub: argparse.ArgumentParser, label: str, rows: str) -> None:
    """What `given` reads."""
    sub.add_argument("--label", help=f"class, by name or number; {label}")
    sub.add_argument("--given", nargs="+", metavar="GIVEN",
                     help=f"context of a model that has one: its numbers, for all, or a file's name: {rows}")


def rows_arguments(sub: argparse.ArgumentParser, count: int, default: str = "the first") -> None:
    sub.add_argument("--n", type=int, default=count, help=f"number of samples ({count})")
    sub.add_argument("--rows", type=int, nargs="+", metavar="ROW",
                     help=f"rows of the data instead; default: {default}")


def examples(args: argparse.Namespace, flow: Flow, plan: Plan | None, *,
             of_a_class: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples that --rows asks for, else the first --n; and what the model's density is given, if anything.

    of_a_class: where not 0, those of the class with most samples, an even number, if there are so many.
    """
    data = tested(flow, held_out(flow, plan, args.data, args.size))
    x, given = data.x, data.given
    usual = np.arange(len(x))
    if of_a_class and flow.classes and given is not None:
        alike = np.flatnonzero(given == np.bincount(given).argmax())
        usual = alike[:len(alike) // 2 * 2] if len(alike) >= of_a_class else usual
    rows = chosen_rows(args, usual, len(x))
    return x[rows], given[rows] if given is not None else None


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
    """What --given says: (C,), or (M, C) of a file's rows."""
    if args.given is None and not (needed and flow.context):
        return None
    said = " ".join(args.given or ["nothing"])
    if not flow.context:
        raise ConfigError(f"[given] --given {said}, but the model has no context")
    columns = flow._names.get("context")
    names = f" ({', '.join(columns)})" if columns else ""
    wanted = f"expected --given with {flow.context} numbers{names}, or with the name of a file, got {said}"
    if args.given is None:
        raise ConfigError(f"[given] {wanted}")
    try:
        numbers = np.array([float(one) for one in args.given])
    except ValueError:
        if len(args.given) > 1:
            raise ConfigError(f"[given] {wanted}") from None
        table = _read_context(said, columns)
        if table.ndim != 2 or table.shape[1] != flow.context:
            raise ConfigError(f"[given] {said}: expected {flow.context} columns{names}, got data of "
                              f"{table.shape[1:]}") from None
        return table
    if len(numbers) != flow.context or not np.isfinite(numbers).all():
        raise ConfigError(f"[given] {wanted}")
    return numbers


def _read_context(path: str, columns: list[str] | None) -> np.ndarray:
    """Rows of a context: of the arrays of that name in a .npz file, else of a table of it."""
    numbers = read_npz_context(path) if path.lower().endswith(".npz") else None
    if numbers is not None:
        return numbers
    return load(path, columns=columns if path.lower().endswith(TABLES) else None).train[:]


def report(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    write(json.dumps(_finite(result)) if args.json else text)


def _finite(value: Any) -> Any:
    """With None for numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def quality(result: dict[str, Any]) -> str:
    name, unit = ("bits_per_dim", "bits/dim") if "bits_per_dim" in result else ("nll_nats", "nats")
    error, how = result[f"{name}_error"], " (weighted)" if result["weighted"] else ""
    return f"{result[name]:.4f} {'' if error is None else f'+- {error:.4f} '}{unit}{how}"
