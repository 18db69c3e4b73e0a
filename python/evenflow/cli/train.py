"""Commands that train: train, resume, presets."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow import _core, arrays, discrete, presets, signals
from evenflow.bounds import by_column, require_inside
from evenflow.cli import config, options
from evenflow.cli.common import command, quality, report
from evenflow.cli.progress import Progress
from evenflow.console import tell
from evenflow.data import Dataset, is_pictures
from evenflow.data.table import is_header
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.logs import Outputs
from evenflow.models import NICE, Glow, RealNVP
from evenflow.ranks import Ranks, launched, threads_a_rank
from evenflow.rows import stays_outside
from evenflow.runs import Plan, Run, Source, conditions, inside, test_mark
from evenflow.settings import Settings
from evenflow.train import Trainer

MODELS: dict[str, Callable[..., Flow]] = {"glow": Glow, "realnvp": RealNVP, "nice": NICE}


# Commands

def train(args: argparse.Namespace) -> int:
    values = options.given(args)

    def device() -> str:
        if args.config is not None:
            values.update({**config.read(args.config), **values})
            _core.set_matmul_precision(values.get("matmul_precision", "highest"))
        return str(values.get("device", "cpu"))

    with launched(device) as ranks:
        return _train(args, values, ranks)


def _train(args: argparse.Namespace, values: dict[str, Any], ranks: Ranks) -> int:
    if "data" not in values:
        raise ConfigError("[train] expected DATA, or data in the file of --config, got neither")
    run = Run(os.path.join("runs", _stem(values["data"])) if args.out is None else args.out)
    if args.resume and run.exists:
        _require_same(run, values)
        return _continue(run, args, values, ranks)
    source = Source(values["data"], values.get("columns"), values.get("label"), values.get("context"),
                    values.get("weight"), values.get("size"), values.get("crop"), values.get("pad"),
                    values.get("valid", 0.1), values.get("seed", 0), named=not os.path.exists(values["data"]))
    for folder in (run.folder, run.sample_folder):
        if is_pictures(source.path) and inside(folder, source.path):
            raise ConfigError(f"[train] expected --out outside of the folder of pictures, got {folder}")
    loaded = source.read()
    whole, part = source.parts(loaded)
    name, model, training = presets.choose(source.path, whole.kind, whole.shape, values.get("model"),
                                           values.get("preset"), len(part.train), values.get("batch_size"))
    outputs = _outputs(values, training, whole)
    flow = _make_model(values, name, model, whole, _threads(values, ranks))
    epochs, steps = values.get("epochs"), values.get("steps")
    if epochs is not None or steps is not None:
        training.pop("patience", None)  # a length that was asked for is kept
    if source.valid == 0:
        training.pop("patience", None)
    settings = _settings(values, training)
    if epochs is None and steps is None:
        epochs = presets.epochs(training, len(part.train), settings["batch_size"])
    if "average" not in values:
        settings["average"] = presets.average(training, len(part.train), settings["batch_size"], epochs, steps)
    plan = Plan(source, flow.config, settings, epochs, steps, whole.classes if flow.classes else [],
                *((whole.columns, whole.context) if _has_names(source.path, whole) else ([], [])), outputs)
    _check_bounds(flow, loaded)
    del loaded  # the memory; its rows are in the parts
    trainer = plan.trainer(flow, part, ranks)
    plan = dataclasses.replace(plan, data=trainer.data_mark,
                               test=test_mark(flow.dtype, whole, conditions(flow)))
    text = _config_file(plan, values, args.command)
    with run.alone(ranks):
        run.start(plan, trainer, text, args.command, args.force)
        _warn(trainer, whole.columns)
        return _fit(run, trainer, plan, whole, args)


def resume(args: argparse.Namespace) -> int:
    values = {k: v for k in ("epochs", "steps", "device", "threads") if (v := getattr(args, k)) is not None}
    with launched(lambda: str(values.get("device", "cpu"))) as ranks:
        return _continue(Run(args.path), args, values, ranks)


def list_presets(args: argparse.Namespace) -> int:
    if args.name is not None:
        preset = presets.find(args.name)
        values = {"model": preset.model, **_model_values(preset.settings), **preset.training,
                  **_training_values(_settings({}, preset.training))}
        comment = f"Settings of {args.name}, for evenflow train --config"
        report(args, options.pick(values, tuple(options.KEYS.values())),
               config.text(values, [comment]).rstrip())
        return 0
    result = {name: {"model": p.model, "shape": list(p.shape)} for name, p in presets.PRESETS.items()}
    lines = [f"{name:20} {p.model:8} {'x'.join(map(str, p.shape)):10} batch {p.training['batch_size']}"
             for name, p in presets.PRESETS.items()]
    report(args, result, "\n".join(lines))
    return 0


# From settings to a training

def _outputs(values: dict[str, Any], training: dict[str, Any], whole: Dataset) -> Outputs:
    names = [field.name for field in dataclasses.fields(Outputs)]
    outputs = Outputs(**{k: v for k, v in training.items() if k in names})
    outputs = dataclasses.replace(outputs, **options.pick(values, options.OUTPUT))
    if "sample_every" in values and whole.kind != "image":
        raise ConfigError("[train] expected images with --sample-every, got a table")
    outputs.require()
    return outputs


def _make_model(values: dict[str, Any], name: str, settings: dict[str, Any], whole: Dataset,
                threads: int) -> Flow:
    """A model with the settings that were given, over those of a preset."""
    given = options.pick(values, options.MODEL)
    if name == "glow":
        if "depth" in given:
            given["steps"] = given.pop("depth")
        if "hidden" in given:
            if len(given["hidden"]) != 1:
                raise ConfigError("[train] expected one number for --hidden with glow, "
                                  f"got {given['hidden']}")
            given["hidden"] = given["hidden"][0]
    if values.get("conditional"):
        if not whole.classes:
            raise ConfigError("[train] expected labels with --conditional, got data without: "
                              f"{values['data']}")
        if whole.test is not None and whole.test_labels is None:
            raise ConfigError("[train] expected labels of the test part with --conditional, got none: "
                              f"{values['data']}")
        given["classes"] = len(whole.classes)
    if whole.train_context is not None:
        given["context"] = whole.train_context.shape[1]
    if "bounds" in values:
        if whole.kind == "image":
            raise ConfigError(f"[train] expected a table with --bounds, got images: {values['data']}")
        ends = {column: tuple(None if end == "none" else end for end in pair) for column, *pair in values["bounds"]}
        given["bounds"] = by_column("train", ends, _column_names(whole.columns, whole.shape[0]), whole.shape[0])
    shape = whole.shape if whole.kind == "image" else whole.shape[0]
    known = inspect.signature(MODELS[name]).parameters
    other = "leave out --context" if "context" in values else "train on data without the array context"
    if "context" in given and "context" not in known:
        fit = "glow or realnvp" if whole.kind == "image" else "realnvp"
        raise ConfigError(f"[train] expected {fit} for data with a context, got {name}: {values['data']}; or {other}")
    for unknown in (key for key in given if key not in known):
        option = {"classes": "conditional", "steps": "depth"}.get(unknown, unknown)
        raise ConfigError(f"[train] expected options that {name} has, got --{option.replace('_', '-')}")
    if "context" in given and "classes" in given:
        raise ConfigError("[train] expected labels or a context for the density, got --conditional and data with a "
                          f"context: {values['data']}; leave out --conditional, or {other}")
    return MODELS[name](shape, **{**settings, **given}, seed=values.get("seed", 0),
                        device=values.get("device", "cpu"), threads=threads)


def _column_names(names: list[str], count: int) -> list[str]:
    """Of a table without, the numbers of its columns."""
    return names or [str(c) for c in range(count)]


def _check_bounds(flow: Flow, loaded: Dataset) -> None:
    """NumericError, by the column's name and the file's row, for data in memory on or outside of a bound: also for
    those that are only tested on, before hours of training.
    """
    for where, x in (("train", loaded.train), ("train, test", loaded.test)):
        if flow._bounds is not None and isinstance(x, np.ndarray) and not stays_outside(x):
            taken = arrays.to_floats(where, x, flow.dtype)
            require_inside(where, flow._bounds, taken, names=_column_names(loaded.columns, flow.dims))


def _settings(values: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Fields of Settings: those that were given, over those of a preset."""
    names = [option.name for option in options.TRAINING]
    settings = {**{k: v for k, v in training.items() if k in names}, **options.pick(values, options.TRAINING),
                "seed": values.get("seed", 0)}
    # Another optimiser has other arguments: a preset's are for its own.
    own = training.get("optimizer_options", {}) if settings["optimizer"] == training["optimizer"] else {}
    for key, base, group in (("optimizer_options", own, options.OPTIMIZER),
                             ("augment", training.get("augment") or {}, options.AUGMENT)):
        chosen = {**base, **options.pick(values, group)}
        if chosen:
            settings[key] = chosen
    return dataclasses.asdict(Settings(**settings))


