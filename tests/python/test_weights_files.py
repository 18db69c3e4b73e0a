"""Weights of rows from files and on the command line."""

import json

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main
from evenflow.runs import evaluate
from plain import plain_table


def heaps(n=600):
    """(n, 2) in two heaps, and weights of 0.5 and 1.5."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    return rng.standard_normal((n, 2)) + 6.0 * side[:, None], 0.5 + side + 1e-3 * rng.uniform(size=n)


X, W = heaps()


def write_csv(path, header="a,b,w", weights=W):
    np.savetxt(path, np.column_stack([X, weights]), delimiter=",", header=header, comments="", fmt="%.17g")
    return str(path)


def answer(capsys, *args, code=0):
    """What a command prints: JSON, or the error."""
    capsys.readouterr()
    assert main([*map(str, args), *(["--json"] if code == 0 else [])]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


SMALL = ("--hidden", "16", "--couplings", "4", "--epochs", "4", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with weights between its columns, one without, and a run on the former."""
    folder = tmp_path_factory.mktemp("weights")
    np.savetxt(folder / "t.csv", np.column_stack([X[:, 0], W, X[:, 1]]), delimiter=",", header="a,w,b", comments="",
               fmt="%.17g")
    np.savetxt(folder / "plain.csv", X, delimiter=",", header="a,b", comments="", fmt="%.17g")
    assert main(["train", str(folder / "t.csv"), "--weight", "w", "--law", "affine", "--base", "gaussian", *SMALL,
                 "--out", str(folder / "run")]) == 0
    return folder


# Data

def test_readers_split_a_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = write_csv(tmp_path / "t.csv", "b,c,w")
    pandas.read_csv(path).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        data = ef.data.load(tmp_path / name, weight="w")
        assert data.columns == ["b", "c"] and np.array_equal(data.train, X) and np.array_equal(data.train_weight, W)
        given = ef.data.load(tmp_path / name, columns=["c"], context=["b"], weight="w")
        assert np.array_equal(given.train, X[:, 1:]) and np.array_equal(given.train_context, X[:, :1])
        assert np.array_equal(given.train_weight, W) and given.context == ["b"]
        parts = data.split(0.25, seed=3)
        for x, w in ((parts.train, parts.train_weight), (parts.test, parts.test_weight)):
            assert np.array_equal(w, W[[int(np.flatnonzero(X[:, 0] == value)[0]) for value in x[:, 0]]])
        assert "train_weight (600,)" in repr(data) and parts.without_test().test_weight is None
    assert "weight" not in repr(ef.data.load(path)) and ef.data.load(path).columns == ["b", "c", "w"]


def test_arrays_of_numpy_files(tmp_path):
    np.savez(tmp_path / "one.npz", x=X, weight=W)
    np.savez(tmp_path / "two.npz", train=X[:500], test=X[500:], train_weight=W[:500], test_weight=W[500:] > 1)
    assert np.array_equal(ef.data.load(tmp_path / "one.npz").train_weight, W)
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "two.npz")
    np.savez(tmp_path / "two.npz", train=X[:500], test=X[500:], train_weight=W[:500])
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "two.npz")
    images = np.zeros((5, 4, 4), np.uint8)
    np.savez(tmp_path / "two.npz", train=images, test=images[:2], weight=np.arange(5), test_weight=np.ones(2))
    two = ef.data.load(tmp_path / "two.npz", pad=6)
    assert two.train_weight.tolist() == [0, 1, 2, 3, 4] and two.test_weight.tolist() == [1, 1]
    (tmp_path / "many").mkdir()
    for i in (0, 1):
        np.savez(tmp_path / "many" / f"train{i}.npz", x=X[i::2], weight=W[i::2])
    assert np.array_equal(ef.data.load(tmp_path / "many").train_weight, np.concatenate([W[0::2], W[1::2]]))
    np.savez(tmp_path / "many" / "train1.npz", x=X)
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "many")


# The command line

def test_a_run_is_that_of_fit(folder, capsys):
    """Its held-out number is the weighted mean of the same model on the same rows, with the error of a ratio."""
    flow = ef.load(folder / "run" / "model.safetensors")
    whole = ef.data.load(folder / "t.csv", weight="w").split(0.1, 0)
    scores, w = flow.log_prob(whole.test), whole.test_weight
    mean = np.average(scores, weights=w)
    error = np.sqrt(60 / 59 * ((w * (scores - mean))**2).sum()) / w.sum()
    end = json.loads((folder / "run" / "log.jsonl").read_text().splitlines()[-1])
    for found in (end, answer(capsys, "eval", folder / "run")):
        assert found["log_likelihood"] == pytest.approx(mean, rel=1e-10) and found["n"] == 60
        assert found["log_likelihood_error"] == pytest.approx(error, rel=1e-10)
    assert abs(scores.mean() - mean) > 1e-3


