"""Commands that train: train, resume."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evenflow import _core, models
from evenflow._border import arrays, checks
from evenflow._border.bounds import by_column, require_inside
from evenflow._border.console import tell
from evenflow._border.rows import stays_outside
from evenflow.cli import options
from evenflow.cli.common import BASELINES, command, flag, quality, report
from evenflow.data import Dataset, check, is_pictures, load
from evenflow.data.table import TABLES, is_header, read_raw
from evenflow.density import bounds_of, column_names, for_flow, limits_of, name_columns
from evenflow.distributed.ranks import Ranks, launched, threads_a_rank
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.runs import Plan, Run, Source, mark, of
from evenflow.runs.logs import DRAWN, Outputs
from evenflow.training import presets
from evenflow.training.history import CUT_SHORT, best_of
from evenflow.training.loop import Trainer
from evenflow.training.progress import Display, ahead, find_bar
from evenflow.training.samples import checked
from evenflow.training.settings import Settings
from evenflow.training.state import state_path

MODELS: dict[str, Callable[..., Flow]] = {name.lower(): model for name, model in models.MODELS.items()}
OUTSIDE, DISTANCE = 0.005, 0.05
"""Share of a column's samples beyond the data, and Kolmogorov's distance from them, that are told of."""
JUDGED_STEPS = 100
"""A shorter training may not have got anywhere yet."""
FEW_PICTURES, FEW_ROWS = 1000, 200
FAILED = 3
"""Exit code of a training whose model fails its test: its inverse does not hold, or its samples overflow."""
DIVERGED = 0.3
"""Nats a dimension that a training may end above the baseline: where there is nothing to learn, as in noise, the
prior's shape alone costs up to 0.2."""


# Commands

def train(args: argparse.Namespace, data: str | None = None, *, config: str | None = None, out: str | None = None,
          force: bool = False, resume: bool = False, quiet: bool = False) -> int:
    """Train a model on a data set.

    evenflow train digits --out runs/digits

    data: a data set's name (digits, mnist, cifar10, ...), a file (.npy .npz .csv ...) or a folder
    config: TOML file of settings; options override it (none)
    out: folder to write (runs/<name of the data>)
    force: replace a run that is there
    resume: go on with the run in --out, or begin
    """
    with launched() as ranks:
        values = options.checked(vars(args))
        if config is not None:
            values = {**ranks.try_on_all(lambda: options.read(config)), **values}
            _core.set_matmul_precision(values.get("matmul_precision", "highest"))
        if "data" not in values:
            raise ConfigError("[train] there are no data to train on: name DATA, or data in the file of --config")
        path = checks.file_name("train", values["data"], "data")
        values["data"] = os.path.abspath(path) if os.path.exists(path) else path
        stem = os.path.basename(values["data"])
        run = Run(os.path.join("runs", stem.split(".")[0] or stem) if out is None else out)
        return _work(run, args, values, ranks, run.plan() if resume and run.exists else None)


def inspect_data(args: argparse.Namespace, data: str) -> int:
    """Show what the columns of a table are, and a command to train on it.

    evenflow inspect catalogue.csv
    """
    path, rows, texts = checks.file_name("inspect", data, "data"), None, list[list[str]]()
    if table := path.lower().endswith(TABLES):
        names, rows, texts = read_raw(path)
    seen = check.inspect(load(path).train) if rows is None else check.inspect(rows, names=names)
    check.name_texts(seen, {j: found for j, found in enumerate(texts) if found})
    lines, todo = seen.lines(table), f"evenflow train {shlex.quote(path)} {seen.options(table)}".rstrip()
    shown = "\n".join([f"{seen.rows} rows", str(seen), "", *lines, "", todo])
    report({"rows": seen.rows, "kinds": {str(one.name): one.kind for one in seen.columns}, "lines": lines,
            "command": todo}, shown, args.json)
    return 0


def go_on(args: argparse.Namespace, path: str, *, epochs: int | None = None, steps: int | None = None,
          quiet: bool = False) -> int:
    """Go on with a run, as if it had not stopped.

    evenflow resume runs/digits --epochs 200

    path: folder of the run
    """
    with launched() as ranks:
        run = Run(path)
        return _work(run, args, options.checked(vars(args)), ranks, run.plan())


