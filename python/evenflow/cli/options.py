"""The options of `evenflow train`, which are also the keys of its config files: --batch-size is batch_size there.

Names, kinds, defaults and lines of help come from where the settings are declared, and so do the checks.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Iterable
from typing import Any

from evenflow._border import checks
from evenflow._border.extras import need
from evenflow._border.names import nearest
from evenflow.cli.common import Told, option, words
from evenflow.data.augment import Augment
from evenflow.data.table import MISSES
from evenflow.errors import ConfigError, IoError, wrong
from evenflow.models import DECLARED, MODELS, Setting
from evenflow.optim import OPTIMIZERS
from evenflow.runs import Source
from evenflow.runs.logs import Outputs
from evenflow.training.presets import MODELS as USUAL
from evenflow.training.presets import PRESETS, TRAINING
from evenflow.training.settings import Settings

Options = dict[str, Told]
"""By their keys. One that is not given stays None."""
ELSEWHERE = ("shape", "classes", "context", "bounds", "seed")
"""Settings of models that follow from the data, or are options of other groups."""


def _fields(owner: type) -> Options:
    """For the fields of a dataclass that have a line of help; "auto" is shown by what it stands for."""
    found, hints = {}, typing.get_type_hints(owner)
    for f in dataclasses.fields(owner):
        if "help" in f.metadata and f.name not in ("seed", "optimizer_options"):
            choices = ", ".join(one for one in f.metadata.get("choices", ()) if one != "auto")
            usual = {f"{kind}s": usual[f.name] for kind, usual in TRAINING.items() if f.name in usual}
            found[f.name] = option(hints[f.name], ": ".join(filter(None, (f.metadata["help"], choices))),
                                   shown=_by_owner(usual).removeprefix("images, tables: ") or f.default)
    return {name: told for name, told in found.items() if told}


def _by_owner(values: dict[str, Any]) -> str:
    """What is the default of whom: "glow, nice: 3; realnvp: 2"."""
    owners: dict[str, list[str]] = {}
    for owner, value in values.items():
        owners.setdefault(words(value), []).append(owner)
    return "; ".join(f"{', '.join(of)}: {value}" for value, of in owners.items())


def _model_options() -> Options:
    """For all settings of a name, which may differ between models, and between images and tables."""
    kinds = {"int": int, "ints": list[int], "float": float, "bool": bool}
    named: dict[str, list[Setting]] = {}
    for setting in (setting for settings in DECLARED.values() for setting in settings):
        if setting.name not in ELSEWHERE:
            named.setdefault("depth" if setting.name == "steps" else setting.name, []).append(setting)
    found = {}
    for name, settings in named.items():
        texts: dict[str, dict[str, None]] = {}
        for setting in settings:
            texts.setdefault(setting.help, {}).update(dict.fromkeys(setting.choices or ()))
        default = _by_owner({s.model.lower(): USUAL.get((s.model.lower(), s.kind), {}).get(s.name, s.default)
                             for s in settings})
        kind = "ints" if name == "hidden" else settings[0].type  # one number for some, a list for others
        found[name] = option(kinds.get(kind, str), "; ".join(text + ": " * bool(values) + ", ".join(values)
                                                           for text, values in texts.items()), shown=default)
    return found


def _optimizer_options() -> Options:
    """Further arguments of the optimisers, and which of them have them."""
    owners: dict[str, dict[str, Any]] = {}
    for optimizer, make in OPTIMIZERS.items():
        for p in list(inspect.signature(make).parameters.values())[1:]:
            owners.setdefault(p.name, {})[optimizer] = p.default
    return {name: option(float, "of the optimiser", shown=_by_owner(of)) for name, of in owners.items() if name != "lr"}


MODEL, OPTIMIZER = _model_options(), _optimizer_options()
SOURCE, AUGMENT, TRAINED, OUTPUT = map(_fields, (Source, Augment, Settings, Outputs))
PAIRS: Options = {name: {"help": f"tables: {told}; again for another column (none)", "nargs": len(metavar),
                         "action": "append", "metavar": metavar} for name, told, metavar in (
    ("omit", "leave out rows with a number in a column; with none where VALUE is missing", ("NAME", "VALUE")),
    ("noise", "add uniform noise to a column in steps, of 1 for whole numbers", ("NAME", "STEP")),
    ("bounds", "ends that a column's values lie between, or none", ("NAME", "LOW", "HIGH")))}
"""With a column first, and what stands for no number."""
WORDS = {"omit": MISSES, "noise": "", "bounds": "none"}
GROUPS: dict[str, Options] = {
    "data": {**SOURCE, **PAIRS, **AUGMENT},
    "model": {"model": option(str, ", ".join(MODELS).lower(), shown="images: glow; tables: couplingflow"),
              "preset": option(str, "a paper's settings: " + ", ".join(PRESETS), shown="none"),
              "conditional": option(bool, "glow: density given the label", shown=False), **MODEL},
    "training": {"epochs": option(int, "passes over the data, in total", shown=_by_owner(
                     {f"{kind}s": f"{usual['epochs']}, and {usual['least_steps']} steps" for kind, usual in
                      TRAINING.items()})),
                 "steps": option(int, "updates, in total", shown="those of --epochs"),
                 "seed": option(int, "of split, model, order and noise", shown=0),
                 **TRAINED, **OPTIMIZER},
    "output": OUTPUT,
    "place": {"data": {}, "device": {}, "threads": {}, "matmul_precision": {}}}
"""By what they are of; the last, which every command has as options, or in another way, are keys alone."""
KEYS = tuple(key for group in GROUPS.values() for key in group)
EVERYDAY = ("data", "columns", "label", "context", "weight", "drop", "omit", "noise", "bounds", "size", "valid",
            "model", "conditional", "levels", "depth", "hidden", "coupling", "bits", "couplings", "law", "epochs",
            "steps", "batch_size", "lr", "patience", "seed", "device", "threads")
"""What --help shows; --help-all shows the rest as well."""


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """What was said, by key: what no later check would refuse before there are files. TypeError, ConfigError."""
    values = pick(values, KEYS)
    for name in ("epochs", "steps"):
        if name in values:
            checks.whole("train", name, values[name], low=0)
    if "conditional" in values:
        checks.flag("train", "conditional", values["conditional"])
    for name in ("data", "model", "preset"):
        if not isinstance(values.get(name, ""), str):
            raise wrong(TypeError, "train", name, f"expected a name for {name}, got {values[name]!r}")
    for key, told in PAIRS.items():
        try:
            rows = [[str(name), *(end if end == WORDS[key] else float(end) for end in ends)]
                    for name, *ends in values.get(key, ())]
            again = key != "omit" and len({name for name, *_ in rows}) < len(rows)
            if again or any(len(row) != told["nargs"] for row in rows):
                raise ValueError
        except (TypeError, ValueError):
            what = f"{' '.join(told['metavar'])}, with numbers{WORDS[key] and ' or ' + WORDS[key]}"
            once = "" if key == "omit" else ", each column once"
            raise wrong(ConfigError, "train", key, f"expected {key} as {what}{once}, got {values[key]}") from None
        if rows:
            values[key] = rows
    return values


def pick(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those of the values that have these keys, and are said."""
    return {key: values[key] for key in keys if values.get(key) is not None}


# Config files

def read(path: str) -> dict[str, Any]:
    """The settings in a config file, TOML. IoError, ConfigError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = need("config", "tomli", "tomli or Python 3.11", "toml")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise IoError(f"[config] {path} can't be read as TOML: {error}") from error
    for key in table:
        if key not in KEYS:
            near = nearest(key, KEYS)
            told = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"[config] {path}: there is no option {key}{told}")
    return checked(table)


def toml(settings: dict[str, Any], comments: list[str]) -> str:
    """A config file that `read` takes back."""
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    for title, group in GROUPS.items():
        # JSON's texts, numbers, lists and truth values are TOML's, but for one character.
        rows = [f"{key} = {json.dumps(settings[key], ensure_ascii=False)}".replace("\x7f", "\\u007f")
                for key in group if key in settings]
        lines += ["", f"# {title}", *rows] if rows else []
    return "\n".join(lines) + "\n"
