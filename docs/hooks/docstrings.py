"""Docstrings are plain text: keeps their lists of arguments, tables and formulas apart in the API reference."""

import re

import griffe

ARGUMENT = re.compile(r"^`?[a-z_]\w*`?(, `?\w+`?)*: ", re.M)
TABLE = re.compile(r"^\S.*\S {3,}\S", re.M)


class PlainText(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring:
            blocks = re.split(r"\n\s*\n", obj.docstring.value)
            obj.docstring.value = "\n\n".join(map(_markdown, blocks))


def _markdown(block):
    if TABLE.search(block):
        return f"```text\n{block}\n```"
    if block.startswith("    "):
        return block
    text = re.sub(r"(?<!`)(__\w+__|\*\S+)(?!`)", r"`\1`", block)
    return ARGUMENT.sub(lambda match: "\n\n" + match[0], text)
