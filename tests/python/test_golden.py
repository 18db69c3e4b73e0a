"""Model files of every format load for ever, and give what they gave."""

import pathlib

import numpy as np
import pytest

import evenflow as ef
from evenflow import _core

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
MODELS = sorted(p for p in FOLDER.glob("*.safetensors") if not p.name.endswith(".expected.safetensors"))


def bound(path):
    """Relative to the largest value: roundings of an instruction set's sums, tests/cpp/test_golden.cpp."""
    return 1e-12 if "f64" in path.name else 5e-3 if "bf16" in path.name else 3e-6


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_golden(path):
    flow = ef.load(path)
    expected, metadata = _core.read_safetensors(str(path.with_suffix(".expected.safetensors")))
    given = {name: expected.get(name) for name in ("label", "context")}
    for got, wanted in ((flow.log_prob(expected["x"], **given), expected["log_prob"]),
                        (flow.sample(len(expected["x"]), seed=int(metadata["seed"]), **given), expected["sample"])):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        assert np.abs(got - wanted).max() <= bound(path) * max(1, np.abs(wanted).max())


def test_there_is_a_file_of_every_kind():
    assert len(MODELS) >= 19
