"""A context from files and on the command line: a table's columns that the density of the others is given."""

import json

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow import latent
from evenflow.cli import main
from evenflow.runs.stream import read_rows

NAMES = ["freq", "phase", "y0", "y1", "y2"]
DENSITY, CONTEXT = NAMES[:2], NAMES[2:]


def pairs(n=600):
    """(N, 2) parameters, (N, 3) numbers that depend on them, with large offsets and units of their own."""
    rng = np.random.default_rng(0)
    x = rng.uniform([0.5, 0.0], [1.5, 1.0], (n, 2))
    waves = np.sin(6 * x[:, :1] * np.arange(3) + x[:, 1:])
    return x, [1e3, 0.0, -5.0] + [1.0, 1e-3, 10.0] * (waves + 0.3 * rng.standard_normal((n, 3)))


X, C = pairs()


def write_csv(path, names=NAMES):
    columns = dict(zip(NAMES, np.concatenate([X, C], axis=1).T), kind=np.arange(len(X)))
    np.savetxt(path, np.stack([columns[name] for name in names], axis=1), delimiter=",", header=",".join(names),
               comments="", fmt="%.17g")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a run on it."""
    folder = tmp_path_factory.mktemp("context")
    write_csv(folder / "t.csv", ["kind", *NAMES])
    assert main(["train", str(folder / "t.csv"), "--columns", *DENSITY, "--context", *CONTEXT, "--hidden", "16", "16",
                 "--couplings", "4", "--epochs", "20", "--quiet", "--out", str(folder / "run")]) == 0
    return folder


def answer(capsys, *args, code=0):
    """What a command prints: JSON, or the error."""
    capsys.readouterr()
    assert main([*args, *(["--json"] if code == 0 else [])]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else printed.err


# Data

def test_readers_split_a_table(tmp_path):
    """Whatever the order of the columns in the file."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = write_csv(tmp_path / "t.csv", ["y1", "phase", "kind", "y0", "freq", "y2"])
    pandas.read_csv(path).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        data = ef.data.load(tmp_path / name, columns=DENSITY, context=CONTEXT)
        assert data.columns == DENSITY and data.context == CONTEXT
        assert np.array_equal(data.train, X) and np.array_equal(data.train_context, C)
        rest = ef.data.load(tmp_path / name, context=CONTEXT, label="kind")
        assert rest.columns == ["phase", "freq"] and len(rest.classes) == len(X)
        parts = data.split(0.25, seed=3)
        for x, c in ((parts.train, parts.train_context), (parts.test, parts.test_context)):
            rows = [int(np.flatnonzero(X[:, 0] == value)[0]) for value in x[:, 0]]
            assert np.array_equal(c, C[rows])
    assert "context" not in repr(ef.data.load(path)) and "train_context (600, 3)" in repr(data)


def test_arrays_of_numpy_files(tmp_path):
    np.savez(tmp_path / "one.npz", x=X, context=C)
    np.savez(tmp_path / "two.npz", train=X[:500], test=X[500:], train_context=C[:500, 0], test_context=C[500:, 0])
    assert np.array_equal(ef.data.load(tmp_path / "one.npz").train_context, C)
    two = ef.data.load(tmp_path / "two.npz")
    assert np.array_equal(two.train_context, C[:500, :1]) and np.array_equal(two.test_context, C[500:, :1])
    (tmp_path / "many").mkdir()
    for i in (0, 1):
        np.savez(tmp_path / "many" / f"train{i}.npz", x=X[i::2], context=C[i::2])
    joined = ef.data.load(tmp_path / "many")
    assert np.array_equal(joined.train_context, np.concatenate([C[0::2], C[1::2]]))


# The command line

def test_a_run_is_that_of_fit(folder, capsys):
    """The held-out number is that of the same model on the same rows."""
    flow = ef.load(folder / "run" / "model.safetensors")
    assert flow.context == 3 and flow.initialized
    test = ef.data.load(folder / "t.csv", columns=DENSITY, context=CONTEXT).split(0.1, 0)
    expected = flow.log_prob(test.test, context=test.test_context).mean()
    found = answer(capsys, "eval", str(folder / "run"))
    assert found["n"] == 60 and abs(found["log_likelihood"] - expected) < 1e-6
    assert answer(capsys, "verify", str(folder / "run"))["ok"]


def test_other_files_are_read_by_name(folder, tmp_path, capsys):
    run, other = str(folder / "run"), write_csv(tmp_path / "o.csv", ["y2", "freq", "y0", "kind", "phase", "y1"])
    bare = str(folder / "run" / "model.safetensors")
    flow = ef.load(bare)
    expected = flow.log_prob(X, context=C)
    assert abs(answer(capsys, "eval", run, other)["log_likelihood"] - expected.mean()) < 1e-6
    for model, chosen in ((run, []), (bare, ["--columns", *DENSITY, "--context", *CONTEXT])):
        scores = str(tmp_path / "s.npy")
        answer(capsys, "score", model, other, *chosen, "--out", scores)
        assert np.array_equal(np.load(scores), expected)
        answer(capsys, "score", model, other, *chosen, "--reference", other, "--out", scores)
        assert np.array_equal(np.load(scores)[:, 0], expected)
        latents, back = str(tmp_path / "z.npz"), str(tmp_path / "x.csv")
        answer(capsys, "encode", model, other, *chosen, "--out", latents)
        assert np.array_equal(np.load(latents)["context"], C)
        answer(capsys, "decode", model, latents, "--out", back)
        np.testing.assert_allclose(np.loadtxt(back, delimiter=",", skiprows=1), X, atol=1e-5)
    answer(capsys, "encode", run, other, "--out", str(tmp_path / "z.npy"))
    answer(capsys, "decode", run, str(tmp_path / "z.npy"), "--given", other, "--out", back)
    np.testing.assert_allclose(np.loadtxt(back, delimiter=",", skiprows=1), X, atol=1e-5)
    rows = list(read_rows(other, columns=DENSITY, context=CONTEXT))
    assert np.array_equal(np.concatenate([batch.context for batch in rows]), C)


