"""Config files of `evenflow train`: TOML, with the names of the options as keys."""

from __future__ import annotations

import difflib
import json
import sys
from typing import Any

from evenflow.arrays import LARGEST
from evenflow.cli.options import GROUPS, KEYS, PLACE, Option, named_bounds
from evenflow.errors import ConfigError, IoError
from evenflow.extras import need

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read(path: str) -> dict[str, Any]:
    """The settings in a file.

    IoError; ConfigError for an unknown key, with the nearest known one, or a value of the wrong kind.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = need("config", "tomli", "tomli or Python 3.11", "toml")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise IoError(f"[config] expected to read {path}, got: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"[config] {path}: expected TOML, got: {error}") from None
    return {name: _checked(path, name, value) for name, value in table.items()}


def _checked(path: str, name: str, value: Any) -> Any:
    if name not in KEYS:
        near = difflib.get_close_matches(name.replace("-", "_"), KEYS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"[config] {path}: expected the name of an option, got {name}; nearest: {near}")
    option = KEYS[name]
    if option.parts:
        return named_bounds(f"[config] {path}:", value)
    if not option.many:
        return _of_kind(path, option, value)
    return [_of_kind(path, option, one) for one in (value if isinstance(value, list) else [value])]


def _of_kind(path: str, option: Option, value: Any) -> Any:
    if isinstance(value, int) and abs(value) > LARGEST:  # Python's TOML knows no limit, nor how to print such a one
        raise ConfigError(f"[config] {path}: expected a number of 64 bits for {option.name}, got a longer one")
    kinds = (int, float) if option.kind is float else option.kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and option.kind is not bool):
        raise ConfigError(f"[config] {path}: expected {KINDS[option.kind]} for {option.name}, got {value!r}")
    if option.choices is not None and value not in option.choices:
        known = ", ".join(option.choices)
        raise ConfigError(f"[config] {path}: expected {option.name} to be one of {known}, got {value!r}")
    return option.kind(value)


def text(values: dict[str, Any], comments: list[str]) -> str:
    """A file that `read` takes back; a setting of None is left out."""
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    for title, options in {"place": PLACE, **GROUPS}.items():
        rows = [f"{o.name} = {_literal(values[o.name])}" for o in options if values.get(o.name) is not None]
        if rows:
            lines += ["", *([] if title == "place" else [f"# {title}"]), *rows]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    # JSON's texts, numbers and truth values are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
