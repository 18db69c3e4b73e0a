"""Code of the documentation that test_docs.py leaves out, since its blocks need names from before them."""

import pathlib
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import evenflow as ef  # noqa: E402
from evenflow.torch import FlowModule  # noqa: E402

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def block(page, first):
    """The fenced block without a language that begins with `first`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [code for language, code in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.S | re.M)
             if not language and code.startswith(first)]
    assert len(found) == 1, first
    return compile(found[0], f"{page}, {first}", "exec")


def run(page, blocks, **names):
    names = {"np": np, "torch": torch, "ef": ef, "FlowModule": FlowModule, **names}
    for first in blocks:
        exec(block(page, first), names)
    return names


def test_a_net_that_sums_up_the_context():
    torch.set_default_dtype(torch.float32)
    draws = torch.Generator().manual_seed(0)
    parameters, noise = torch.randn(200, 2, generator=draws), torch.randn(200, 2000, generator=draws)
    found = run("tutorials/conditional.md", ["summary = "], parameters=parameters, steps=3,
                observations=noise + parameters[:, :1])
    assert found["summary"][0].weight.grad.abs().sum() > 0
