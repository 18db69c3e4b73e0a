"""What the commands share: how they are declared, which data they take, how they report."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import typing
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
METAVARS = {int: "N", float: "X", str: "NAME"}
Answer = tuple[dict[str, Any], str]
"""What a command found, for --json, and in words."""
BASELINES = ("a Gaussian for each column", "uniform noise")
"""Models that have learned nothing, of tables and of images."""
Told = dict[str, Any]
"""What argparse is told of an option."""


# Declarations

def option(hint: Any, help: str, default: Any = None, shown: Any = None) -> Told:
    """For a value of this type: a bool, number, text, list of them, which may be given in several parts where there
    is no default, or a text that may be left out (str | bool).

    The line of help ends with the default, or with `shown`. Nothing for another type.
    """
    hints = (hint, *typing.get_args(hint))
    kind = next((kind for kind in (str, bool, int, float) if kind in hints or list[kind] in hints), None)  # type: ignore[valid-type]
    if kind is None:
        return {}
    shown = default if shown is None else shown
    bare = shown in (None, "auto", "") or kind is bool and default is False
    told = {"help": help if bare else f"{help} ({words(shown)})", "default": default}
    if kind is bool:
        return {**told, "action": argparse.BooleanOptionalAction if default is None else "store_true"}
    told.update(type=kind, metavar=METAVARS[kind])
    if bool in hints:
        return {**told, "nargs": "?", "const": True}
    if list[kind] in hints:  # type: ignore[valid-type]
        return {**told, "nargs": "+", "action": "extend" if default is None else "store"}
    return told


def words(value: Any) -> str:
    """A value as the command line takes it, or yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(words, value)) if isinstance(value, (list, tuple)) else str(value).removesuffix(".0")


def flag(key: str) -> str:
    """batch_size -> --batch-size."""
    return "--" + key.replace("_", "-")


HELP = {"data": "data; default: the test part of the run's own",
        "size": "folder of images: crop and resize to N x N",
        "columns": "CSV, Parquet: columns; default: the run's",
        "context": "CSV, Parquet: columns that the density is given; default: the run's",
        "seed": "of what is drawn", "n": "number of samples", "rows": "rows of the data instead; default: the first",
        "quiet": "no progress", "epochs": "passes over the data, in total; default: as planned",
        "steps": "updates, in total; default: as planned"}
"""Of arguments that several commands have."""
COMMON = {"device": option(str, "cpu or cuda", "cpu"), "threads": option(int, "CPU threads, 0 for all cores", 0),
          "matmul_precision": option(str, "nets on a GPU: highest, high (half the products)", "highest"),
          "json": option(bool, "print the result as one line of JSON", False)}


def command(commands: Any, name: str, run: Callable[..., Any], on_model: bool = True) -> argparse.ArgumentParser:
    """Declares a command by a function: its arguments after the first, its docstring, which says what it does, an
    example, and what those arguments are that are not in HELP.

    on_model: `run` takes a flow and the plan of its run first, and returns an answer, of which ok=False fails. Others
    take the values of all options, and return the exit code.
    """
    what, _, rest = (inspect.getdoc(run) or "").partition("\n\n")  # which python -OO strips
    example, _, said = rest.partition("\n\n")
    helps, hints = {**HELP, **dict(re.findall(r"(?m)^(\w+): (.*(?:\n .*)*)", said))}, typing.get_type_hints(run)
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=f"example:\n  {example}", allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=24))
    sub._negative_number_matcher = NEGATIVE  # argparse takes -1e-3 for an option
    own = list(inspect.signature(run).parameters.values())[2 if on_model else 1:]
    if on_model:
        sub.add_argument("path", metavar="MODEL", help="folder of a run, or a model file")
    for p in own:
        required = p.default is inspect.Parameter.empty
        told = option(hints[p.name], helps.get(p.name, ""), None if required else p.default)
        if p.kind is not p.KEYWORD_ONLY:
            sub.add_argument(p.name, **{**told, "metavar": p.name.upper(), "nargs": None if required else "?"})
        elif p.name not in COMMON:
            sub.add_argument(flag(p.name), **told, required=required)
    for key, told in COMMON.items():
        sub.add_argument(flag(key), **told)

    def answered(args: argparse.Namespace) -> int:
        given = {p.name: getattr(args, p.name) for p in own}
        if not on_model:
            return int(run(args, **given))
        result, text = run(*open_model(args.path, args.device, args.threads), **given)
        report(result, text, args.json)
        return 0 if result.get("ok", True) else 1

    sub.set_defaults(run=answered, parser=sub)
    return sub


