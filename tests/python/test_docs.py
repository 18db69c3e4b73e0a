"""The Python code of the README and of every page of the documentation runs, as a reader would run it.

Blocks with a title are those of docs/coming_from.md, which test_coming_from.py runs.
"""

import importlib.util
import json
import pathlib
import re

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main, options
from plain import plain_table

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}

IMPORT = re.compile(r"^(?:from|import) (\w+)", re.M)

def data():
    digits = ef.data.load("digits")
    return {"ef": ef, "data": digits, "flow": ef.Glow((8, 8, 1), levels=1, steps=1, hidden=4, bits=4)}


def editing():
    """The run that the page begins with, for a moment only."""
    pytest.importorskip("PIL")
    assert main(["train", "digits", "--levels", "2", "--depth", "4", "--hidden", "16", "--epochs", "2",
                 "--quiet"]) == 0
    return {}


SETUP = {"docs/data.md": data, "docs/tutorials/editing.md": editing}


WARNED = ("docs/samplers.md", "docs/ten_minutes.md", "docs/tutorials/mixed_table.md")
"""The first runs other packages, whose warnings are not ours; the others show warnings of data."""


@pytest.mark.slow
@pytest.mark.parametrize("page", [
    pytest.param(page, marks=[pytest.mark.filterwarnings("ignore")] if page in WARNED else [])
    for page, text in PAGES.items() if BLOCK.search(text)])
def test_page_runs(page, tmp_path, monkeypatch):
    for package in IMPORT.findall("".join(BLOCK.findall(PAGES[page]))):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = SETUP.get(page, dict)()
    for match in BLOCK.finditer(PAGES[page]):
        code = match[1]
        # Lines are counted from the top of the page, so that an error names the page's line.
        above = PAGES[page].count("\n", 0, match.start(1))
        exec(compile("\n" * above + code, page, "exec"), names)


def test_pages_that_the_tests_speak_of_exist():
    for page in SETUP:
        assert BLOCK.search(PAGES[page])


def form(message):
    """A message without its numbers and names of layers."""
    return re.sub(r"layer [\w.]+|-?\binf\b|\bnan\b|\b[\d.]+(e[+-]\d+)?\b", "#", message)


def test_messages_that_the_troubleshooting_page_quotes():
    quoted = re.findall(r"^`NumericError: (.*)`$", PAGES["docs/troubleshooting.md"], re.M)
    x = np.random.default_rng(0).standard_normal((500, 2))
    flow, constant, missing = plain_table(2, couplings=4, hidden=(16,)), x.copy(), x.copy()
    constant[:, 1], missing[7, 0] = 1, np.nan
    late, large = x + [0, 1.7e9], x.copy()
    large[7, 0] = 1e50
    flow.init(x)
    said = set()
    for call in (lambda: flow.fit(missing), lambda: flow.log_prob(np.full((1, 2), 1e20)), lambda: flow.init(constant),
                 lambda: flow.init(late), lambda: flow.fit(large),
                 lambda: flow.fit(x, lr=1e3, optimizer="sgd", settings=ef.Settings(warmup=0, clip=0.0)),
                 lambda: flow.inverse(np.full((1, 2), 3e38))):
        with pytest.raises(ef.NumericError) as error:
            call()
        said.add(form(str(error.value)))
    assert {form(message) for message in quoted} == said


def test_page_of_training_names_all_options():
    for group in options.GROUPS.values():
        for key in (key for key, kind in group.items() if kind):
            assert re.search(rf"`--{key.replace('_', '-')}[ `]", PAGES["docs/training.md"]), key


@pytest.mark.parametrize("page", ["docs/tutorials/editing.md", "docs/ten_minutes.md"])
def test_notebooks_have_the_code_of_their_pages(page):
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs/hooks/notebooks.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    cells = json.loads(hook.notebook(PAGES[page]))["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code" and cell["source"][0] != "!"]
    assert code == [block.strip() for block in BLOCK.findall(PAGES[page])]
