"""The package as a whole: its imports, and what `help` shows of its public names."""

import ast
import importlib
import inspect
import pathlib

import numpy as np
import pytest

import evenflow as ef

ROOT = pathlib.Path(ef.__file__).parent
MODULES = {".".join(("evenflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
           for path in ROOT.rglob("*.py")}


def imported(module, path):
    """Modules of the package that a module imports, at once or when it is called; not for annotations alone."""
    tree = ast.parse(path.read_text())
    annotations = {node for block in ast.walk(tree)
                   if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
                   for node in ast.walk(block)}
    for node in ast.walk(tree):
        if node in annotations:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("evenflow"):
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in MODULES or full == "evenflow._core" else node.module


def test_no_module_imports_itself_in_a_circle():
    graph = {module: {name for name in imported(module, path) if name in MODULES and name != module}
             for module, path in MODULES.items()}
    while graph:
        leaves = [module for module, needs in graph.items() if not needs & graph.keys()]
        assert leaves, f"a circle among {sorted(graph)}"
        for module in leaves:
            del graph[module]


PUBLIC = [ef.Flow, ef.CouplingFlow, ef.Glow, ef.RealNVP, ef.NICE, ef.Adam, ef.AdamW, ef.Adamax, ef.SGD, ef.RMSProp,
          ef.MovingAverage, ef.Schedule, ef.load, ef.to_uint8, ef.clip_grad_norm,
          ef.set_matmul_precision]
TOOLS = {"latent": ("reconstruct", "interpolate", "manifold", "attribute", "edit", "project", "enlarged"),
         "inpaint": ("inpaint", "hidden_pixels"), "score": ("p_values", "score_rows"), "plot": ("grid", "save_grid")}


def described():
    """(name, callable or property) of everything public."""
    for thing in PUBLIC:
        yield thing.__name__, thing
        if inspect.isclass(thing):
            for name, member in inspect.getmembers(thing):
                new = thing is ef.Flow or getattr(ef.Flow, name, None) is not member
                if new and not name.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{thing.__name__}.{name}", member
    for module, names in TOOLS.items():
        for name in names:
            yield f"{module}.{name}", getattr(importlib.import_module(f"evenflow.{module}"), name)


@pytest.mark.parametrize("name, thing", [pytest.param(*pair, id=pair[0]) for pair in described()])
def test_a_docstring_names_every_parameter(name, thing):
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    if isinstance(thing, property) or thing is ef.Flow:
        return
    words = set(text.replace(",", " ").replace("(", " ").replace("`", " ").replace(".", " ").split())
    inherited = {"as", "As", "those", "are"} & words  # "As in `log_prob`", "Parameters are those of `Adam`"
    missing = [p for p in inspect.signature(thing).parameters if p not in words and p not in ("self", "args", "kwargs")]
    assert not missing or inherited, f"{name} says nothing of {missing}"


def test_dir_shows_public_names_alone():
    assert set(dir(ef)) == set(ef.__all__)
    assert np.__name__ not in dir(ef)
