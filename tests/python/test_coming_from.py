"""The ten tasks of docs/coming_from.md run, and evenflow's code is no longer than a peer's unless the page says so."""

import ast
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
LONGER = {"Inside torch", "Inside JAX"}
"""Tasks of which the page says that a peer, written in torch or JAX, is shorter."""


def lines(code):
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in code.splitlines())


def concepts(code):
    """What is imported, and the functions, classes and methods that are called."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func))
    return len(found)


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


def test_ten_tasks_none_of_them_longer_than_elsewhere():
    tasks = {task: dict(found) for task, found in TASKS.items() if "evenflow" in dict(found)}
    assert len(tasks) == 10
    for task, blocks in tasks.items():
        ours, peers = blocks["evenflow"], [code for library, code in blocks.items() if library in PEERS]
        longer = any(count(ours) > min(map(count, peers)) for count in (lines, concepts))
        assert longer == (task in LONGER), task
