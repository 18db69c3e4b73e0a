"""The options of `evenflow train`, which are also the keys of its config files: --batch-size is batch_size there.

Names, kinds, choices, defaults and lines of help come from where the settings are declared.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from evenflow.data.augment import Augment
from evenflow.errors import ConfigError, wrong
from evenflow.models import DECLARED, MODELS, Setting
from evenflow.optim import OPTIMIZERS
from evenflow.runs import Source
from evenflow.runs.logs import Outputs
from evenflow.training.presets import MODELS as USUAL
from evenflow.training.presets import PRESETS, TRAINING
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

    def declare(self, parser: Any) -> None:
        """To argparse; an option that is not given stays None."""
        kinds: dict[str, Any] = {"type": self.kind, "nargs": "+" if self.many else None, "choices": self.choices}
        if self.parts:
            kinds = {"nargs": len(self.parts), "action": "append", "metavar": self.parts}
        elif self.kind is bool:
            kinds = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(self.flag, help=self.text, **kinds)

    def checked(self, value: Any) -> Any:
        """A value of a config file as the command line would have it. ConfigError."""
        rows = value if isinstance(value, list) and (self.many or self.parts) else [value]
        if self.parts:
            return [[str(one) for one in row] for row in (rows if rows and isinstance(rows[0], list) else [rows])]
        for one in rows:
            fits = isinstance(one, {float: (int, float), str: (str, int, float)}.get(self.kind, self.kind))
            if not fits or isinstance(one, bool) != (self.kind is bool) or self.choices and one not in self.choices:
                wanted = f"one of {', '.join(self.choices)}" if self.choices else KINDS[self.kind]
                raise wrong(ConfigError, "config", self.name, f"expected {self.name} to be {wanted}, got {one!r}")
        found = [self.kind(one) for one in rows]
        return found if self.many else found[0]


KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
ELSEWHERE = ("shape", "classes", "context", "bounds", "seed")
"""Settings of models that follow from the data, or are options of other groups."""


def _fields(owner: type, **usual: str) -> Iterator[Option]:
    """Options for the fields of a dataclass that have a line of help and are numbers, words or lists of words."""
    hints = typing.get_type_hints(owner)
    for f in dataclasses.fields(owner):
        kinds = [kind for hint in (hints[f.name], *typing.get_args(hints[f.name]))
                 for kind in (bool, int, float, str) if hint in (kind, list[kind])]  # type: ignore[valid-type]
        if "help" in f.metadata and kinds and f.name not in ("seed", "optimizer_options"):
            choices = ", ".join(one for one in f.metadata.get("choices", ()) if one != "auto")
            default = usual.get(f.name, "" if f.default in (None, False, "auto") else f"{f.default}")
            text = ": ".join(filter(None, (f.metadata["help"], choices))) + (f" ({default})" if default else "")
            yield Option(f.name, text, kinds[0], many="list" in str(hints[f.name]))


def _by_owner(values: dict[str, Any], count: int = 0) -> str:
    """What is the default of whom: "3" where all `count` have that one, or "glow 3, realnvp 2"."""
    shown = {owner: " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
             for owner, value in values.items()}
    same = len(set(shown.values())) == 1 and len(shown) >= count
    return next(iter(shown.values())) if same else ", ".join(map(" ".join, shown.items()))


def _model_options() -> Iterator[Option]:
    """An option for all settings of a name, which may differ between models, and between images and tables."""
    kinds = {"int": int, "ints": int, "float": float, "bool": bool}
    named: dict[str, list[Setting]] = {}
    for settings in DECLARED.values():
        for setting in settings:
            named.setdefault(setting.name, []).append(setting)
    for name, found in named.items():
        texts: dict[str, list[str]] = {}
        for setting in found:
            text = setting.help + (f": {', '.join(setting.choices)}" if setting.choices else "")
            texts.setdefault(text, []).append(setting.model.lower())
        default = _by_owner({s.model.lower(): USUAL.get((s.model.lower(), s.kind), {}).get(name, s.default)
                             for s in found})
        all_have = len(found) == len(DECLARED)
        text = "; ".join(("" if all_have else f"{', '.join(dict.fromkeys(of))}: ") + text for text, of in texts.items())
        if name not in ELSEWHERE:
            yield Option("depth" if name == "steps" else name, f"{text} ({default})", kinds.get(found[0].type, str),
                         many=any(setting.type == "ints" for setting in found))


def _optimizer_options() -> Iterator[Option]:
    """Further arguments of the optimisers, and which of them have them."""
    owners: dict[str, list[str]] = {}
    for optimizer, make in OPTIMIZERS.items():
        for name in list(inspect.signature(make).parameters)[1:]:
            owners.setdefault(name, []).append(optimizer)
    return (Option(name, ", ".join(of), float) for name, of in owners.items() if name != "lr")


MODEL = tuple(_model_options())
"""Arguments of a model; depth is Glow's `steps`, since steps is the training's."""
TRAINED = tuple(_fields(Settings, **{
    name: _by_owner({f"{kind}s": usual[name] for kind, usual in TRAINING.items() if name in usual}, len(TRAINING))
    for name in {name: None for usual in TRAINING.values() for name in usual}}))
OPTIMIZER, AUGMENT, OUTPUT = tuple(_optimizer_options()), tuple(_fields(Augment)), tuple(_fields(Outputs))
SOURCE = tuple(_fields(Source))
GROUPS: dict[str, tuple[Option, ...]] = {
    "data": (*SOURCE, Option(
        "bounds", "tables: what the values of a column lie strictly between, none for an open end; given again for "
        "another column", parts=("NAME", "LOW", "HIGH")), *AUGMENT),
    "model": (Option("preset", "a paper's settings: " + ", ".join(PRESETS)),
              Option("model", "default: glow for images, couplingflow for tables",
                     choices=tuple(map(str.lower, MODELS))),
              Option("conditional", "glow: density given the label", bool), *MODEL),
    "training": (Option("epochs", "passes over the data, in total", int), Option("steps", "updates, in total", int),
                 Option("seed", "of the split, the model, the order and the noise (0)", int), *TRAINED, *OPTIMIZER),
    "output": OUTPUT}
PLACE = (Option("data", "DATA"), Option("device", "where to compute: cpu or cuda"),
         Option("threads", "0: all cores", int),
         Option("matmul_precision", "float32 nets on a GPU: high multiplies as TF32",
                choices=("highest", "high")))
"""Keys of a config file that every command has as options, or in another way."""
KEYS = {option.name: option for options in (PLACE, *GROUPS.values()) for option in options}


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What was said, by key; [name, low, high] of columns with an end, in the order of names."""
    values = {name: value for name in KEYS if (value := values.get(name)) is not None}
    if "bounds" in values:
        ends: dict[str, list[Any]] = {}
        for name, *pair in values["bounds"]:
            if name in ends:
                raise wrong(ConfigError, "train", "bounds", f"bounds {name} was given twice")
            ends[name] = [_end(name, end) for end in pair]
        values["bounds"] = [[name, *pair] for name, pair in sorted(ends.items()) if pair != ["none", "none"]]
    return values


def _end(name: str, value: str) -> Any:
    try:
        return value if value == "none" else float(value)
    except ValueError:
        raise wrong(ConfigError, "train", "bounds",
                    f"bounds {name}: an end is a number or none, not {value!r}") from None


def pick(values: dict[str, Any], options: Iterable[Option]) -> dict[str, Any]:
    """Those of the values that are of some options."""
    return {option.name: values[option.name] for option in options if option.name in values}
