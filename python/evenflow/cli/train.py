"""Commands that train: train, resume."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from typing import Any

from evenflow import presets
from evenflow.cli.common import command, quality, report
from evenflow.data import Dataset
from evenflow.errors import ConfigError
from evenflow.flow import Flow
from evenflow.models import NICE, Glow, RealNVP
from evenflow.runs import Plan, Run, Source, open_model
from evenflow.train import Settings

MODELS = {"glow": Glow, "realnvp": RealNVP, "nice": NICE}
# Options of `train` that are arguments of a model; --depth is Glow's `steps`, since --steps is training's.
MODEL_OPTIONS = ("levels", "depth", "hidden", "coupling", "permutation", "learn_top", "class_weight", "bits",
                 "scales", "base_dim", "residual_blocks", "bottleneck", "recursion", "couplings", "mask",
                 "preprocess", "prior", "order", "actnorm", "batch_norm", "weight_norm", "skip", "dtype")
TRAINING_OPTIONS = ("batch_size", "optimizer", "lr", "warmup", "lr_decay", "lr_floor", "clip", "accumulate",
                    "average", "patience", "on_nonfinite", "activation_budget")


# Commands

def train(args: argparse.Namespace) -> int:
    source = Source(args.data, args.columns, args.label, args.size, args.valid, args.seed)
    run = Run(args.out or os.path.join("runs", _stem(args.data)))
    if args.resume and run.exists:
        return _continue(run, args)
    parts = source.load()
    whole = parts[0]
    name, model, training = presets.choose(args.data, whole.kind, whole.shape, args.model)
    flow = _make_model(args, name, model, whole)
    settings = {k: training[k] for k in TRAINING_OPTIONS if k in training}
    settings.update({k: v for k in TRAINING_OPTIONS if (v := getattr(args, k)) is not None}, seed=args.seed)
    Settings(**settings)
    epochs, steps = args.epochs, args.steps
    if epochs is None and steps is None:
        epochs = training["epochs"]
    plan = Plan(source, settings, epochs, steps, whole.classes if flow.classes else [],
                training.get("temperature", 1.0))
    run.start(plan, args.force)
    return _fit(run, flow, plan, args, parts, resume=False)


def resume(args: argparse.Namespace) -> int:
    return _continue(Run(args.path), args)


# What they share

def _make_model(args: argparse.Namespace, name: str, settings: dict[str, Any], whole: Dataset) -> Flow:
    """A model with the options that were given, over the settings of a preset."""
    given = {k: v for k in MODEL_OPTIONS if (v := getattr(args, k)) is not None}
    if name == "glow":
        if "depth" in given:
            given["steps"] = given.pop("depth")
        if "hidden" in given:
            if len(given["hidden"]) != 1:
                raise ConfigError("[train] expected one number for --hidden with glow, "
                                  f"got {given['hidden']}")
            given["hidden"] = given["hidden"][0]
    if args.conditional:
        if not whole.classes:
            raise ConfigError(f"[train] expected labels with --conditional, got data without: {args.data}")
        given["classes"] = len(whole.classes)
    shape = whole.shape if whole.kind == "image" else whole.shape[0]
    try:
        return MODELS[name](shape, **{**settings, **given}, seed=args.seed, device=args.device,
                            threads=args.threads)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigError(f"[train] expected settings of {name}, got: {error}") from None


def _continue(run: Run, args: argparse.Namespace) -> int:
    """Goes on with a run; only how long may change."""
    plan = run.plan()
    if args.epochs is not None or args.steps is not None:
        plan = dataclasses.replace(plan, epochs=args.epochs, steps=args.steps)
    flow, _ = open_model(run.folder, args.device, args.threads)
    run.append({"event": "resume", "epochs": plan.epochs, "steps": plan.steps})
    return _fit(run, flow, plan, args, plan.source.load(), resume=True)


def _fit(run: Run, flow: Flow, plan: Plan, args: argparse.Namespace, parts: tuple[Dataset, Dataset],
         resume: bool) -> int:
    batches = -(-len(parts[1].train) // plan.training["batch_size"])
    limits = [plan.steps, None if plan.epochs is None else plan.epochs * batches]
    progress = Progress(min(n for n in limits if n is not None), quiet=args.quiet)
    try:
        result = run.fit(flow, plan, resume=resume, callback=progress, parts=parts)
    except KeyboardInterrupt:
        progress.close()
        print(f"evenflow: saved in {run.folder}; go on with: evenflow resume {run.folder}", file=sys.stderr)
        raise
    finally:
        progress.close()
    files = [result[k] for k in ("model", "log", "samples", "note") if k in result]
    report(args, result, f"held out: {quality(result)} on {result['n']} samples\n" + "\n".join(files))
    return 0


class Progress:
    """A bar on a terminal with tqdm, else now and then a line, on stderr."""

    def __init__(self, steps: int, quiet: bool):
        self.bar, self.quiet, self.printed, self.smooth = None, quiet, 0.0, None
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
                self.bar = tqdm(total=steps, unit="step", dynamic_ncols=True)
            except ImportError:
                pass

    def __call__(self, record: dict[str, Any]) -> None:
        if self.bar is not None and record["event"] == "step":
            self.bar.update(record["step"] - self.bar.n)
            value = record.get("bits_per_dim", record.get("loss"))
            if value is not None:
                self.smooth = value if self.smooth is None else 0.95 * self.smooth + 0.05 * value
                unit = "bits/dim" if "bits_per_dim" in record else "nats"
                self.bar.set_postfix_str(f"{self.smooth:.3f} {unit}", refresh=False)
        elif self.bar is None and not self.quiet and record["event"] == "epoch":
            if time.monotonic() - self.printed > 2:
                self.printed = time.monotonic()
                print(_epoch_line(record), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _epoch_line(record: dict[str, Any]) -> str:
    key, unit = ("bits_per_dim", "bits/dim") if "valid_bits_per_dim" in record else ("loss", "nats")
    shown = [f"{what} {record[k]:.3f} {unit}" for what, k in (("train", key), ("valid", f"valid_{key}"))
             if record.get(k) is not None]
    return f"epoch {record['epoch']}, step {record['step']}: {', '.join(shown)}, {record['seconds']:.0f} s"


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
    _length_arguments(sub)


def _length_arguments(sub: Any) -> None:
    sub.add_argument("--epochs", type=int, help="passes over the data, in total")
    sub.add_argument("--steps", type=int, help="updates, in total")
    sub.add_argument("--quiet", action="store_true", help="no progress")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA",
                        help="digits, a file (.npy .npz .csv IDX) or a folder of images")
    parser.add_argument("--out", metavar="RUN", help="folder to write (runs/<name of the data>)")
    parser.add_argument("--force", action="store_true", help="replace a run that is there")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.add_argument("--seed", type=int, default=0)
    _length_arguments(parser)
    sub = parser.add_argument_group("data")
    sub.add_argument("--columns", nargs="+", metavar="NAME", help="CSV: columns to use, in this order")
    sub.add_argument("--label", metavar="NAME", help="CSV: column of classes")
    sub.add_argument("--size", type=int, help="folder of images: crop and resize to SIZE x SIZE")
    sub.add_argument("--valid", type=float, default=0.1,
                     help="fraction for validation, and for testing where the data have no test part (0.1)")
    sub = parser.add_argument_group("model")
    sub.add_argument("--model", choices=sorted(MODELS))
    sub.add_argument("--conditional", action="store_true", help="glow: density given the label")
    for name, text in (("levels", "glow: scales"), ("depth", "glow: steps of flow a scale"),
                       ("bits", "images: bits a channel"), ("scales", "realnvp, images: scales"),
                       ("base-dim", "realnvp, images: channels of the nets"),
                       ("residual-blocks", "realnvp, images: blocks of the nets"),
                       ("recursion", "realnvp, images: 1 to 4"), ("couplings", "realnvp (tables), nice")):
        sub.add_argument(f"--{name}", type=int, help=text)
    sub.add_argument("--hidden", type=int, nargs="+", help="width of the nets: one number, or one a layer")
    for name, text in (("coupling", "affine, additive"), ("permutation", "glow: lu, plain, shuffle, reverse"),
                       ("mask", "realnvp, tables: halves, odd-even"), ("prior", "gaussian, logistic"),
                       ("preprocess", "tables: none, standardize, zca, whiten"),
                       ("order", "nice: tile, shuffle, reverse, none"), ("dtype", "float32, float64")):
        sub.add_argument(f"--{name}", help=text)
    for name in ("learn-top", "bottleneck", "skip", "actnorm", "batch-norm", "weight-norm"):
        sub.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    sub.add_argument("--class-weight", type=float, help="glow: weight of a classification loss")
    sub = parser.add_argument_group("training")
    sub.add_argument("--optimizer", help="adamax, adam, sgd, rmsprop")
    sub.add_argument("--on-nonfinite", choices=("raise", "skip", "rollback"))
    for name, kind, text in (("batch-size", int, "samples a step"), ("lr", float, "learning rate"),
                             ("warmup", int, "steps of linear warm-up"),
                             ("lr-decay", float, "factor a step after it"),
                             ("lr-floor", float, "smallest rate"),
                             ("clip", float, "largest gradient norm; 0: off"),
                             ("accumulate", int, "pieces a batch is worked through in"),
                             ("average", float, "decay of the moving average; 0: off"),
                             ("patience", int, "epochs without improvement until it stops"),
                             ("activation-budget", int, "bytes; 0: rebuild all activations")):
        sub.add_argument(f"--{name}", type=kind, help=text)
