"""The settings of a training: options of `evenflow train`, and keys of its config files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from evenflow.errors import ConfigError
from evenflow.models import DECLARED, Setting


@dataclass(frozen=True)
class Option:
    """One setting: --batch-size on the command line is batch_size in a file."""

    name: str
    kind: type
    """int, float, str or bool."""
    text: str
    many: bool = False
    """One or more values."""
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    parts: tuple[str, ...] = ()
    """What one value consists of; there may be several such values."""


ELSEWHERE = ("shape", "classes", "context", "bounds", "seed")
"""Settings of models that follow from the data, or from options of other groups."""


def _model_option(name: str) -> Option:
    """The option for all settings of a name, which may differ between models, and between images and tables."""
    kinds = {"int": int, "ints": int, "float": float, "bool": bool, "str": str}
    settings = [s for declared in DECLARED.values() for s in declared if s.name == name]
    texts: dict[str, list[Setting]] = {}
    for setting in settings:
        choices = f" ({', '.join(setting.choices)})" if setting.choices else ""
        texts.setdefault(setting.help + choices, []).append(setting)
    return Option("depth" if name == "steps" else name, kinds[settings[0].type],
                  "; ".join(_owners(same) + text for text, same in texts.items()),
                  many=any(setting.type == "ints" for setting in settings))


def _owners(settings: list[Setting]) -> str:
    """"glow, realnvp (tables): "; nothing if all models have the setting."""
    def label(model: str) -> str:
        kinds = [setting.kind for setting in settings if setting.model == model]
        known = [kind for other, kind in DECLARED if other == model]
        return model.lower() if kinds == known else f"{model.lower()} ({kinds[0]}s)"

    models = dict.fromkeys(setting.model for setting in settings)
    return "" if len(settings) == len(DECLARED) else ", ".join(map(label, models)) + ": "


MODEL = tuple(map(_model_option, dict.fromkeys(
    setting.name for settings in DECLARED.values() for setting in settings if setting.name not in ELSEWHERE)))
"""Arguments of a model; depth is Glow's `steps`, since steps is the training's."""

TRAINING = (
    Option("batch_size", int, "samples a step"),
    Option("optimizer", str, "adamax, adam, sgd, rmsprop"),
    Option("lr", float, "learning rate"),
    Option("warmup", int, "steps of linear warm-up"),
    Option("lr_decay", float, "factor a step after it"),
    Option("lr_floor", float, "smallest rate"),
    Option("clip", float, "largest gradient norm; 0: off"),
    Option("accumulate", int, "pieces a batch is worked through in"),
    Option("average", float, "decay of the moving average; 0: off"),
    Option("patience", int, "epochs without improvement until it stops"),
    Option("on_nonfinite", str, "after a failed step: raise, skip, rollback",
           choices=("raise", "skip", "rollback")),
    Option("max_failures", int, "steps that may fail"),
    Option("init_batch", int, "samples for the data-dependent initialisation"),
    Option("activation_budget", int, "bytes; 0: rebuild all activations"),
    Option("sync_batch_norm", bool, "on several ranks: moments of all ranks' samples"),
    Option("wire_dtype", str, "on several ranks: gradients are sent rounded", choices=("bfloat16",)))
"""Fields of evenflow.settings.Settings."""

OPTIMIZER = (
    Option("beta1", float, "adam, adamax"),
    Option("beta2", float, "adam, adamax"),
    Option("eps", float, "adam, adamax, rmsprop"),
    Option("momentum", float, "sgd, rmsprop"),
    Option("decay", float, "rmsprop: of the mean square"),
    Option("weight_decay", float, "added to the gradient, times the value, where the model says so"),
    Option("shrink", float, "factor on all values at every step; 1: off"))
"""Further arguments of the optimiser."""

AUGMENT = (
    Option("flip", bool, "left and right changed over in half of the images"),
    Option("shift", float, "largest shift, as a fraction of height and width"),
    Option("rotation", float, "largest angle, degrees"),
    Option("zoom", float, "largest change of size, as a fraction"),
    Option("shear", float, "largest shear angle, radians"))
"""Fields of evenflow.data.augment.Augment: changes of the training images, drawn anew in every epoch."""

OUTPUT = (
    Option("temperature", float, "of the samples in pictures"),
    Option("sample_every", int, "pictures of samples and learning curve every N epochs, not at the end only"),
    Option("log_every", int, "a line in the log every N steps (100); 0: for epochs only"),
    Option("save_every", float, "seconds between checkpoints (60); 0: after every step"),
    Option("csv", bool, "history.csv, one row an epoch"),
    Option("tensorboard", bool, "events for TensorBoard (needs tensorboardX)"))
"""Fields of evenflow.logs.Outputs."""

GROUPS: dict[str, tuple[Option, ...]] = {
    "data": (Option("columns", str, "tables: columns to use, in this order", many=True, metavar="NAME"),
             Option("label", str, "tables: column of classes", metavar="NAME"),
             Option("context", str, "tables: columns that the density of the others is given", many=True,
                    metavar="NAME"),
             Option("weight", str, "tables: column of what rows count for", metavar="NAME"),
             Option("bounds", str, "tables: what the values of a column lie strictly between, none for an open end; "
                    "given again for another column", parts=("NAME", "LOW", "HIGH")),
             Option("size", int, "folder of images: resize to SIZE x SIZE"),
             Option("crop", int, "folder of images: a square of CROP x CROP out of the middle, before"),
             Option("pad", int, "images: in the middle of a black square of PAD x PAD"),
             Option("valid", float,
                    "fraction for validation, 0 for none, and for testing where the data have no test part "
                    "(0.1)"),
             *AUGMENT),
    "model": (Option("preset", str, "settings of a paper, see `evenflow presets`", metavar="NAME"),
              Option("model", str, "glow, nice, realnvp", choices=("glow", "nice", "realnvp")),
              Option("conditional", bool, "glow: density given the label"), *MODEL),
    "training": (Option("epochs", int, "passes over the data, in total"),
                 Option("steps", int, "updates, in total"),
                 Option("seed", int, "of the split, the model, the order and the noise (0)"), *TRAINING,
                 *OPTIMIZER),
    "output": OUTPUT}

# Keys that the command line has in its own way.
PLACE = (Option("data", str, "DATA"), Option("device", str, "--device"),
         Option("threads", int, "--threads"),
         Option("matmul_precision", str, "--matmul-precision", choices=("highest", "high")))
KEYS = {option.name: option for options in (PLACE, *GROUPS.values()) for option in options}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares all options; one that is not given stays None."""
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            flag = "--" + option.name.replace("_", "-")
            if option.parts:
                group.add_argument(flag, nargs=len(option.parts), action="append", metavar=option.parts,
                                   help=option.text)
            elif option.kind is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=option.text)
            else:
                group.add_argument(flag, type=option.kind, nargs="+" if option.many else None,
                                   choices=option.choices, metavar=option.metavar, help=option.text)
    parser.set_defaults(device=None, threads=None, matmul_precision=None)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, by key."""
    values = {name: value for name in KEYS if (value := getattr(args, name)) is not None}
    if "bounds" in values:
        values["bounds"] = named_bounds("[train]", values["bounds"])
    return values


def named_bounds(where: str, values: Any) -> list[list[Any]]:
    """[name, low, high] of columns with an end, in the order of names: ends are floats or "none". ConfigError."""
    if not isinstance(values, list) or not all(isinstance(v, list) and len(v) == 3 and isinstance(v[0], str)
                                               for v in values):
        raise ConfigError(f"{where} expected lists of a column's name and two ends for bounds, got {values!r}")

    def end(name: str, value: Any) -> Any:
        if value == "none":
            return value
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{where} expected a number or none for the bounds of {name}, got {value!r}") from None

    found = sorted(([name, end(name, low), end(name, high)] for name, low, high in values), key=lambda v: str(v[0]))
    for (name, *_), (later, *_) in zip(found, found[1:]):
        if name == later:
            raise ConfigError(f"{where} expected bounds of a column once, got {name} twice")
    return [one for one in found if one[1:] != ["none", "none"]]


def pick(values: dict[str, Any], options: tuple[Option, ...]) -> dict[str, Any]:
    """Those of the values that are of some options."""
    return {option.name: values[option.name] for option in options if option.name in values}