def _resolved(plan: Plan) -> dict[str, Any]:
    """Every setting of a plan by the name of its option."""
    return {**dataclasses.asdict(plan.source), **_model_values(plan.model), **_training_values(plan.training),
            **dataclasses.asdict(plan.outputs), "data": plan.source.path, "model": plan.model["model"].lower(),
            "bounds": _bounds_option(plan), "conditional": bool(plan.classes) or None, "epochs": plan.epochs,
            "steps": plan.steps}


def _bounds_option(plan: Plan) -> list[list[Any]] | None:
    """A plan's bounds as --bounds has them."""
    pairs = plan.model.get("bounds")
    if pairs is None:
        return None
    source = plan.source
    taken = [source.label, source.weight, *(source.context or ())]
    numbers = [c for c in map(str, range(len(pairs) + len(taken))) if c not in taken]
    names = plan.columns or source.columns or numbers
    return sorted([name, *("none" if end is None else end for end in pair)]
                  for name, pair in zip(names, pairs) if pair != [None, None])


def _config_file(plan: Plan, values: dict[str, Any], command_line: str) -> str:
    """config.toml: every setting as it was resolved, so that it repeats the run by itself."""
    resolved = {**_resolved(plan), "device": values.get("device", "cpu"), "threads": values.get("threads", 0),
                "matmul_precision": _core.matmul_precision()}
    comments = ["The settings of a run. To repeat it: evenflow train --config THIS_FILE --out FOLDER",
                f"evenflow {_core.version}, command: {command_line}", f"data: {plan.data}"]
    if "preset" in values:
        comments.append(f"preset: {values['preset']}")
    return config.text(resolved, comments)


