"""Commands that train: train, resume."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from evenflow import _core, models
from evenflow._border import arrays
from evenflow._border.bounds import by_column, require_inside
from evenflow._border.console import tell
from evenflow._border.rows import stays_outside
from evenflow.cli import config, options
from evenflow.cli.common import argument, command, quality, report
from evenflow.data import Dataset, check, is_pictures
from evenflow.density import Density, bounds_of, limits_of
from evenflow.distributed.ranks import Ranks, launched, threads_a_rank
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.runs import Plan, Run, Source, inside
from evenflow.runs.logs import Outputs
from evenflow.training import presets
from evenflow.training.loop import Trainer
from evenflow.training.progress import Progress
from evenflow.training.settings import Settings

MODELS: dict[str, Callable[..., Flow]] = {name.lower(): model for name, model in models.MODELS.items()}
JUDGED_STEPS = 100
"""A shorter training may not have got anywhere yet."""
DIVERGED = 0.3
"""Nats a dimension that a training may end above the baseline: where there is nothing to learn, as in noise, the
prior's shape alone costs up to 0.2."""
ANEW = ("epochs", "steps", "device", "threads", "matmul_precision", "preset")
"""Options of `train --resume` that are not compared with the run's: those that may change, and the preset, which
the run no longer knows."""


# Commands

def train(args: argparse.Namespace) -> int:
    values = options.given(vars(args))
    with launched() as ranks:
        if args.config is not None:
            values = {**ranks.try_on_all(lambda: config.read(args.config)), **values}
            _core.set_matmul_precision(values.get("matmul_precision", "highest"))
        if "data" not in values:
            raise ConfigError("[train] there are no data to train on: name DATA, or data in the file of --config")
        stem = os.path.basename(os.path.normpath(values["data"]))
        run = Run(os.path.join("runs", stem.split(".")[0] or stem) if args.out is None else args.out)
        if args.resume and run.exists:
            _require_same(run, values)
            return _continue(run, args, values, ranks)
        return _begin(run, args, values, ranks)


def resume(args: argparse.Namespace) -> int:
    values = {k: v for k in ("epochs", "steps", "device", "threads") if (v := getattr(args, k)) is not None}
    with launched() as ranks:
        return _continue(Run(args.path), args, values, ranks)


def _begin(run: Run, args: argparse.Namespace, values: dict[str, Any], ranks: Ranks) -> int:
    own = {key: values[key] for key in ("seed", *(option.name for option in options.SOURCE)) if key in values}
    source = Source(values["data"], **own, named=not os.path.exists(values["data"]))
    if is_pictures(source.path) and (inside(run.folder, source.path) or inside(run.sample_folder, source.path)):
        raise ConfigError(f"[train] --out {run.folder} is in the folder of pictures to train on; choose another one")
    loaded = source.read()
    whole, part = source.parts(loaded)
    name, model, training = presets.choose(source.path, whole.kind, whole.shape, values.get("model"),
                                           values.get("preset"))
    outputs = Outputs(**{**options.pick(training, options.OUTPUT), **options.pick(values, options.OUTPUT)})
    if "sample_every" in values and whole.kind != "image":
        raise ConfigError("[train] --sample-every draws images, and these data are a table")
    flow = _make_model(values, name, model, whole, values.get("threads") or threads_a_rank(ranks))
    settings, epochs = presets.resolved(_settings(values, training), training, len(part.train), values.get("epochs"),
                                        values.get("steps"), part.test is not None)
    plan = Plan(source, flow.config, {**settings.saved(), "save_every": settings.save_every}, outputs, epochs,
                values.get("steps"), whole.classes if flow.classes else [])
    plan = dataclasses.replace(plan, data=plan.mark(whole, part))
    _check_bounds(flow, loaded)
    del loaded  # the memory; its rows are in the parts
    trainer = plan.trainer(flow, part, ranks)
    with run.alone(ranks):
        run.start(plan, trainer, _config_file(plan, values, args.command), args.command, args.force)
        for text in [] if flow.is_image else ranks.lead(lambda: check.found(
                trainer.data, flow.dtype, whole.columns, trainer.seed, bounds_of(flow), trainer.standardises)):
            if ranks.rank == 0:
                tell(f"evenflow: warning: [train] {text}")
        return _fit(run, trainer, plan, whole, args)


def _continue(run: Run, args: argparse.Namespace, values: dict[str, Any], ranks: Ranks) -> int:
    """Goes on with a run; only how long may change."""
    plan = before = run.plan()
    if "epochs" in values or "steps" in values:
        plan = dataclasses.replace(plan, epochs=values.get("epochs"), steps=values.get("steps"))
    with run.alone(ranks):
        trainer, whole = run.resume(plan, values.get("device", "cpu"), values.get("threads") or threads_a_rank(ranks),
                                    ranks, anew=plan != before)
        return _fit(run, trainer, plan, whole, args)


