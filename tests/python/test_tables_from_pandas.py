"""Tables as pandas and numpy write them, and commands that read them beside a run."""

import gzip
import json

import numpy as np
import pytest

import evenflow as ef
from evenflow.cli import main
from evenflow.data.rows import Stored
from evenflow.runs.stream import read_rows

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
    with pytest.raises(ef.ConfigError, match="no column 'd'; the columns are a, b, c, id"):
        ef.data.load(path, columns=["d"])
    with pytest.raises(ef.ConfigError, match="no column is left for the density"):
        ef.data.load(to_parquet(named[[]]))


def test_large_whole_numbers_of_parquet_are_rounded(frame, to_parquet, tmp_path):
    numbers = {"i": [2**53 + 1, -2**63, 2**63 - 1], "u": [2**53 + 3, 2**64 - 1, 7]}
    given = type(frame)({"i": np.array(numbers["i"], np.int64), "u": np.array(numbers["u"], np.uint64)})
    given.to_csv(tmp_path / "t.csv", index=False)
    wanted = np.array([[float(n) for n in column] for column in numbers.values()]).T
    for path in (to_parquet(given), tmp_path / "t.csv"):
        assert np.array_equal(ef.data.load(path).train, wanted)


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


def test_numbered_columns_are_no_names(tmp_path, capsys):
    """A run on a frame without names takes another table's columns as they come."""
    np.savetxt(tmp_path / "t.csv", X, delimiter=",", header="0,1,2", comments="")
    np.savetxt(tmp_path / "other.csv", X, delimiter=",", header="a,b,c", comments="")
    assert train(tmp_path, tmp_path / "t.csv") == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), str(tmp_path / "other.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 40


# Numbers of CSV

NUMBERS = ["1.5", "-2e-310", "+.5", "9007199254740993", " 1 ", "99999999999999999999999", '"1"', "1E+05", "0.1"]
NO_NUMBERS = ["", "nan", "inf", "1e999", "1_0", "0x1p3", "\x1c1", "2\x1f", "1\0", "#1", '"1\n2"', '"a,b"', "1 2", "1e", "x",
              " ", "True", "1d5", "1,2"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r", "\n\n"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_cells(tmp_path, monkeypatch, ending, name):
    """Numbers are read bit for bit; what is no number is found, in a column of numbers alone."""
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", 6)
    for cell in (*NUMBERS, *NO_NUMBERS):
        text = ending.join(["a,b,c", "0.1,2,3", f"4,{cell},6", "7,8,-9.25e3"]).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        if cell in NUMBERS:
            wanted = [[0.1, 2, 3], [4, float(cell.strip('"')), 6], [7, 8, -9250]]
            assert ef.data.load(tmp_path / name).train.tolist() == wanted
            continue
        with pytest.raises(ef.IoError) as error:
            ef.data.load(tmp_path / name)
        if cell != "1,2":
            assert (error.value.row, error.value.column) == (1, "b")
            assert ef.data.load(tmp_path / name, columns=["c", "a"]).train.tolist() == [[3, 0.1], [6, 4], [-9250, 7]]


# Classes

@pytest.mark.parametrize("cells, names", [
    (["10", "2", "0", "2", "-1"], ["-1", "0", "2", "10"]), (["1.5", "-2", "1e1"], ["-2", "1.5", "1e1"]),
    (["10", "2", "b"], ["10", "2", "b"]), (["10", "9", "nan"], ["10", "9", "nan"]), (["10", "2_0"], ["10", "2_0"]),
    ([str(2**60 + 1), str(2**60)], [str(2**60), str(2**60 + 1)])])
def test_order_of_classes(tmp_path, to_parquet, cells, names):
    numbers = {name: i for i, name in enumerate(names)}
    frame = pytest.importorskip("pandas").DataFrame({"x": range(len(cells)), "kind": cells})
    frame.to_csv(tmp_path / "t.csv", index=False)
    for path in (tmp_path / "t.csv", to_parquet(frame)):
        data = ef.data.load(path, label="kind")
        assert data.classes == names and data.train_labels.tolist() == [numbers[cell] for cell in cells]


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_a_class_without_a_name(tmp_path, quote):
    (tmp_path / "t.csv").write_text(f"a,kind\n{quote}1{quote},p\n\n2, \n")
    with pytest.raises(ef.IoError, match="t.csv, row 1, column 'kind': missing value"):
        ef.data.load(tmp_path / "t.csv", label="kind")


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
def test_tabs(tmp_path, name):
    text = b"a, b, c\tkind\n1\tp\n2\tq, r, s\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    data = ef.data.load(tmp_path / name, label="kind")
    assert data.columns == ["a, b, c"] and data.train.tolist() == [[1], [2]] and data.classes == ["p", "q, r, s"]
    blocks = list(read_rows(tmp_path / name, columns=["a, b, c"]))
    assert np.array_equal(blocks[0][0], data.train)


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


def test_large_files_of_whole_numbers(tmp_path, monkeypatch):
    x = np.arange(600).reshape(200, 3)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 100)
    rows = ef.data.load(tmp_path / "x.npy").train
    assert isinstance(rows.base, Stored) and rows.dtype == np.float64 and rows.group == rows.base.group
    assert rows[3:5].dtype == np.float64 and np.array_equal(rows, x) and np.array_equal(rows[[7, 2]], x[[7, 2]])


# Commands

def train(folder, data, *options):
    return main(["train", str(data), "--couplings", "2", "--hidden", "4", "--steps", "2", "--quiet", "--out",
                 str(folder / "run"), "--force", *options])


def test_eval_of_a_table_with_text(tmp_path, capsys):
    """What the error advises can be done."""
    np.savetxt(tmp_path / "bare.csv", X, delimiter=",")
    kinds = [f"{a},{b},{c},k{i % 2}" for i, (a, b, c) in enumerate(X.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,kind", *kinds]))
    assert train(tmp_path, tmp_path / "bare.csv") == 0
    run, other = str(tmp_path / "run"), str(tmp_path / "t.csv")
    capsys.readouterr()
    assert main(["eval", run, other]) == 2
    assert "leave this column out, by choosing the others as columns" in capsys.readouterr().err
    printed = []
    for options in ([other, "--columns", "a", "b", "c"], [other, "--label", "kind"], [str(tmp_path / "bare.csv")]):
        assert main(["eval", run, *options]) == 0
        printed.append(capsys.readouterr().out)
        assert main(["verify", run, *options]) == 0
        capsys.readouterr()
    assert printed[0] == printed[1] == printed[2]
    for options in (["--columns", "a"], [str(tmp_path / "x.npy"), "--label", "kind"]):
        assert main(["eval", run, *options]) == 2
        assert "a CSV or Parquet file only" in capsys.readouterr().err


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
