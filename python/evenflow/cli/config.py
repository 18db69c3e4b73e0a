"""Config files of `evenflow train`: TOML, with the names of the options as keys."""

from __future__ import annotations

import json
import sys
from typing import Any

from evenflow._border.extras import need
from evenflow.cli.common import hint
from evenflow.cli.options import GROUPS, KEYS, PLACE, given
from evenflow.errors import ConfigError, IoError


def read(path: str) -> dict[str, Any]:
    """The settings in a file, checked as those of the command line are. IoError, ConfigError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = need("config", "tomli", "tomli or Python 3.11", "toml")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise IoError(f"[config] {path} can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"[config] {path} is no TOML file: {error}") from None
    values = {}
    try:
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in KEYS:
                raise ConfigError(f"[config] there is no option {key}{hint(key, KEYS)}")
            values[name] = KEYS[name].checked(value)
        return given(values)
    except ConfigError as error:
        raise ConfigError(f"[config] {path}: {str(error).partition('] ')[2]}") from None


def text(values: dict[str, Any], comments: list[str]) -> str:
    """A file that `read` takes back; a setting of None is left out."""
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    for title, options in {"place": PLACE, **GROUPS}.items():
        rows = [f"{o.name} = {_literal(values[o.name])}" for o in options if values.get(o.name) is not None]
        if rows:
            lines += ["", *([] if title == "place" else [f"# {title}"]), *rows]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    # JSON's texts, numbers, lists and truth values are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