def test_samples_of_one_context_and_of_many(folder, tmp_path, capsys):
    run, out = str(folder / "run"), str(tmp_path / "s.csv")
    flow = ef.load(folder / "run" / "model.safetensors")
    given = ["1e3", "-2.5e-04", "-4"]
    answer(capsys, "sample", run, "--given", *given, "--n", "5", "--seed", "3", "--out", out)
    one = flow.sample(5, seed=3, context=np.array(given, float))
    assert (tmp_path / "s.csv").read_text().startswith("freq,phase\n")
    assert np.array_equal(np.loadtxt(out, delimiter=",", skiprows=1).astype(np.float32), one)
    seen = tmp_path / "seen.csv"
    np.savetxt(seen, C[:4, ::-1], delimiter=",", header=",".join(CONTEXT[::-1]), comments="", fmt="%.17g")
    np.save(tmp_path / "seen.npy", C[:4])
    expected = flow.sample(12, seed=3, context=np.repeat(C[:4], 3, axis=0))
    for given in (seen, tmp_path / "seen.npy"):
        found = answer(capsys, "sample", run, "--given", str(given), "--n", "3", "--seed", "3", "--out",
                       str(tmp_path / "s.npy"))
        assert found["n"] == 12 and np.array_equal(np.load(tmp_path / "s.npy"), expected)


def test_what_is_given_has_to_fit(folder, tmp_path, capsys):
    run = str(folder / "run")
    np.save(tmp_path / "two.npy", C[:4, :2])
    for given in ([], ["1", "2"], ["1", "2", "nan"], ["1", "two", "3"], [str(tmp_path / "two.npy")], ["no.csv"]):
        error = answer(capsys, "sample", run, *(["--given", *given] if given else []), code=2)
        assert "y0, y1, y2" in error or "no.csv" in error
    answer(capsys, "encode", run, str(folder / "t.csv"), "--out", str(tmp_path / "z.npy"))
    assert "context" in answer(capsys, "decode", run, str(tmp_path / "z.npy"), code=2)
    assert "nice takes no context" in answer(capsys, "train", str(folder / "t.csv"), "--model", "nice", "--context", "y0", code=2)


def test_a_run_on_arrays(tmp_path, capsys):
    """An array of context in a .npz file is one; its columns have no names."""
    np.savez(tmp_path / "t.npz", x=X, context=C)
    run = str(tmp_path / "run")
    first = answer(capsys, "train", str(tmp_path / "t.npz"), "--steps", "20", "--quiet", "--out", run)
    assert answer(capsys, "eval", run)["log_likelihood"] == first["log_likelihood"]
    assert answer(capsys, "eval", run, str(tmp_path / "t.npz"))["n"] == 600
    out = str(tmp_path / "s.npy")
    error = answer(capsys, "sample", run, "--out", out, code=2)
    assert "expected --given with 3 numbers, or with the name of a file" in error
    assert answer(capsys, "sample", run, "--given", "1000", "0", "-5", "--n", "7", "--out", out)["n"] == 7
    np.save(tmp_path / "x.npy", X)
    error = answer(capsys, "eval", run, str(tmp_path / "x.npy"), code=2)
    assert "expected a context of 3 numbers a sample, got none" in error


# Latents and speed

def test_latent_tools_take_a_context(folder):
    flow = ef.load(folder / "run" / "model.safetensors")
    x, c = X[:8].astype(np.float32), C[:8]
    np.testing.assert_allclose(latent.reconstruct(flow, x, context=c), x, atol=1e-5)
    line = latent.interpolate(flow, x[:4], x[4:], steps=3, context=c[:4])
    z = (flow.encode(x[:4], context=c[:4]) + flow.encode(x[4:], context=c[:4])) / 2
    np.testing.assert_allclose(line[:, 1], flow.decode(z, context=c[:4]), atol=1e-5)
    np.testing.assert_allclose(latent.manifold(flow, x[:4], steps=4, context=c[0])[0, 0],
                               flow.decode(flow.encode(x[:1], context=c[0]), context=c[0])[0], atol=1e-5)
    marks = np.arange(8) < 3
    z = flow.encode(x, context=c).astype(np.float64)
    direction = latent.attribute(flow, x, marks, context=c)
    np.testing.assert_allclose(direction, z[:3].mean(0) - z[3:].mean(0), atol=1e-6)
    moved = latent.edit(flow, x, direction, [0.0, 1.0], context=c)
    np.testing.assert_allclose(moved[:, 0], x, atol=1e-5)
    shares = [latent.project(flow, part, direction, context=c) for part in (x, moved[:, 1])]
    np.testing.assert_allclose(shares[1] - shares[0], 1, atol=1e-3)
    for call in (lambda: latent.reconstruct(flow, x), lambda: latent.attribute(flow, x, marks),
                 lambda: latent.project(flow, x, direction)):
        with raises(ef.ConfigError, argument="context"):
            call()
