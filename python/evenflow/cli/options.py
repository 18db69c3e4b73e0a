"""The options of `evenflow train`, which are also the keys of its config files: --batch-size is batch_size there.

Names, kinds and choices come from where the settings are declared; what stands here are words for them.
"""

from __future__ import annotations

import argparse
import inspect
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from evenflow.data.augment import Augment
from evenflow.errors import ConfigError
from evenflow.runs.logs import Outputs
from evenflow.models import DECLARED, MODELS, Setting
from evenflow.optim import OPTIMIZERS
from evenflow.training.presets import PRESETS
from evenflow.training.settings import Settings


@dataclass(frozen=True)
class Option:
    """One setting."""

    name: str
    text: str
    kind: type = str
    """str, int, float or bool."""
    many: bool = False
    """One or more values."""
    parts: tuple[str, ...] = ()
    """What one value consists of; there may be several such values."""
    choices: tuple[str, ...] | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


ELSEWHERE = ("shape", "classes", "context", "bounds", "seed")
"""Settings of models that follow from the data, or are options of other groups."""


def _model_option(name: str) -> Option:
    """The option for all settings of a name, which may differ between models, and between images and tables."""
    kinds = {"int": int, "ints": int, "float": float, "bool": bool, "str": str, "mask": str}
    settings = [s for declared in DECLARED.values() for s in declared if s.name == name]
    texts: dict[str, list[Setting]] = {}
    for setting in settings:
        choices = f" ({', '.join(setting.choices)})" if setting.choices else ""
        texts.setdefault(setting.help + choices, []).append(setting)
    return Option("depth" if name == "steps" else name, "; ".join(_owners(same) + text for text, same in texts.items()),
                  kinds[settings[0].type], many=any(setting.type == "ints" for setting in settings))


def _owners(settings: list[Setting]) -> str:
    """"glow, nice (tables): "; nothing if all models have the setting."""
    def label(model: str) -> str:
        kinds = [setting.kind for setting in settings if setting.model == model]
        known = [kind for other, kind in DECLARED if other == model]
        return model.lower() if kinds == known else f"{model.lower()} ({kinds[0]}s)"

    models = dict.fromkeys(setting.model for setting in settings)
    return "" if len(settings) == len(DECLARED) else ", ".join(map(label, models)) + ": "


def _fields(owner: type, **texts: str) -> tuple[Option, ...]:
    """Options for fields of a dataclass."""
    hints = typing.get_type_hints(owner)
    kinds = {name: [kind for kind in (bool, int, float, str) if kind in (hint, *typing.get_args(hint))]
             for name, hint in hints.items()}
    return tuple(Option(name, text, kinds[name][0]) for name, text in texts.items())


def _optimizer_options() -> Iterable[Option]:
    """Further arguments of the optimisers, and which of them have them."""
    texts = {"decay": "of the mean square", "weight_decay": "added to the gradient, times the value, where the model "
             "says so", "shrink": "factor on all values at every step"}
    owners: dict[str, list[str]] = {}
    for optimizer, make in OPTIMIZERS.items():
        for name in list(inspect.signature(make).parameters)[1:]:
            owners.setdefault(name, []).append(optimizer)
    for name, of in owners.items():
        if name != "lr":
            where = "" if len(of) == len(OPTIMIZERS) else ", ".join(of)
            yield Option(name, ": ".join(filter(None, (where, texts.get(name)))), float)


MODEL = tuple(map(_model_option, dict.fromkeys(
    setting.name for settings in DECLARED.values() for setting in settings if setting.name not in ELSEWHERE)))
"""Arguments of a model; depth is Glow's `steps`, since steps is the training's."""
TRAINING = _fields(
    Settings, batch_size="samples a step", optimizer=", ".join(OPTIMIZERS), lr="learning rate",
    warmup="steps of linear warm-up", schedule="after it: constant, cosine or plateau",
    lr_decay="factor a step, with a constant schedule", lr_floor="smallest rate",
    lr_patience="epochs without improvement until plateau halves the rate",
    clip="largest gradient norm; 0: off", accumulate="pieces that a batch is worked through in",
    average="decay of the moving average; 0: off", patience="epochs without improvement until it stops",
    on_nonfinite="after a failed step: raise, skip or rollback",
    init_batch="samples for the data-dependent initialisation",
    activation_budget="bytes of activations that are kept; 0: all are rebuilt")