def _model_values(settings: dict[str, Any]) -> dict[str, Any]:
    """A model's arguments by the names of their options; the number of a context's columns is in the data, and bounds
    are by the name of a column.
    """
    return {("depth" if k == "steps" else k): v for k, v in settings.items() if k not in ("model", "context", "bounds")}


def _training_values(training: dict[str, Any]) -> dict[str, Any]:
    """Fields of Settings by the names of their options."""
    return {**training, **training["optimizer_options"], **(training["augment"] or {})}


def _threads(values: dict[str, Any], ranks: Ranks) -> int:
    """Those asked for, else all cores, shared with the ranks beside this one."""
    return values.get("threads") or threads_a_rank(ranks)


# The training

ANEW = ("epochs", "steps", "device", "threads", "matmul_precision", "preset")
"""Options of `train --resume` that are not compared with the run's: those that may change, and the preset, which
the run no longer knows."""


def _require_same(run: Run, values: dict[str, Any]) -> None:
    """ConfigError if a setting that was given is not the run's: it would go on without it."""
    has = _resolved(run.plan())
    for name, value in values.items():
        own = has.get(name)
        if name not in ANEW and value != own and value != [own] and (value or own is not None):
            raise ConfigError(f"[train] expected the settings of the run in {run.folder} with --resume, got "
                              f"{name} = {value!r} instead of {own!r}")


