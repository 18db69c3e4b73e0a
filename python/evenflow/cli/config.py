"""Config files of `evenflow train`: TOML, with the names of the options as keys."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from evenflow.cli.common import hint
from evenflow.cli.options import GROUPS, KEYS, PLACE, add_options, given
from evenflow.errors import ConfigError, IoError
from evenflow._border.extras import need


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
    parser, words = _Parser(path), list(_words(path, table))
    add_options(parser, KEYS.values())
    try:
        return given(parser.parse_args(words))
    except ConfigError as error:
        raise ConfigError(f"[config] {path}: {str(error).removeprefix('[train] --')}") from None


class _Parser(argparse.ArgumentParser):
    def __init__(self, path: str):
        super().__init__(add_help=False, allow_abbrev=False)
        self.path = path

    def error(self, message: str) -> NoReturn:
        raise ConfigError(re.sub(r"^argument --([\w-]+)", lambda found: found[1].replace("-", "_"), message))


def _words(path: str, table: dict[str, Any]) -> Iterator[str]:
    """The settings as words of a command line."""
    for name, value in table.items():
        option = KEYS.get(name.replace("-", "_"))
        if option is None:
            raise ConfigError(f"[config] {path}: there is no option {name}{hint(name, KEYS)}")
        if option.kind is bool and isinstance(value, bool):
            yield option.flag if value else option.flag.replace("--", "--no-", 1)
        elif option.kind is bool:
            raise ConfigError(f"[config] {path}: {name} is true or false, not {value!r}")
        elif option.many or option.parts:
            for row in value if option.parts and isinstance(value, list) else [value]:
                yield from (option.flag, *map(_word, row if isinstance(row, list) else [row]))
        else:
            yield f"{option.flag}={_word(value)}"


def _word(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, default=str)
    except ValueError:  # of a whole number with thousands of digits
        return "a number that is too long"


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