# Data

def examples(flow: Flow, plan: Plan | None, data: str | None, size: int | None, n: int, rows: list[int] | None,
             of_a_class: int = 0) -> Batch:
    """The samples that `rows` asks for, else the first n.

    of_a_class: where not 0, those of the class with most samples, an even number, if there are so many.
    """
    found = tested(flow, held_out(flow, plan, data, size))
    usual = np.arange(len(found))
    if of_a_class and found.label is not None:
        alike = np.flatnonzero(found.label == np.bincount(found.label).argmax())
        usual = alike[:len(alike) // 2 * 2] if len(alike) >= of_a_class else usual
    return chosen(found, rows, usual, n)


def chosen(data: Batch, rows: list[int] | None, usual: np.ndarray, n: int) -> Batch:
    """These rows, else the first n of the usual ones."""
    if len(index := usual[:max(n, 0)] if rows is None else np.array(rows)) == 0:
        raise ConfigError(f"[data] --n {n} asks for no samples")
    if index.min() < 0 or index.max() >= len(data):
        raise ConfigError(f"[data] --rows are in 0 ... {len(data) - 1} for these data, not {index.tolist()}")
    return data[index]


def class_number(label: str, classes: list[str]) -> int:
    """The number of a class, from its name or number."""
    if label in classes:
        return classes.index(label)
    if not label.isdecimal() or classes and int(label) >= len(classes):
        raise ConfigError(f"[label] expected a label out of {', '.join(classes) or 'a number'}, got {label!r}")
    return int(label)


def given_label(label: str | None, plan: Plan | None) -> int | None:
    """The number of the class that --label names."""
    return None if label is None else class_number(label, [] if plan is None else plan.classes)


def given_context(given: list[str] | None, flow: Flow, *, needed: bool) -> np.ndarray | None:
    """What --given says: (C,), or (M, C) of a file's rows; of a .npz file that has a context, of this."""
    if given is None and not (needed and flow.context):
        return None
    said, columns = given or [], column_names(flow).get("context")
    try:
        numbers = np.array([float(one) for one in said])
    except ValueError:
        numbers = _read_context(said[0], columns) if len(said) == 1 else np.empty(0)
    if flow.context and (numbers.shape[-1] != flow.context or not np.isfinite(numbers).all()):
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

def report(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Prints a result as text or JSON, which has null for numbers that are none."""
    write(json.dumps(json.loads(json.dumps(result), parse_constant=lambda name: None)) if as_json else text)


def quality(result: dict[str, Any]) -> str:
    """What a model reaches on data that it was not trained on, beside a model that has learned nothing."""
    images = "bits_per_dim" in result
    key, name, unit = ("bits_per_dim", "bits a dimension", "(lower is better)") if images else (
        "log_likelihood", "log-likelihood", "nats a row (higher is better)")
    error, least = result[f"{key}_error"], result[f"{key}_baseline"]
    spread, weighted = "" if error is None else f" +- {error:.4f}", "weighted " if result["weighted"] else ""
    beside = "" if least is None else f"; {BASELINES[images]} has {least if images else format(least, '.4f')}"
    return (f"held-out {name}: {result[key]:.4f}{spread} {unit}, over {result['n']:,} {weighted}"
            f"{'images' if images else 'rows'}{beside}")