def _work(run: Run, args: argparse.Namespace, values: dict[str, Any], ranks: Ranks, before: Plan | None) -> int:
    """Begins a run, or goes on with one by its settings and what is given besides: its checkpoint refuses other ones
    than how long and where.
    """
    if before is not None:
        anew = ("device", "threads", *(("epochs", "steps") if "epochs" in values or "steps" in values else ()))
        values = {**before.settings, **dict.fromkeys(anew), **values}
    if is_pictures(values["data"]) and Path(os.path.realpath(run.folder)).is_relative_to(
            os.path.realpath(values["data"])):
        raise ConfigError(f"[train] --out {run.folder} is in the folder of pictures to train on; choose another one")
    with run.alone(ranks):
        trainer, whole, plan = _prepared(values, ranks, before)
        flow = trainer.flow
        if before is not None:
            if os.path.exists(run.model) or os.path.exists(state_path(run.model)):
                trainer.load(run.model)  # else it was killed before its first checkpoint
            if any(plan.settings.get(name) != before.settings.get(name) for name in ("epochs", "steps")):
                trainer.state.progress.stopped, trainer.state.progress.bad_epochs = False, 0
            ranks.lead(lambda: run.go_on(plan, trainer))
            return _fit(run, trainer, plan, whole, args)
        comments = ["The settings of a run. To repeat it: evenflow train --config THIS_FILE --out FOLDER",
                    f"evenflow {_core.version}, command: {args.command}", f"data: {plan.mark}"]
        ranks.lead(lambda: run.start(plan, trainer, options.toml(plan.settings, comments), args.command, args.force))
        seen = [] if flow.is_image else ranks.lead(lambda: _look(trainer).lines(
            plan.source.data.lower().endswith(TABLES), check.SHOWN))
        for text in [*_few(trainer), *seen]:
            if ranks.rank == 0:
                tell(f"evenflow: warning: [train] {text}")
        return _fit(run, trainer, plan, whole, args)


# From settings to a training

def _prepared(values: dict[str, Any], ranks: Ranks, before: Plan | None) -> tuple[Trainer, Dataset, Plan]:
    """A trainer, all its data, and the plan, which has every setting as it was resolved.

    before: of a run that goes on, whose data have to be what they were.
    """
    values = options.pick(values, options.KEYS)
    source = of(Source, values)
    loaded = source.read()
    whole, part = source.parts(loaded)
    if before is not None:
        before.require(source, whole, part)
    name, usual, training = presets.choose(source.data, whole.kind, whole.shape, values.get("model"),
                                           values.get("preset"))
    outputs = of(Outputs, {**training, **values})
    flow = MODELS[name](whole.shape[0] if whole.kind == "table" else whole.shape, seed=values.get("seed", 0),
                        device=values.get("device", "cpu"), threads=values.get("threads") or threads_a_rank(ranks),
                        **{**usual, **_model_settings(values, name, whole)})
    settings, epochs = presets.resolved(_settings(values, training), training, len(part.train), values.get("epochs"),
                                        values.get("steps"), part.test is not None)
    _check_bounds(flow, loaded)
    del loaded  # the memory; its rows are in the parts
    if is_header(part.columns):
        name_columns(flow, part.columns, part.context)
    parts = [for_flow(flow, part.part(which)) for which in ("train", *(["test"] if part.test is not None else []))]
    data, *valid = (checked(flow, where, batch.x, batch.label, batch.context, batch.weight)
                    for where, batch in zip(("fit", "fit valid"), parts))
    trainer = Trainer(flow, data, valid[0] if valid else None, settings, ranks)
    model = {**models.left_out(flow), **flow.config}
    if name == "glow":
        model["depth"] = model.pop("steps")
    resolved = {**model, **vars(settings), **settings.optimizer_options,
                **(vars(settings.augment) if settings.augment else {}), **vars(outputs), **vars(source), "model": name,
                "conditional": flow.classes > 0 or None, "bounds": values.get("bounds"), "epochs": epochs,
                "steps": values.get("steps"), "device": values.get("device", "cpu"),
                "threads": values.get("threads", 0), "matmul_precision": _core.matmul_precision()}
    return trainer, whole, Plan(options.pick(resolved, options.KEYS), whole.classes if flow.classes else [],
                                mark(whole, part))