OPTIMIZER = tuple(_optimizer_options())
AUGMENT = _fields(
    Augment, flip="half of the training images are mirrored left to right",
    shift="largest shift, as a fraction of height and width", rotation="largest angle, degrees",
    zoom="largest change of size, as a fraction", shear="largest shear angle, radians")
OUTPUT = _fields(
    Outputs, temperature="of the samples in pictures",
    sample_every="pictures of samples and learning curve every N epochs, not at the end only",
    log_every="a line in the log every N steps; 0: for epochs only",
    save_every="seconds between checkpoints; 0: one after every step")
GROUPS: dict[str, tuple[Option, ...]] = {
    "data": (Option("columns", "tables: columns to use, in this order", many=True),
             Option("label", "tables: column of classes"),
             Option("context", "tables: columns that the density of the others is given", many=True),
             Option("weight", "tables: column of what rows count for"),
             Option("bounds", "tables: what the values of a column lie strictly between, none for an open end; given "
                    "again for another column", parts=("NAME", "LOW", "HIGH")),
             Option("size", "folder of images: resize to SIZE x SIZE", int),
             Option("background", "folder of images: colour behind transparent pixels; default: white"),
             Option("crop", "folder of images: a square of CROP x CROP out of the middle, before", int),
             Option("pad", "images: in the middle of a black square of PAD x PAD", int),
             Option("valid", "fraction for validation, 0 for none, and for testing where the data have no test part",
                    float), *AUGMENT),
    "model": (Option("preset", "a paper's settings: " + ", ".join(PRESETS)),
              Option("model", "default: glow for images, couplingflow for tables",
                     choices=tuple(map(str.lower, MODELS))),
              Option("conditional", "glow: density given the label", bool), *MODEL),
    "training": (Option("epochs", "passes over the data, in total", int), Option("steps", "updates, in total", int),
                 Option("seed", "of the split, the model, the order and the noise", int), *TRAINING, *OPTIMIZER),
    "output": OUTPUT}
PLACE = (Option("data", "DATA"), Option("device", "where to compute: cpu or cuda"),
         Option("threads", "0: all cores", int),
         Option("matmul_precision", "float32 nets on a GPU: high multiplies as TF32",
                choices=("highest", "high")))
"""Keys of a config file that every command has as options, or in another way."""
KEYS = {option.name: option for options in (PLACE, *GROUPS.values()) for option in options}


def add_options(parser: Any, options: Iterable[Option]) -> None:
    """Declares options; one that is not given stays None."""
    for option in options:
        if option.parts:
            parser.add_argument(option.flag, nargs=len(option.parts), action="append", metavar=option.parts,
                                help=option.text)
        elif option.kind is bool:
            parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=option.text)
        else:
            parser.add_argument(option.flag, type=option.kind, nargs="+" if option.many else None,
                                choices=option.choices, help=option.text)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What was said, by key."""
    values = {name: value for name in KEYS if (value := getattr(args, name)) is not None}
    if "bounds" in values:
        values["bounds"] = _named_bounds(values["bounds"])
    return values


def _named_bounds(values: list[list[str]]) -> list[list[Any]]:
    """[name, low, high] of columns with an end, in the order of names: ends are floats or "none". ConfigError."""
    def end(name: str, value: str) -> Any:
        try:
            return value if value == "none" else float(value)
        except ValueError:
            raise ConfigError(f"[train] --bounds {name}: an end is a number or none, not {value!r}") from None

    found = sorted(([name, end(name, low), end(name, high)] for name, low, high in values), key=lambda v: str(v[0]))
    for (name, *_), (later, *_) in zip(found, found[1:]):
        if name == later:
            raise ConfigError(f"[train] --bounds {name} was given twice")
    return [one for one in found if one[1:] != ["none", "none"]]


def pick(values: dict[str, Any], options: tuple[Option, ...]) -> dict[str, Any]:
    """Those of the values that are of some options."""
    return {option.name: values[option.name] for option in options if option.name in values}
