"""Config files of `evenflow train`: TOML, with the names of the options as keys."""

from __future__ import annotations

import json
import sys
from typing import Any

from evenflow._border.extras import need
from evenflow._border.names import nearest
from evenflow.cli.options import GROUPS, KEYS, checked
from evenflow.errors import ConfigError, IoError


def read(path: str) -> dict[str, Any]:
    """The settings in a file. IoError, ConfigError."""
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
    for key in table:
        if key not in KEYS:
            near = nearest(key, KEYS)
            told = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"[config] {path}: there is no option {key}{told}")
    return checked(table)


def text(settings: dict[str, Any], comments: list[str]) -> str:
    """A file that `read` takes back."""
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    for title, group in GROUPS.items():
        # JSON's texts, numbers, lists and truth values are TOML's, but for one character.
        rows = [f"{key} = {json.dumps(settings[key], ensure_ascii=False)}".replace("\x7f", "\\u007f")
                for key in group if key in settings]
        lines += ["", f"# {title}", *rows] if rows else []
    return "\n".join(lines) + "\n"
