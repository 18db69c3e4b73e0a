"""What the commands share: how they are declared, which data they take, how they report."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from evenflow.console import write
from evenflow.data import TABLES, load
from evenflow.data.numpy_files import read_npz_context
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.runs import Plan, Selection, held_out, tested


NEGATIVE = re.compile(r"^-((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|inf)$")


def command(commands: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    """Declares one command; `run` takes its arguments and returns the exit code."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    sub._negative_number_matcher = NEGATIVE  # argparse takes -1e-3 for an option
    sub.set_defaults(run=run)
    sub.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    sub.add_argument("--threads", type=int, default=0, help="0 (default): all cores")
    sub.add_argument("--matmul-precision", default="highest", choices=("highest", "high"),
                     help="float32 nets on a GPU: highest (default), or high for half the products")
    sub.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return sub


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


def given_argument(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--given", nargs="+", metavar="GIVEN",
                     help=f"context of a model that has one: its numbers, for all, or a file's name: {text}")


def label_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--label", help="class of all, by name or number, where the data have no labels")


def data_given_arguments(sub: argparse.ArgumentParser) -> None:
    """What `data_given` reads."""
    label_argument(sub)
    given_argument(sub, "a row for each sample; instead of the data's own")


def rows_arguments(sub: argparse.ArgumentParser, count: int, default: str = "the first") -> None:
    sub.add_argument("--n", type=int, default=count, help=f"number of samples ({count})")
    sub.add_argument("--rows", type=int, nargs="+", metavar="ROW",
                     help=f"rows of the data instead; default: {default}")


def examples(args: argparse.Namespace, flow: Flow, plan: Plan | None, *,
             of_a_class: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples that --rows asks for, else the first --n; and what the model's density is given, if anything.

    of_a_class: where not 0, those of the class with most samples, an even number, if there are so many.
    """
    said = data_given(args, flow, plan)
    part = held_out(plan, args.data, args.size, chosen=Selection.of(None, None, unread_context(args.data, said)))
    x, own = tested(flow, part)
    given = given_samples(said, own, len(x))
    usual = np.arange(len(x))
    if of_a_class and flow.classes and given is not None:
        alike = np.flatnonzero(given == np.bincount(given).argmax())
        usual = alike[:len(alike) // 2 * 2] if len(alike) >= of_a_class else usual
    rows = chosen_rows(args, usual, len(x))
    return x[rows], given[rows] if given is not None else None


def chosen_rows(args: argparse.Namespace, usual: np.ndarray, count: int) -> np.ndarray:
    """--rows, checked against the number of samples, else the first --n of the usual ones."""
    rows = usual[:max(args.n, 0)] if args.rows is None else np.array(args.rows)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= count:
        raise ConfigError(f"[data] expected rows in 0 ... {count - 1}, got {rows.tolist() or 'none'}")
    return rows


def given_label(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> int | None:
    """The number of the class that --label names."""
    if args.label is None:
        return None
    if not flow.classes:
        raise ConfigError("[label] expected no label, since the model has no classes, got one")
    number = class_number(args.label, plan.classes if plan is not None else [])
    if number >= flow.classes:
        raise ConfigError(f"[label] expected a label in 0 ... {flow.classes - 1}, got {number}")
    return number


def given_context(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> np.ndarray | None:
    """What --given says: (C,), or (M, C) of a file's rows. ConfigError where it is missing, or the model has none."""
    if not flow.context:
        if args.given is not None:
            raise ConfigError("[given] expected no --given, since the model has no context, got "
                              f"{' '.join(args.given)}")
        return None
    names = "" if plan is None or not plan.context else f" ({', '.join(plan.context)})"
    wanted = f"expected --given with {flow.context} numbers{names}, or with the name of a file"
    if args.given is None:
        raise ConfigError(f"[given] {wanted}, since the model's density has a context, got none")
    try:
        numbers = np.array([float(one) for one in args.given])
    except ValueError:
        if len(args.given) > 1:
            raise ConfigError(f"[given] {wanted}, got {' '.join(args.given)}") from None
        table = _read_context(args.given[0], plan)
        if table.ndim != 2 or table.shape[1] != flow.context:
            raise ConfigError(f"[given] {args.given[0]}: expected {flow.context} columns{names}, "
                              f"got data of {table.shape[1:]}") from None
        return table
    if len(numbers) != flow.context or not np.isfinite(numbers).all():
        raise ConfigError(f"[given] {wanted}, got {' '.join(args.given)}")
    return numbers


def _read_context(path: str, plan: Plan | None) -> np.ndarray:
    """Rows of a context: of the arrays of that name in a .npz file, else of a table of it."""
    numbers = read_npz_context(path) if path.lower().endswith(".npz") else None
    if numbers is not None:
        return numbers
    columns = plan.context if plan is not None and path.lower().endswith(TABLES) else None
    return load(path, columns=columns or None).train[:]


def data_given(args: argparse.Namespace, flow: Flow, plan: Plan | None) -> np.ndarray | None:
    """What the density of the data is given: the class of --label, (), or the context of --given, (C,) or (M, C)."""
    context = given_context(args, flow, plan) if args.given is not None else None
    label = given_label(args, flow, plan)
    if context is not None and getattr(args, "context", None) is not None:
        raise ConfigError("[given] expected --given or --context, got both")
    return context if label is None else np.array(label, np.int32)


def unread_context(source: str | None, said: np.ndarray | None) -> list[str] | None:
    """No columns, of a table whose context --given says, so that it need not have them; else None, the usual ones."""
    table = source is not None and source.lower().endswith(TABLES)
    return [] if table and said is not None and said.ndim else None


def given_samples(said: np.ndarray | None, own: np.ndarray | None, n: int, *, keep: bool = False) -> np.ndarray | None:
    """What `data_given` said, for each of n samples that come with labels or a context of their own, or None.

    A label is for samples without one. A context goes before their own, unless they `keep` it.
    """
    if said is None or (own is not None and own.ndim == said.ndim + 1 and (keep or said.ndim == 0)):
        return own
    if said.ndim < 2:
        return np.full((n, *said.shape), said)
    if len(said) != n:
        raise ConfigError(f"[given] expected a row for each sample, {n}, got {len(said)}")
    return said


def given_rows(said: np.ndarray | None, rows: Iterable[tuple[Any, ...]], *, keep: bool = False) -> Iterator[Any]:
    """Consecutive rows with what `given_samples` says of them."""
    if said is None or said.ndim < 2:
        for x, own, *weight in rows:
            yield x, given_samples(said, own, len(x), keep=keep), *weight
        return
    n = 0
    for x, _, *weight in rows:
        n += len(x)
        if n > len(said):
            raise ConfigError(f"[given] expected a row for each sample, at least {n}, got {len(said)}")
        yield x, said[n - len(x):n], *weight
    given_samples(said, None, n)


def class_number(label: str, classes: list[str]) -> int:
    """The number of a class, from its name or number."""
    if label in classes:
        return classes.index(label)
    number = int(label) if label.isdecimal() and len(label) < 19 else None  # Python reads 4300 digits at most
    if number is not None and (not classes or number < len(classes)):
        return number
    known = ", ".join(classes) if classes else "a number"
    raise ConfigError(f"[label] expected a label out of {known}, got {label!r}")


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