def _continue(run: Run, args: argparse.Namespace, values: dict[str, Any], ranks: Ranks) -> int:
    """Goes on with a run; only how long may change."""
    plan = before = run.plan()
    if "epochs" in values or "steps" in values:
        plan = dataclasses.replace(plan, epochs=values.get("epochs"), steps=values.get("steps"))
    with run.alone(ranks):
        trainer, whole = run.resume(plan, values.get("device", "cpu"), _threads(values, ranks), ranks,
                                    anew=plan != before)
        return _fit(run, trainer, plan, whole, args)


def _fit(run: Run, trainer: Trainer, plan: Plan, whole: Dataset, args: argparse.Namespace) -> int:
    leads = trainer.ranks.rank == 0
    progress = Progress(_total_steps(trainer, plan), args.quiet, images=trainer.flow.is_image)
    try:
        result = run.fit(trainer, plan, whole, progress)
    except KeyboardInterrupt as interrupt:
        progress.close()
        if leads:
            place = ["--", run.folder] if run.folder.startswith("-") else [run.folder]
            tell(f"evenflow: stopped; {run.folder} has step {trainer.saved_step}; "
                 f"go on with: {shlex.join(['evenflow', 'resume', *place])}")
        return signals.exit_code(interrupt)
    finally:
        progress.close()
    if not leads:
        return 0
    lines = [f"held out: {quality(result)} on {result['n']} samples"]
    if trainer.progress.stopped:
        lines.append(f"stopped after epoch {result['epochs']}: the last {trainer.settings.patience} were not "
                     "better on the validation data")
    lines += [result["model"], result["log"], *result["pictures"], *result["notes"]]
    report(args, result, "\n".join(lines))
    return 0


def _warn(trainer: Trainer, names: list[str]) -> None:
    """Tells of what `fit` warns of, with the names of columns where they have some."""
    texts = [] if trainer.flow.is_image else trainer.ranks.lead(lambda: discrete.found("train", trainer, names))
    for text in texts if trainer.ranks.rank == 0 else []:
        tell(f"evenflow: warning: {text}")


def _total_steps(trainer: Trainer, plan: Plan) -> int | None:
    limits = [plan.steps, plan.epochs and plan.epochs * trainer.batches]
    if plan.epochs is not None and plan.epochs >= presets.UNTIL_STOPPED:
        limits.pop()
    return min((n for n in limits if n is not None), default=None)


def _has_names(path: str, whole: Dataset) -> bool:
    """Whether a table's columns have names of their own, not numbers that stand for a line without."""
    return path.lower().endswith(".parquet") or is_header(whole.columns)


def _stem(path: str) -> str:
    name = os.path.basename(os.path.normpath(path))
    return name.split(".")[0] or name


# Arguments

def add_commands(commands: Any) -> None:
    _train_arguments(command(commands, "train", train, "Train a model on a data set.",
                             "evenflow train digits --out runs/digits"))
    sub = command(commands, "resume", resume, "Go on with a run, as if it had not stopped.",
                  "evenflow resume runs/digits --epochs 200")
    sub.add_argument("path", metavar="RUN", help="folder of the run")
    sub.add_argument("--epochs", type=int, help="passes over the data, in total")
    sub.add_argument("--steps", type=int, help="updates, in total")
    sub.add_argument("--quiet", action="store_true", help="no progress")
    sub = command(commands, "presets", list_presets,
                  "The papers' settings: their names, or one as a config file.",
                  "evenflow presets glow-cifar10 > mine.toml")
    sub.add_argument("name", nargs="?", metavar="NAME", help="one preset, to print its settings")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", metavar="DATA",
                        help="a data set's name (digits, mnist, cifar10, ...), a file (.npy .npz .csv ...) or a "
                        "folder")
    parser.add_argument("--config", metavar="FILE",
                        help="TOML file of settings, named like the options (batch_size = 64), which go "
                        "before it")
    parser.add_argument("--out", metavar="RUN", help="folder to write (runs/<name of the data>)")
    parser.add_argument("--force", action="store_true", help="replace a run, or files of its names, that are there")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options.add_arguments(parser)