def _require_same(run: Run, values: dict[str, Any]) -> None:
    """ConfigError if a setting that was given is not the run's: it would go on without it."""
    has = config.read(run.config)
    for name, value in values.items():
        own = has.get(name)
        if name not in ANEW and value != own and (value or own is not None):
            option = name if name == "data" else options.KEYS[name].flag
            raise ConfigError(f"[train] the run in {run.folder} has {option} {own} instead of {value}; --resume goes "
                              "on with the settings of the run")


# From settings to a training

def _make_model(values: dict[str, Any], name: str, settings: dict[str, Any], whole: Dataset,
                threads: int) -> Flow:
    """A model with the settings that were given, over those of a preset."""
    given, known = options.pick(values, options.MODEL), inspect.signature(MODELS[name]).parameters
    if name == "glow":
        if "depth" in given:
            given["steps"] = given.pop("depth")
        if len(given.get("hidden", "1")) != 1:
            raise ConfigError(f"[train] glow takes one number for --hidden, got {given['hidden']}")
        given.update({"hidden": given["hidden"][0]} if "hidden" in given else {})
    labelled, table = bool(values.get("conditional")), whole.kind == "table"
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ConfigError(f"[train] {name} has no option --{unknown[0].replace('_', '-')}")
    if labelled and "classes" not in known:
        raise ConfigError(f"[train] {name} has no option --conditional; name columns that its density is given with "
                          "--context, such as a column of classes that are numbers")
    if labelled:
        if not whole.classes or (whole.test is not None and whole.test_labels is None):
            lack = "the test part has" if whole.classes else "the data have"
            raise ConfigError(f"[train] --conditional needs labels, and {lack} none: {values['data']}")
        given["classes"] = len(whole.classes)
    if whole.train_context is not None:
        given["context"] = whole.train_context.shape[1]
        if "context" not in known or labelled:
            other = "leave out --context" if "context" in values else "train on data without the array context"
            raise ConfigError(f"[train] {'--conditional' if labelled else name} takes no context, and the data have "
                              f"one; take another model, or {other}")
    if "bounds" in values:
        if not table:
            raise ConfigError(f"[train] --bounds are of a table, and the data are images: {values['data']}")
        ends = {column: tuple(None if end == "none" else end for end in pair) for column, *pair in values["bounds"]}
        given["bounds"] = by_column("train", ends, _column_names(whole), whole.shape[0])
    return MODELS[name](whole.shape[0] if table else whole.shape, **{**settings, **given},
                        seed=values.get("seed", 0), device=values.get("device", "cpu"), threads=threads)


def _column_names(data: Dataset) -> list[str]:
    """Of a table without, the numbers of its columns."""
    return data.columns or [str(c) for c in range(data.shape[0])]


def _check_bounds(flow: Flow, loaded: Dataset) -> None:
    """NumericError, by the column's name and the file's row, for data in memory on or outside of a bound: also for
    those that are only tested on, before hours of training.
    """
    for where, x in (("train", loaded.train), ("train, test", loaded.test)):
        if limits_of(flow) is not None and isinstance(x, np.ndarray) and not stays_outside(x):
            taken = arrays.to_floats(where, x, flow.dtype)
            require_inside(where, limits_of(flow), taken, names=_column_names(loaded))


def _settings(values: dict[str, Any], training: dict[str, Any]) -> Settings:
    """Those that were given, over those of a preset; "auto" stays."""
    usual = {f.name: training[f.name] for f in dataclasses.fields(Settings)
             if f.name in training and f.default != "auto"}
    settings = {**usual, **options.pick(values, options.TRAINED), "seed": values.get("seed", 0)}
    # Another optimiser has other arguments: a preset's are for its own.
    own = usual.get("optimizer_options", {}) if values.get("optimizer") in (None, training["optimizer"]) else {}
    settings["optimizer_options"] = {**own, **options.pick(values, options.OPTIMIZER)}
    augment = {**(usual.get("augment") or {}), **options.pick(values, options.AUGMENT)}
    return Settings(**{**settings, "augment": augment or None})


def _config_file(plan: Plan, values: dict[str, Any], command_line: str) -> str:
    """config.toml: every setting as it was resolved, so that it repeats the run by itself."""
    model = {("depth" if k == "steps" else k): v for k, v in plan.model.items() if k not in ("model", "context")}
    resolved = {**dataclasses.asdict(plan.source), **model, **plan.training, **plan.training["optimizer_options"],
                **(plan.training["augment"] or {}), **dataclasses.asdict(plan.outputs), "data": plan.source.path,
                "model": plan.model["model"].lower(), "bounds": values.get("bounds") or None,
                "conditional": bool(plan.classes) or None, "epochs": plan.epochs, "steps": plan.steps,
                "device": values.get("device", "cpu"), "threads": values.get("threads", 0),
                "matmul_precision": _core.matmul_precision()}
    comments = ["The settings of a run. To repeat it: evenflow train --config THIS_FILE --out FOLDER",
                f"evenflow {_core.version}, command: {command_line}", f"data: {plan.data}",
                *([f"preset: {values['preset']}"] if "preset" in values else [])]
    return config.text(resolved, comments)


