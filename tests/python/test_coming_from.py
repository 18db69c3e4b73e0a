"""The tasks of docs/coming_from.md run, in evenflow and in each library that is installed."""

import importlib
import pathlib
import re

import pytest

TEXT = (pathlib.Path(__file__).parents[2] / "docs/coming_from.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```python title="(\w+)"\n(.*?)^```', re.S | re.M)
TASKS = {part.partition("\n")[0]: BLOCK.findall(part)
         for part in re.split(r"^### ", TEXT.partition("\n## Calls\n")[0], flags=re.M)}
"""Title of a task -> (library, code) of its blocks; those before the first task are data."""
PEERS = ["flowjax", "zuko", "nflows", "normflows"]


def run(library, task, code, names):
    """Runs a block, with its lines counted from the top of the page."""
    above = TEXT.count("\n", 0, TEXT.index(code))
    exec(compile("\n" * above + code, f"coming_from.md, {library}, {task}", "exec"), names)


def can_run(code):
    """Whether torch and jax are there, if the code imports them; a module of evenflow's must be."""
    for module in re.findall(r"^import (torch|jax)$", code, re.M):
        try:
            importlib.import_module(module)
        except ImportError:
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("library", ["evenflow", *PEERS])
@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")  # of normflows
def test_blocks_run(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(library)
    names, left = {}, []
    for task, blocks in TASKS.items():
        for owner, code in blocks:
            if owner in ("data", library):
                if can_run(code):
                    run(owner, task, code, names)
                else:
                    left.append(task)
    if left:
        pytest.skip(f"needs torch or jax: {', '.join(left)}")
