"""Errors of data that commands read piece by piece: rows go by their number in the file."""

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main


@pytest.fixture
def pieces(monkeypatch):
    """Files are read, and samples drawn, in pieces of a few rows."""
    for name in ("evenflow._border.files.ARRAY_VALUES", "evenflow.score.SCORED_VALUES", "evenflow.density.BLOCK_VALUES"):
        monkeypatch.setattr(name, 64)


@pytest.fixture
def given_numbers(tmp_path):
    """A model with a context in a file, 300 rows, and their context, with a number beyond float32 in row 277."""
    rng = np.random.default_rng(0)
    x, context = rng.standard_normal((300, 2)), rng.standard_normal((300, 3))
    flow = ef.CouplingFlow(2, couplings=2, hidden=(4,), context=3)
    flow.init(x, context=context)
    flow.save(tmp_path / "model")
    context[277, 1] = 1e300
    return str(tmp_path / "model"), x, context


@pytest.mark.parametrize("command", ["score", "encode", "eval", "decode", "sample"])
def test_a_number_of_the_context(tmp_path, given_numbers, pieces, capsys, command):
    model, x, context = given_numbers
    data, out = str(tmp_path / "data.npz"), ["--out", str(tmp_path / "out.npy")]
    np.savez(data, **{"z" if command == "decode" else "x": x}, context=context)
    if command == "sample":
        np.savetxt(tmp_path / "c.csv", context, delimiter=",", header="a,b,c", comments="")
        arguments = ["sample", model, "--given", str(tmp_path / "c.csv"), "--n", "2", *out]
    else:
        arguments = [command, model, data, *([] if command == "eval" else out)]
    assert main(arguments) == 1
    where = {"score": "log_prob", "eval": "log_prob"}.get(command, command)
    assert f"[{where}] expected values that float32 can hold for context, got 1e+300 in row 277, column 1" in \
        capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "encode", "eval", "decode"])
def test_a_label(tmp_path, pieces, pictures, capsys, command):
    flow = ef.Glow((4, 4, 3), levels=1, steps=1, hidden=4, classes=3)
    x, labels = pictures[:, :4, :4], np.arange(40) % 3
    flow.init(x)
    flow.save(tmp_path / "model")
    labels[[33, 38]] = 3
    if command == "decode":
        np.savez(tmp_path / "data.npz", z=np.zeros((40, 48)), labels=labels)
    else:
        np.savez(tmp_path / "data.npz", x=x, labels=labels)
    out = [] if command == "eval" else ["--out", str(tmp_path / "out.npy")]
    assert main([command, str(tmp_path / "model"), str(tmp_path / "data.npz"), *out]) == 2
    assert "label in 0 ... 2, got 3 in row 33" in capsys.readouterr().err
