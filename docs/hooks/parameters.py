"""Gives each parameter of a docstring its own entry on the site: "bins, bound : int, float" becomes two.

griffe would give all of them the default and the type of the first.
"""

import re
from typing import Any

import griffe

JOINT = re.compile(r"^(\w+(?:, \w+)+)(?: : (.+))?\n((?:    .*\n|\n)*)", re.M)


def _apart(match: re.Match[str]) -> str:
    names, types = match[1].split(", "), (match[2] or "").split(", ")
    if len(types) != len(names):
        types = [match[2] or ""] * len(names)
    return "".join(f"{name} : {kind}\n{match[3]}" if kind else f"{name}\n{match[3]}"
                   for name, kind in zip(names, types))


class OneByOne(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring and "\nParameters\n---" in obj.docstring.value:
            before, parameters = (obj.docstring.value + "\n").split("\nParameters\n---", 1)
            inside, *rest = re.split(r"(?=^\w+\n---)", parameters, maxsplit=1, flags=re.M)
            obj.docstring.value = before + "\nParameters\n---" + JOINT.sub(_apart, inside) + "".join(rest)
