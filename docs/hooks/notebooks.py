"""Makes a notebook of each page below, and links it from the page."""

import json
import re
from typing import Any

PAGES = re.compile(r"(ten_minutes|what_is_a_flow|tutorials/\w+)\.md")
BLOCK = re.compile(r"^```(?:python\n(.*?)|\n((?:evenflow [^\n]*\n)+))^```\n", re.S | re.M)
PICTURE, LINK = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n", re.M), re.compile(r"\[([^\]]*)\]\((?!http)[^)]*\)")


def notebook(text: str) -> str:
    """Its code in cells of their own, without links and pictures, which a notebook lacks."""
    cells = []
    for place, part in enumerate(BLOCK.split(text)):
        kind = ("markdown", "code", "code")[place % 3]
        if kind == "markdown":
            part = LINK.sub(r"\1", PICTURE.sub("", part))
        elif part and place % 3 == 2:
            part = "".join(f"!{line}\n" for line in part.splitlines())
        if part and part.strip():
            cells.append({"cell_type": kind, "id": f"cell{place}", "metadata": {}, "source": part.strip()}
                         | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel},
                       "cells": cells}, indent=1)


def on_files(files: Any, config: Any, **_: Any) -> None:
    from mkdocs.structure.files import File

    for page in [file for file in files.documentation_pages() if PAGES.fullmatch(file.src_uri)]:
        files.append(File.generated(config, _name(page.src_uri), content=notebook(page.content_string)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if not PAGES.fullmatch(page.file.src_uri):
        return markdown
    up = "../" * page.file.src_uri.count("/")
    return f"{markdown}\n\n[This page as a notebook]({up}{_name(page.file.src_uri)})\n"


def _name(page: str) -> str:
    return "notebooks/" + page.rpartition("/")[2].replace(".md", ".ipynb")
