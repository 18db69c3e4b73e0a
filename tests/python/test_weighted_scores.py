"""Scores and p-values of weighted rows."""

import json

import numpy as np
import pytest

import evenflow as ef
from evenflow._border.batch import Batch
from evenflow.cli import main
from evenflow.score import p_values, score_rows
from evenflow._border.files import blocks
from evenflow.runs.stream import read_rows


def test_p_values_one_by_one():
    """(1 + sum of w over reference rows at most as likely) / (1 + sum of w), the largest w being 1."""
    rng = np.random.default_rng(0)
    reference, w, scores = rng.integers(0, 40, 200), rng.uniform(0, 3, 200), rng.integers(-2, 42, 300)
    conformal, typicality = p_values(scores, reference, w)
    share = w / w.max()
    below, above = ((1 + np.array([share[side(reference, s)].sum() for s in scores])) / (1 + share.sum())
                    for side in (np.less_equal, np.greater_equal))
    np.testing.assert_allclose(conformal, below, rtol=1e-12)
    np.testing.assert_allclose(typicality, np.minimum(1, 2 * np.minimum(below, above)), rtol=1e-12)
    for equal in (np.full(200, 0.3), np.full(200, 1e308)):
        assert np.array_equal(p_values(scores, reference, equal), p_values(scores, reference))
    first = np.repeat([1.0, 0.0], [150, 50])
    np.testing.assert_allclose(p_values(scores, reference, first), p_values(scores, reference[:150]))


def test_p_values_hold_for_rows_in_proportion_to_weights():
    rng, found, plain = np.random.default_rng(0), [], []
    for _ in range(300):
        x, new = rng.uniform(0, 1, 100), 1 - np.sqrt(rng.uniform(0, 1, 400))  # densities 1 and 2 (1 - x)
        found.append(np.mean(np.array(p_values(new, x, 1 - x)) <= 0.1, axis=1))
        plain.append(np.mean(np.array(p_values(new, x)) <= 0.1, axis=1))
    assert (0.06 < np.mean(found, axis=0)).all() and (np.mean(found, axis=0) <= 0.1).all()
    assert np.mean(plain, axis=0)[0] > 0.15


def test_scores_in_pieces(table_model, table, tmp_path):
    """Their mean is that of the rows' weights, of any size, whatever the pieces."""
    w = np.random.default_rng(0).uniform(0, 1, len(table))
    wanted = np.average(table_model.log_prob(table), weights=w)
    pieces = [Batch(table, weight=w)[rows] for rows in (slice(7), slice(7, None))]
    found = score_rows(table_model, pieces, tmp_path / "s.npy")
    assert found["mean"] == pytest.approx(wanted, rel=1e-10) and found["weighted"]
    assert not score_rows(table_model, table, tmp_path / "s.npy")["weighted"]
    (tmp_path / "s.npy").unlink()
    bad = w.copy()
    bad[9] = -1
    for second in (None, bad[7:]):
        with pytest.raises(ef.ConfigError):
            score_rows(table_model, [pieces[0], Batch(table[7:], weight=second)], tmp_path / "s.npy")
    with pytest.raises(ef.ConfigError):
        score_rows(table_model, [Batch(table, weight=0 * w)], tmp_path / "s.npy")
    assert not list(tmp_path.iterdir())


def test_rows_of_a_weighted_run_are_calibrated(tmp_path, capsys):
    """`score --reference`, of the run's own test part and of a table: new rows are drawn from the weighted law."""
    rng = np.random.default_rng(0)
    x, new, other = (rng.standard_normal((n, 2)) for n in (4000, 4000, 1000))
    new[:, 0] += 0.7
    for name, rows, header in (("x.csv", x, "a,b,w"), ("other.csv", other, "a,b,w"), ("new.csv", new, "a,b")):
        columns = [rows, np.exp(0.7 * rows[:, 0])] if header == "a,b,w" else [rows]
        np.savetxt(tmp_path / name, np.column_stack(columns), delimiter=",", header=header, comments="")
    run, out = tmp_path / "run", tmp_path / "s.csv"
    assert main(["train", str(tmp_path / "x.csv"), "--weight", "w", "--hidden", "8", "--couplings", "2", "--epochs",
                 "10", "--quiet", "--out", str(run)]) == 0
    flow, test = ef.load(run / "model.safetensors"), ef.data.load(tmp_path / "x.csv", weight="w").split(0.1, 0)
    table = ef.data.load(tmp_path / "other.csv", weight="w")
    for reference, rows, w in (([], test.test, test.test_weight), ([tmp_path / "other.csv"], table.train,
                                                                   table.train_weight)):
        capsys.readouterr()
        assert main(["score", str(run), str(tmp_path / "new.csv"), "--reference", *map(str, reference), "--json",
                     "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out)["reference"] == len(rows)
        found = np.loadtxt(out, delimiter=",", skiprows=1)[:, 1]
        np.testing.assert_allclose(found, p_values(flow.log_prob(new), flow.log_prob(rows), w)[0], rtol=1e-12)
        assert 0.025 < (found <= 0.05).mean() < 0.06 and 0.42 < (found <= 0.5).mean() < 0.55


def test_weights_go_with_their_rows(tmp_path, table, monkeypatch):
    monkeypatch.setattr("evenflow._border.files.ARRAY_VALUES", 100)
    np.savez(tmp_path / "t.npz", x=table, weight=np.arange(len(table)))
    pieces = list(blocks("score", read_rows(tmp_path / "t.npz")))
    assert len(pieces) > 2 and all(len(piece.x) == len(piece.weight) for piece in pieces)
    assert np.array_equal(np.concatenate([piece.weight for piece in pieces]), np.arange(len(table)))
