"""What griffe does not read in a docstring.

"bins, bound : int, float" becomes two entries, which would else have the type and the default of the first. See Also
becomes a line of links before the parameters. "array_like, (N, D)" is no pair, nor are errors. A field's default is
what `_setting` or `said` is given first.
"""

import re
from typing import Any

import griffe

JOINT = re.compile(r"^(\w+(?:, \w+)+)(?: : (.+))?\n((?:    .*\n|\n)*)", re.M)
SEE = re.compile(r"^See Also\n-+\n((?:.+\n)+)\n*", re.M)
SHAPE = re.compile(r"^((?:\w+(?:, \w+)* : )?(?:array_like|ndarray)), (?=\()", re.M)
ERRORS = re.compile(r"^(\w+Error(?:, \w+Error)*), (\w+Error)$", re.M)
PARAMETERS = re.compile(r"^Parameters\n-+\n", re.M)


def _apart(match: re.Match[str]) -> str:
    names, types = match[1].split(", "), (match[2] or "").split(", ")
    if len(types) != len(names):
        types = [match[2] or ""] * len(names)
    return "".join(f"{name} : {kind}\n{match[3]}" if kind else f"{name}\n{match[3]}"
                   for name, kind in zip(names, types))


def _link(obj: griffe.Object, name: str) -> str:
    """A link to what a docstring names, where a page shows it."""
    first, _, rest = name.partition(".")
    scope = next((one for one in (obj, obj.parent, obj.module, obj.package) if one and first in one.all_members), None)
    place = f"{scope.all_members[first].canonical_path}.{rest}".rstrip(".") if scope else name
    return f'<autoref optional identifier="{place}"><code>{name}</code></autoref>'


def _read(obj: griffe.Object, text: str) -> str:
    see = SEE.search(text)
    text = ERRORS.sub(r"\1 or \2", SHAPE.sub(r"\1 of shape ", SEE.sub("", text)))
    if begin := PARAMETERS.search(text):
        before, (inside, *rest) = text[:begin.end()], re.split(r"(?=^[A-Z]\w+\n---)", text[begin.end():], maxsplit=1,
                                                               flags=re.M)
        text = before + JOINT.sub(_apart, inside) + "".join(rest)
    if see:
        names = [_link(obj, name) for line in see[1].splitlines() for name in line.partition(" : ")[0].split(", ")]
        first = re.search(r"^[A-Z]\w+\n---", text, re.M)
        place = first.start() if first else len(text)
        text = f"{text[:place]}See also {', '.join(names)}.\n\n{text[place:]}"
    return text


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _read(obj, obj.docstring.value + "\n")

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) in ("_setting", "said"):
            attr.value = attr.value.arguments[0]
