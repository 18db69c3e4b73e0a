"""The options of `evenflow train`, which are also the keys of its config files: --batch-size is batch_size there.

Names, kinds, defaults and lines of help come from where the settings are declared, and so do the checks.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Iterable
from typing import Any

from evenflow._border import checks
from evenflow.data.augment import Augment
from evenflow.errors import ConfigError, wrong
from evenflow.models import DECLARED, MODELS, Setting
from evenflow.optim import OPTIMIZERS
from evenflow.runs import Source
from evenflow.runs.logs import Outputs
from evenflow.training.presets import MODELS as USUAL
from evenflow.training.presets import PRESETS, TRAINING
from evenflow.training.settings import Settings

Options = dict[str, dict[str, Any]]
"""What argparse is told of each option, by its key. One that is not given stays None."""
METAVARS = {int: "N", float: "X", str: "NAME"}
ELSEWHERE = ("shape", "classes", "context", "bounds", "seed")
"""Settings of models that follow from the data, or are options of other groups."""


def _option(help: str, kind: type = str, many: bool = False) -> dict[str, Any]:
    if kind is bool:
        return {"help": help, "action": argparse.BooleanOptionalAction}
    return {"help": help, "type": kind, "metavar": METAVARS[kind], "nargs": "+" if many else None}


def _fields(owner: type, usual: dict[str, str] | None = None) -> Options:
    """For the fields of a dataclass that have a line of help and are numbers, words or lists of words.

    usual: defaults where it has "auto".
    """
    found, hints = {}, typing.get_type_hints(owner)
    for f in dataclasses.fields(owner):
        kinds = [kind for hint in (hints[f.name], *typing.get_args(hints[f.name]))
                 for kind in (bool, int, float, str) if hint in (kind, list[kind])]  # type: ignore[valid-type]
        if "help" in f.metadata and kinds and f.name not in ("seed", "optimizer_options"):
            choices = ", ".join(one for one in f.metadata.get("choices", ()) if one != "auto")
            default = (usual or {}).get(f.name, "" if f.default in (None, False, "auto") else f"{f.default}")
            text = ": ".join(filter(None, (f.metadata["help"], choices))) + (f" ({default})" if default else "")
            found[f.name] = _option(text, kinds[0], many="list" in str(hints[f.name]))
    return found


def _by_owner(values: dict[str, Any]) -> str:
    """What is the default of whom: "glow 3, realnvp 2"."""
    return ", ".join(f"{owner} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
                     for owner, value in values.items())


def _model_options() -> Options:
    """For all settings of a name, which may differ between models, and between images and tables."""
    kinds = {"int": int, "ints": int, "float": float, "bool": bool}
    named: dict[str, list[Setting]] = {}
    for setting in (setting for settings in DECLARED.values() for setting in settings):
        if setting.name not in ELSEWHERE:
            named.setdefault("depth" if setting.name == "steps" else setting.name, []).append(setting)
    found = {}
    for name, settings in named.items():
        texts = {s.help + (f": {', '.join(s.choices)}" if s.choices else ""): None for s in settings}
        default = _by_owner({s.model.lower(): USUAL.get((s.model.lower(), s.kind), {}).get(s.name, s.default)
                             for s in settings})
        found[name] = _option(f"{'; '.join(texts)} ({default})", kinds.get(settings[0].type, str),
                              many=any(s.type == "ints" for s in settings))
    return found


def _optimizer_options() -> Options:
    """Further arguments of the optimisers, and which of them have them."""
    owners: dict[str, list[str]] = {}
    for optimizer, make in OPTIMIZERS.items():
        for name in list(inspect.signature(make).parameters)[1:]:
            owners.setdefault(name, []).append(optimizer)
    return {name: _option(", ".join(of), float) for name, of in owners.items() if name != "lr"}


def _usual() -> dict[str, str]:
    """Defaults of a training by kind of data."""
    names = {name for usual in TRAINING.values() for name in usual}
    return {name: _by_owner({f"{kind}s": usual[name] for kind, usual in TRAINING.items() if name in usual})
            for name in names}


MODEL, SOURCE, AUGMENT, OPTIMIZER = _model_options(), _fields(Source), _fields(Augment), _optimizer_options()
TRAINED, OUTPUT = _fields(Settings, _usual()), _fields(Outputs)
BOUNDS = {"help": "tables: what the values of a column lie strictly between, none for an open end; given again for "
                  "another column", "nargs": 3, "action": "append", "metavar": ("NAME", "LOW", "HIGH")}
GROUPS: dict[str, Options] = {
    "data": {**SOURCE, "bounds": BOUNDS, **AUGMENT},
    "model": {"preset": _option("a paper's settings: " + ", ".join(PRESETS)),
              "model": {"help": "default: glow for images, couplingflow for tables",
                        "choices": tuple(map(str.lower, MODELS))},
              "conditional": _option("glow: density given the label", bool), **MODEL},
    "training": {"epochs": _option("passes over the data, in total", int),
                 "steps": _option("updates, in total", int),
                 "seed": _option("of the split, the model, the order and the noise (0)", int), **TRAINED, **OPTIMIZER},
    "output": OUTPUT,
    "place": {"data": {}, "device": {}, "threads": {}, "matmul_precision": {}}}
"""By what they are of; the last, which every command has as options, or in another way, are keys alone."""
KEYS = tuple(key for group in GROUPS.values() for key in group)


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """What was said, by key: what no later check would refuse before there are files. TypeError, ConfigError."""
    values = pick(values, KEYS)
    for name in ("epochs", "steps"):
        if name in values:
            checks.whole("train", name, values[name], low=0)
    if "bounds" in values:
        try:
            rows = {str(name): [end if end == "none" else float(end) for end in (low, high)]
                    for name, low, high in values["bounds"]}
            if len(rows) < len(values["bounds"]):
                raise ValueError
            values["bounds"] = [[name, *pair] for name, pair in rows.items()]
        except (TypeError, ValueError):
            told = (f"expected bounds of each column once, by its name and two ends, each a number or none, got "
                    f"{values['bounds']}")
            raise wrong(ConfigError, "train", "bounds", told) from None
    return values


def pick(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those of the values that have these keys, and are said."""
    return {key: values[key] for key in keys if values.get(key) is not None}