def test_other_tables(folder, capsys, tmp_path):
    """Count by the run's column of weights where they have it, and a .npz file by its array; else alike."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.read_csv(folder / "t.csv").to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", x=X, weight=W)
    np.savez(tmp_path / "plain.npz", x=X)
    flow, run = ef.load(folder / "run" / "model.safetensors"), folder / "run"
    scores = flow.log_prob(X)
    for path, weights in ((folder / "t.csv", W), (tmp_path / "t.parquet", W), (tmp_path / "t.npz", W),
                          (folder / "plain.csv", None), (tmp_path / "plain.npz", None)):
        mean = np.average(scores, weights=weights)
        found = answer(capsys, "eval", run, path)
        assert found["log_likelihood"] == pytest.approx(mean, rel=1e-6) and found["weighted"] == (weights is not None)
        scored = answer(capsys, "score", run, path, "--out", tmp_path / "s.npy")
        assert scored["mean"] == pytest.approx(mean, rel=1e-6) and scored["weighted"] == (weights is not None)
        np.testing.assert_allclose(np.load(tmp_path / "s.npy"), scores)
        assert answer(capsys, "verify", run, path)["ok"]
        for command in (["eval"], ["score", "--out", str(tmp_path / "s.npy")]):
            assert main([command[0], str(run), str(path), *command[1:]]) == 0
            assert (" weighted rows" in capsys.readouterr().out) == (weights is not None)
    found = answer(capsys, "eval", run, folder / "t.csv")
    assert answer(capsys, "eval", run, folder / "t.csv", "--weight", "w") == found
    error = answer(capsys, "eval", run, tmp_path / "nowhere.csv", code=2)
    assert "nowhere.csv: this CSV file can't be read: [Errno 2]" in error
    error = answer(capsys, "eval", folder / "run", folder / "plain.csv", "--weight", "w", code=2)
    assert "no column 'w'; the columns are a, b" in error
    assert not answer(capsys, "eval", folder / "run", folder / "t.csv", "--columns", "a", "w")["weighted"]
    for data in ([], [tmp_path / "t.npz"]):
        error = answer(capsys, "eval", folder / "run", *data, "--weight", "w", code=2)
        assert ("CSV and Parquet files, not for" if data else "are chosen already") in error


def test_parts_that_count_for_nothing(folder, capsys, tmp_path):
    """In the file, or after it was split."""
    path = tmp_path / "t.npz"
    np.savez(path, train=X, test=X[:50], train_weight=W, test_weight=np.zeros(50))
    error = answer(capsys, "train", path, *SMALL, "--out", tmp_path / "run", code=2)
    assert f"[data] {path}: expected a weight > 0 in the test part, got 50 zeros" in error
    csv = write_csv(tmp_path / "t.csv", weights=0 * W)
    error = answer(capsys, "eval", folder / "run", csv, "--weight", "w", code=2)
    assert f"[data] {csv}: expected a weight > 0 in the training part, got 600 zeros" in error
    whole = ef.data.Dataset(X).split(0.1, 0)
    part = whole.split(0.1, 1)
    for name, some in (("training", part.train), ("validation", part.test), ("test", whole.test)):
        np.savez(path, x=X, weight=1.0 * ~np.isin(X[:, 0], some[:, 0]))
        error = answer(capsys, "train", path, *SMALL, "--out", tmp_path / "run", code=2)
        assert f"{path}: expected a weight > 0 in the {name} part, got {len(some)} zeros" in error
    assert not (tmp_path / "run").exists()


def test_the_error_of_a_weighted_mean():
    """Equal weights are none; a row that counts alone has no error, and one that counts for nothing is not there."""
    flow = plain_table(2, couplings=2, hidden=(8,), dtype="float64")
    flow.init(X)

    def found(x, w):
        result = evaluate(flow, ef.data.Dataset(x, train_weight=w))
        return result["log_likelihood"], result["log_likelihood_error"]

    assert found(X, None) == found(X, np.full(600, 0.3))
    assert found(X[:3], np.array([0.0, 2.0, 0.0]))[1] is None
    gone = np.concatenate([W[:300], np.zeros(300)])
    assert found(X, gone) == pytest.approx(found(X[:300], W[:300]), rel=1e-12)
