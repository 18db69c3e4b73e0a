"""Tables as pandas and numpy write them, and commands that read them beside a run."""

import json

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow.cli import main

X = np.random.default_rng(0).standard_normal((40, 3))


@pytest.fixture
def frame():
    """X with columns a, b, c and an index that is no range."""
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=["a", "b", "c"], index=np.random.default_rng(1).permutation(40))


@pytest.fixture
def to_parquet(tmp_path):
    pytest.importorskip("pyarrow")

    def write(frame):
        frame.to_parquet(tmp_path / "t.parquet")
        return tmp_path / "t.parquet"
    return write


# Parquet

def test_index_is_no_column_of_parquet(frame, to_parquet):
    named = frame.rename_axis("id")
    double = frame.set_index([frame.index.rename("id"), (frame.index + 1).rename(None)])
    for given in (frame, named, double, frame.reset_index(drop=True)):
        data = ef.data.load(to_parquet(given))
        assert data.columns == ["a", "b", "c"] and np.array_equal(data.train, X)
    path = to_parquet(named)
    assert np.array_equal(ef.data.load(path, columns=["id", "a"]).train[:, 0], frame.index)
    data = ef.data.load(path, label="id")
    assert data.columns == ["a", "b", "c"] and len(data.classes) == 40
    with pytest.raises(ef.ConfigError):
        ef.data.load(path, columns=["d"])
    with pytest.raises(ef.ConfigError):
        ef.data.load(to_parquet(named[[]]))


# Headers of CSV

def test_index_is_no_column_of_csv(frame, tmp_path):
    path = tmp_path / "t.csv"
    pairs = frame.set_index([frame.index, frame.index + 1])
    for given, names in ((frame, ["a", "b", "c"]), (pairs, ["a", "b", "c"]),
                         (frame.set_axis([0, 1, 2], axis=1), ["0", "1", "2"])):
        given.to_csv(path)
        for options in ({}, {"label": names[0]}):
            with pytest.raises(ef.IoError) as error:
                ef.data.load(path, **options)
            assert str(error.value) == (f"[data] {path}: column 0 has no name; if it is the index of a pandas frame, write "
                                        "the file with index=False, or choose columns")
        data = ef.data.load(path, columns=names)
        assert data.columns == names and np.array_equal(data.train, X)
    frame.to_csv(path, index=False)
    assert np.array_equal(ef.data.load(path).train, X)


@pytest.mark.parametrize("first, header", [
    ("0,1,2", True), ('"0","1","2"', True), ("0,1,2,3", True), ("0;1;2", True), ("0,1", False), ("0", False),
    ("1,2,3", False), ("0,2,1", False), ("0.0,1.0,2.0", False), ("0,1,02", False)])
def test_header_of_a_frame_without_names(tmp_path, first, header):
    count = 1 + first.replace(";", ",").count(",")
    (tmp_path / "t.csv").write_text(f"{first}\n" + (";" if ";" in first else ",").join(["7"] * count))
    data = ef.data.load(tmp_path / "t.csv")
    assert data.columns == [str(i) for i in range(count)] and data.train.shape == (2 - header, count)
    assert (data.train[-1] == 7).all()


# Numbers of CSV


# Classes


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_a_class_without_a_name(tmp_path, quote):
    (tmp_path / "t.csv").write_text(f"a,kind\n{quote}1{quote},p\n\n2, \n")
    with raises(ef.IoError, row=1, column="kind"):
        ef.data.load(tmp_path / "t.csv", label="kind")


# Whole numbers of numpy

@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64, ">i4"])
def test_whole_numbers_in_numpy_files(tmp_path, dtype):
    x = np.array([[1, 2], [3, 100], [5, 6]], dtype)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", train=x, test=x[:1], labels=np.arange(3))
    for name in ("x.npy", "x.npz"):
        data = ef.data.load(tmp_path / name)
        assert data.kind == "table" and data.train.dtype == np.float64 and np.array_equal(data.train, x)
    assert data.test.dtype == np.float64 and data.train_labels.tolist() == [0, 1, 2]


# Commands

def train(folder, data, *options):
    return main(["train", str(data), "--couplings", "2", "--hidden", "4", "--steps", "2", "--quiet", "--out",
                 str(folder / "run"), "--force", *options])


def test_score_chooses_columns_of_parquet(frame, to_parquet, tmp_path):
    path = to_parquet(frame.assign(kind="k"))
    assert train(tmp_path, path, "--columns", "a", "b") == 0
    run, out = str(tmp_path / "run"), str(tmp_path / "s.npy")
    flow = ef.load(tmp_path / "run" / "model.safetensors")
    for options, columns in (([], [0, 1]), (["--columns", "c", "a"], [2, 0])):
        assert main(["score", run, str(path), *options, "--out", out]) == 0
        assert np.array_equal(np.load(out), flow.log_prob(X[:, columns]))
    assert main(["encode", run, str(path), "--columns", "b", "c", "--out", out]) == 0
    assert np.array_equal(np.load(out), flow.encode(X[:, 1:]))


def test_samples_of_a_table_have_a_name_by_default(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for header, name in (("a,b,c", "samples.csv"), ("", "samples.npy")):
        np.savetxt("t.csv", X, delimiter=",", header=header, comments="")
        if not header:
            np.save("t.npy", X)
        assert train(tmp_path, "t.csv" if header else "t.npy") == 0
        capsys.readouterr()
        assert main(["sample", "run", "--n", "5"]) == 0
        assert capsys.readouterr().out == f"{name}\n"
        assert ef.data.load(name).train.shape == (5, 3)
    assert main(["sample", "run", "--n", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 5, "out": "samples.npy"}
