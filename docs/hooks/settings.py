"""Tables of the models' settings, from their declaration in the core, in place of `<!-- settings of MODEL -->`."""

import re
import textwrap

from evenflow.models import DECLARED, Setting

PLACE = re.compile(r"<!-- settings of (\w+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    return PLACE.sub(lambda place: _tables(place[1]), markdown)


def _tables(model: str) -> str:
    return "\n\n".join(
        f'??? note "Settings for {kind}s, with their ranges"\n\n' + textwrap.indent(
            "| setting | default | values | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(map(_row, settings)),
            "    ") for (owner, kind), settings in DECLARED.items() if owner == model)


def _row(s: Setting) -> str:
    default = "" if s.type == "shape" else f"`{tuple(s.default) if s.type == 'ints' else s.default!r}`"
    choices = ["True", "False"] if s.type == "bool" else map(repr, s.choices or ())
    values = ", ".join(f"`{choice}`" for choice in choices)
    if s.low is not None:
        values = f"{s.low} ... {s.high}" if s.high is not None else f"at least {s.low}"
    return f"| `{s.name}` | {default} | {values} | {s.help.replace('|', '&#124;')} |"