# The training

def _fit(run: Run, trainer: Trainer, plan: Plan, whole: Dataset, args: argparse.Namespace) -> int:
    flow, leads, state = trainer.flow, trainer.ranks.rank == 0, trainer.state.progress
    endless = plan.epochs is not None and plan.epochs >= presets.UNTIL_STOPPED
    limits = [plan.steps, None if plan.epochs is None or endless else plan.epochs * trainer.batches]
    total = min((n for n in limits if n is not None), default=None)
    progress = Progress(total, args.quiet or not leads, images=flow.is_image)
    valid, test = (0 if x is None else len(x) for x in (trainer.valid, whole.test))
    begun = f"from step {state.step:,} " if state.step else ""
    until = f"{begun}until it is stopped" if total is None else f"{begun and begun + 'to '}{total:,} steps"
    progress.say(f"training {flow.config['model']} ({flow.num_params:,} parameters) on {plan.source.path}: "
                 f"{len(trainer.data):,} samples, {valid:,} to validate, {test:,} to test; {until}, "
                 f"{trainer.batches:,} an epoch; into {run.folder}")
    try:
        result = run.fit(trainer, plan, whole, progress)
    except KeyboardInterrupt:
        progress.close()
        if leads:
            place = ["--", run.folder] if run.folder.startswith("-") else [run.folder]
            out = os.path.splitext(run.samples)[0] + (".png" if flow.is_image else ".npy")
            tell(f"evenflow: stopped; {run.folder} has step {trainer.saved_step}; "
                 f"go on with: {shlex.join(['evenflow', 'resume', *place])}")
            tell("evenflow: samples of the model so far: "
                 f"{shlex.join(['evenflow', 'sample', f'--out={out}', *place])}")
        return 130
    finally:
        state = trainer.state.progress
        progress.close(stopped=state.stopped)
    if not leads:
        return 0
    lines = [f"held out: {quality(result)} on {result['n']} samples; {_baseline(result)}"]
    if state.failures:
        lines.append(f"{state.failures} steps failed, see {result['log']}; the learning rate is "
                     f"{state.lr_scale:g} of what it was")
    if state.stopped:
        lines.append(f"stopped after epoch {result['epochs']}: the last {trainer.settings.patience} were not "
                     "better on the validation data")
    report(args, result, "\n".join([*lines, result["model"], result["log"], *result["pictures"]]))
    for note in result["notes"]:
        tell(f"evenflow: {note}")
    return _verdict(flow, result)


def _baseline(result: dict[str, Any]) -> str:
    value = result["baseline_nats"]
    if "bits_per_dim" in result:
        return f"uniform noise has {round(value * result['bits_per_dim'] / result['nll_nats'], 6):g}"
    return "a column does not vary" if value is None else f"a Gaussian for each column has {-value:.4f}"


def _verdict(flow: Density, result: dict[str, Any]) -> int:
    """The exit code of a training, and words where the model is no better than one that has learned nothing."""
    reached, trivial = result["nll_nats"], result["baseline_nats"]
    if trivial is None or reached < trivial:
        return 0
    what = "uniform noise" if flow.is_image else "a Gaussian for each column"
    worse, short = reached > trivial + DIVERGED * flow.dims, result["steps"] < JUDGED_STEPS
    if worse and not short:
        tell(f"evenflow: failed: the training diverged: the model is worse than {what}; try a lower --lr, or --clip")
        return 1
    if worse or not short:
        tell(f"evenflow: warning: the model is no better than {what}; train for longer, or with another --lr")
    return 0


def add_commands(commands: Any) -> None:
    """Declares them."""
    quiet = argument("--quiet", "no progress", action="store_true")
    sub = command(commands, "train", train, "Train a model on a data set.", "evenflow train digits --out runs/digits",
                  argument("data", "a data set's name (digits, mnist, cifar10, ...), a file (.npy .npz .csv ...) or a "
                           "folder", nargs="?", metavar="DATA"),
                  argument("--config", "TOML file of settings, named like the options (batch_size = 64), which go "
                           "before it", metavar="FILE"),
                  argument("--out", "folder to write (runs/<name of the data>)", metavar="RUN"),
                  argument("--force", "replace a run, or files of its names, that are there", action="store_true"),
                  argument("--resume", "go on with the run in --out, if there is one", action="store_true"), quiet)
    for title, group in options.GROUPS.items():
        section = sub.add_argument_group(title)
        for option in group:
            option.declare(section)
    sub.usage = "evenflow train [DATA] [--option VALUE ...]"
    sub.set_defaults(device=None, threads=None, matmul_precision=None)
    command(commands, "resume", resume, "Go on with a run, as if it had not stopped.",
            "evenflow resume runs/digits --epochs 200", argument("path", "folder of the run", metavar="RUN"),
            argument("--epochs", "passes over the data, in total", type=int),
            argument("--steps", "updates, in total", type=int), quiet)
