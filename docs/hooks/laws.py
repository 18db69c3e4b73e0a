"""The pages of the coupling laws, docs/math/laws/*.md: a list in place of `<!-- laws -->`, and in the navigation."""

from pathlib import Path
from typing import Any

FOLDER = "math/laws"


def _pages() -> dict[str, str]:
    """Title -> path from docs/, by file name."""
    docs = Path(__file__).parent.parent
    return {page.read_text().splitlines()[0].removeprefix("# "): str(page.relative_to(docs))
            for page in sorted((docs / FOLDER).glob("*.md"))}


def on_config(config: Any) -> Any:
    _fill(config["nav"])
    return config


def _fill(items: list[Any]) -> None:
    for item in items:
        for title, at in item.items() if isinstance(item, dict) else ():
            if at == FOLDER:
                item[title] = [{page: path} for page, path in _pages().items()]
            elif isinstance(at, list):
                _fill(at)


def on_page_markdown(markdown: str, **_: Any) -> str:
    links = "\n".join(f"- [{title}](laws/{Path(path).name})" for title, path in _pages().items())
    return markdown.replace("<!-- laws -->", links)
