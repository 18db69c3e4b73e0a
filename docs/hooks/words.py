"""Marks short code in a text, such as an option's name, which no line should break: docs/stylesheets/extra.css."""

import re
from typing import Any

WORD = re.compile(r"<code>(?=[^<\s]{1,30}</code>)")


def on_page_content(content: str, **_: Any) -> str:
    return WORD.sub('<code class="word">', content)