def _model_settings(values: dict[str, Any], name: str, whole: Dataset) -> dict[str, Any]:
    """Those that were given, and what the data say."""
    given, known = options.pick(values, options.MODEL), inspect.signature(MODELS[name]).parameters
    if name == "glow":
        hidden = given.get("hidden")
        given = {"steps" if key == "depth" else key: value for key, value in given.items()}
        if isinstance(hidden, list) and len(hidden) == 1:
            given["hidden"] = hidden[0]
    if values.get("conditional"):
        if whole.kind == "table":
            raise ConfigError("[train] --conditional is for images with labels; of a table name the columns that the "
                              "others are given: --context NAME ...")
        if not whole.classes or (whole.test is not None and whole.test_labels is None):
            lack = "the test part has" if whole.classes else "the data have"
            raise ConfigError(f"[train] --conditional needs labels, and {lack} none: {values['data']}")
        given["classes"] = len(whole.classes)
    if whole.train_context is not None:
        given["context"] = whole.train_context.shape[1]
    if "bounds" in values:
        ends = {column: tuple(None if end == "none" else end for end in pair) for column, *pair in values["bounds"]}
        names = whole.columns or [str(c) for c in range(whole.shape[0])]
        given["bounds"] = by_column("train", ends, names, whole.shape[0])
    for key in given:
        if key not in known:
            raise ConfigError(f"[train] {name} " + ("takes no context, and the data have one" if key == "context" else
                                                    f"has no option {flag({'classes': 'conditional'}.get(key, key))}"))
    return given


def _check_bounds(flow: Flow, loaded: Dataset) -> None:
    """NumericError, by the column's name and the file's row, for data in memory that the flow's dtype can't hold, or on
    or outside of a bound: also for those that are only tested on, before hours of training.
    """
    for where, x in (("train", loaded.train), ("train, test", loaded.test)):
        if isinstance(x, np.ndarray) and x.dtype != np.uint8 and not stays_outside(x):
            taken = arrays.to_floats(where, x, flow.dtype, names=loaded.columns or None)
            require_inside(where, limits_of(flow), taken, names=loaded.columns)


def _settings(values: dict[str, Any], training: dict[str, Any]) -> Settings:
    """Those that were given, over those of a preset; "auto" stays."""
    usual = {f.name: training[f.name] for f in dataclasses.fields(Settings)
             if f.name in training and f.default != "auto"}
    # Another optimiser has other arguments: a preset's are for its own.
    own = usual.get("optimizer_options", {}) if values.get("optimizer") in (None, training["optimizer"]) else {}
    augment = {**(usual.get("augment") or {}), **options.pick(values, options.AUGMENT)}
    return Settings(**{**usual, **options.pick(values, options.TRAINED), "seed": values.get("seed", 0),
                       "optimizer_options": {**own, **options.pick(values, options.OPTIMIZER)},
                       "augment": augment or None})


def _few(trainer: Trainer) -> list[str]:
    """What helps a training on few rows, or on few pictures that are not augmented."""
    if len(trainer.data) >= (FEW_PICTURES if trainer.flow.is_image else FEW_ROWS) or trainer.settings.augment:
        return []
    if not trainer.flow.is_image:
        return [f"{len(trainer.data)} rows are few: compare with a Gaussian, or a mixture of some, and train several "
                "seeds"]
    bits = ", --bits 5" if trainer.flow.bits > 5 else ""
    return [f"{len(trainer.data)} pictures are few: try --flip, if mirrored ones are as likely, --shift 0.1{bits}"]


def _look(trainer: Trainer) -> check.Inspection:
    flow = trainer.flow
    return check.look(trainer.data, flow.dtype, column_names(flow).get("x") or (), trainer.seed, bounds_of(flow),
                      trainer.standardises)


# The training

def _fit(run: Run, trainer: Trainer, plan: Plan, whole: Dataset, args: argparse.Namespace) -> int:
    flow, leads, state = trainer.flow, trainer.ranks.rank == 0, trainer.state.progress
    epochs, steps = plan.settings.get("epochs"), plan.settings.get("steps")
    passes = None if epochs is None or epochs >= presets.UNTIL_STOPPED else epochs * trainer.batches
    total = min((n for n in (steps, passes) if n is not None), default=None)
    quiet = args.quiet or not leads
    display = Display(total, None if quiet else find_bar(), lines=not quiet)
    if not quiet:
        valid, test = (0 if x is None else len(x) for x in (trainer.valid, whole.test))
        tell(f"training {flow.config['model']} ({flow.num_params:,} parameters) on {plan.source.data}: "
             f"{len(trainer.data):,} samples, {valid:,} to validate, {test:,} to test; "
             f"{ahead(total, state.step)}, {trainer.batches:,} an epoch; into {run.folder}")
    try:
        result = run.fit(trainer, plan, whole, display)
    except KeyboardInterrupt:
        display.close()
        if leads:
            place = [*(["--"] if run.folder.startswith("-") else []), run.folder]
            kind = "png" if flow.is_image else "csv" if flow.columns else "npy"
            out = os.path.join(run.folder, f"samples.{kind}")
            tell(f"evenflow: stopped; {run.folder} has step {trainer.saved_step}; go on with: "
                 + shlex.join(["evenflow", "resume", *place]))
            tell("evenflow: samples of the model so far: " + shlex.join(["evenflow", "sample", f"--out={out}", *place]))
        return 130
    finally:
        display.close(stopped=state.stopped)
    return _judged(run, trainer, result, args.json) if leads else 0


