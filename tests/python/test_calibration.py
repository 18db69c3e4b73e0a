"""Calibration of densities: ranks, regions, and the verdict on a density that is known."""

import json

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow.cli import main
from plain import plain_table


@pytest.fixture(scope="module")
def normal():
    """A flow that is the standard normal distribution whatever the context: couplings start as the identity."""
    flow = plain_table(2, context=1, couplings=2, hidden=(8,), preprocess="none")
    rng = np.random.default_rng(0)
    flow.init(rng.standard_normal((50, 2)), context=rng.standard_normal((50, 1)))
    return flow


def rows(seed, n=600):
    return np.random.default_rng(seed).standard_normal((n, 2)), np.zeros((n, 1))


def test_ranks_and_regions_are_those_of_the_draws(normal, monkeypatch):
    x, context = rows(1, 60)
    found = ef.calibration(normal, x, context, draws=40, seed=3)
    draws = normal.sample(40, context=context, per_context=True, seed=3)
    assert np.array_equal(found.ranks, (draws < x[:, None].astype(np.float32)).sum(1))
    likelier = np.square(draws).sum(2) < np.square(x).sum(1)[:, None]
    assert np.array_equal(found.coverage, likelier.mean(1))
    near, far = (np.square((points - found.references[:, None]) / x.std(0)).sum(2) for points in (draws, x[:, None]))
    assert np.array_equal(found.tarp, (near < far).mean(1))
    assert sorted(found.references.tolist()) == sorted(x.astype(np.float32).tolist())
    assert (found.references != x.astype(np.float32)).any(1).all()
    monkeypatch.setattr("evenflow.calibrate.BLOCK_VALUES", 500)
    again = ef.calibration(normal, x, context, draws=40, seed=3)
    assert np.array_equal(again.ranks, found.ranks) and np.array_equal(again.tarp, found.tarp)


def test_equal_values_are_ranked_by_chance(normal):
    point = np.repeat(normal.sample(1, context=[0.0], seed=0), 2000, 0)
    found = ef.calibration(normal, point, np.zeros((2000, 1)), draws=1, seed=0)
    assert set(np.unique(found.ranks)) == {0, 1}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change, said", [
    (lambda x: x, None), (lambda x: 1.5 * x, "narrow"), (lambda x: 0.6 * x, "wide"), (lambda x: x + [0.5, 0], "small"),
    (lambda x: x - [0.5, 0], "large"), (lambda x: x @ [[1, 0.9], [0, 0.19**0.5]], "regions about points")])
def test_the_verdict(normal, seed, change, said):
    x, context = rows(seed)
    found = ef.calibration(normal, change(x), context, draws=200, seed=seed)
    assert found.ok == (said is None) and repr(found) == str(found)
    assert str(found).startswith("calibrated: 600 rows" if found.ok else "NOT CALIBRATED")
    assert found.ok or any(said in text for text in found.failures), found


def test_a_density_without_context_and_its_picture(tmp_path):
    pytest.importorskip("matplotlib")
    flow = plain_table(1, couplings=1, hidden=(4,), preprocess="none")
    x = np.random.default_rng(0).standard_normal((100, 1))
    flow.init(x)
    ef.calibration(flow, x, draws=20).plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_arguments(normal):
    x, context = rows(0, 60)
    with raises(ef.ShapeError, argument="x"):
        ef.calibration(normal, x[:49], context[:49])
    with raises(ef.ConfigError, argument="context"):
        ef.calibration(normal, x)
    with raises(ef.ConfigError, argument="draws"):
        ef.calibration(normal, x, context, draws=0)
    with raises(ef.NumericError, argument="x", row=3, column=1):
        ef.calibration(normal, np.where(np.arange(120).reshape(60, 2) == 7, np.nan, x), context)
    with raises(ef.ConfigError, argument="flow"):
        ef.calibration(ef.NICE((2, 2, 1), hidden=(2,)), x)


def test_the_command_line_tests_calibration(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    x, _ = rows(0, 3000)
    np.savetxt("x.csv", np.column_stack([x, 3 * x[:, :1] + np.random.default_rng(1).standard_normal((3000, 1))]),
               delimiter=",", header="a,b,given", comments="")
    assert main(["train", "x.csv", "--context", "given", "--epochs", "4", "--quiet", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["verify", "run", "--calibration", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and list(found["calibration"]["distances"]) == ["ranks of a", "ranks of b", "smallest regions",
                                                                      "regions about points"]
    np.savetxt("y.csv", np.column_stack([2 * x, x]), delimiter=",", header="a,b,given,d", comments="")
    assert main(["verify", "run", "y.csv", "--calibration", "calibration.png"]) == 1
    assert "NOT CALIBRATED" in capsys.readouterr().out and (tmp_path / "calibration.png").exists()
