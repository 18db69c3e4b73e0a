"""Commands on a table that is not the run's: which of its columns they take."""

import json

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main

X = np.random.default_rng(0).standard_normal((60, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """On X with columns a, b, and without other options for columns."""
    folder = tmp_path_factory.mktemp("tables")
    np.savetxt(folder / "x.csv", X, delimiter=",", header="a,b", comments="")
    assert main(["train", str(folder / "x.csv"), "--hidden", "4", "--couplings", "2", "--steps", "2", "--quiet",
                 "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_columns_are_those_of_the_data_to_score(run, tmp_path):
    """Not of the reference, where that is the run's own data."""
    other, out = str(tmp_path / "other.csv"), tmp_path / "s.csv"
    np.savetxt(other, X, delimiter=",", header="p,q", comments="")
    assert main(["score", str(run), other, "--columns", "p", "q", "--reference", "--out", str(out)]) == 0
    scores = ef.data.load(out)
    assert scores.columns == ["log_prob", "conformal_p", "typicality_p"]
    np.testing.assert_allclose(scores.train[:, 0], ef.load(run / "model.safetensors").log_prob(X), rtol=1e-6)


def test_eval_takes_the_columns_of_the_run(run, tmp_path, capsys):
    """Of another table too, where a column of classes is named."""
    rows = [f"k,{b},9,{a}" for a, b in X[:20].tolist()]
    (tmp_path / "other.csv").write_text("\n".join(["kind,b,more,a", *rows]))
    capsys.readouterr()
    assert main(["eval", str(run), str(tmp_path / "other.csv"), "--label", "kind", "--json"]) == 0
    wanted = -ef.load(run / "model.safetensors").log_prob(X[:20]).mean()
    assert json.loads(capsys.readouterr().out)["nll_nats"] == pytest.approx(wanted, rel=1e-6)