def _judged(run: Run, trainer: Trainer, result: dict[str, Any], as_json: bool) -> int:
    """Prints what came of a training, beside a model that has learned nothing, and returns the exit code."""
    flow, state, trivial = trainer.flow, trainer.state.progress, result["log_likelihood_baseline"]
    what, lines, history = BASELINES[flow.is_image], [quality(result)], trainer.history
    short = result["steps"] < JUDGED_STEPS
    if failures := sum(record.get("skipped", 0) for record in history):
        lines.append(f"{failures} steps failed, see {result['log']}; the learning rate is {state.lr_scale:g} of what "
                     "it was")
    if state.stopped:
        lines.append(f"stopped after epoch {result['epochs']}: the last {trainer.settings.patience} were not "
                     "better on the validation data")
    elif (best := best_of(history)) is not None and best is history[-1]:
        lines.append(f"{CUT_SHORT}: evenflow resume {shlex.quote(run.folder)} --epochs {2 * max(1, result['epochs'])}")
    report(result, "\n".join([*lines, result["model"], result["log"], *result["pictures"]]), as_json)
    for note in result["notes"]:
        tell(f"evenflow: {note}")
    few = 1 / min(len(trainer.data), check.MOST_ROWS)
    off = {name: one for name, one in result["marginals"].items()
           if one[0] > max(OUTSIDE, 10 * few) or one[1] > max(DISTANCE, 2 * (few + 1 / DRAWN) ** 0.5)}
    known = {str(one.name): one for one in _look(trainer).columns} if off else {}
    ends = dict(zip(result["marginals"], bounds_of(flow) or ()))
    for name, (outside, distance) in off.items():
        todo = "; ".join(one.options or one.python for one in known[name].found) or (
            f"--bounds {name} LOW HIGH, if its range has ends"
            if known[name].ends and {*ends.get(name, ())} <= {None} and not short
            else "train for longer" if not state.stopped
            else "--base gaussian draws fewer far ones" if outside > OUTSIDE and flow.config.get("base") == "logistic"
            else "more rows may help")
        tell(f"evenflow: warning: samples of column {name!r} differ from the data: {100 * outside:.2g} % are beyond "
             f"them, Kolmogorov's distance is {distance:.2g}; {todo}")
    if trivial is not None and result["log_likelihood"] <= trivial:
        worse = result["log_likelihood"] < trivial - DIVERGED * flow.dims
        if worse and not short:
            tell(f"evenflow: failed: the training diverged: the model is worse than {what}; try a lower --lr, or "
                 "--clip")
            return 1
        if worse or not short:
            todo = "use that, or more rows" if state.stopped else "train for longer, or with another --lr"
            tell(f"evenflow: warning: the model is no better than {what}; {todo}")
    if not result["failures"]:
        return 0
    for text in result["failures"]:
        tell(f"evenflow: warning: the model fails its test: {text}")
    law = {"Glow": "--coupling bounded, ", "RealNVP": "--coupling additive, "}.get(
        flow.config["model"] if flow.config.get("coupling") == "affine" else "", "")
    tell(f'evenflow: try {law}a lower --lr or --clip; see "A trained model fails its test" in the documentation')
    return FAILED


def add_commands(commands: Any, whole: bool) -> None:
    """Declares them. whole: the help shows all options."""
    sub = command(commands, "train", train, on_model=False)
    for title, group in options.GROUPS.items():
        section = sub.add_argument_group(title)
        for key, told in group.items():
            if told:
                section.add_argument(flag(key), **told)
    sub.add_argument("--help-all", action="help", help="show all options and exit")
    for action in [] if whole else sub._actions:
        if action.dest in options.KEYS and action.dest not in options.EVERYDAY:
            action.help = argparse.SUPPRESS
    sub.usage = "evenflow train [DATA] [--option VALUE ...]"
    sub.set_defaults(device=None, threads=None, matmul_precision=None)
    command(commands, "resume", go_on, on_model=False)
    command(commands, "inspect", inspect_data, on_model=False)
