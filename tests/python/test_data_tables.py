"""Tables in CSV and Parquet files: what is in them arrives, and errors name the line and the column."""

import gzip
import os
import sys

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow.runs.stream import read_rows

CSV = "\ufeffa,b,kind\n1,2.5,x\n-3e2,4, y\n5,6,x \n"


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    def write(**columns):
        parquet.write_table(table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"
    return write


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_columns(tmp_path, parquet, ending):
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        parquet(a=[1, -300, 5], b=[2.5, 4.0, 6.0], kind=["x", "y", "x"])
    else:
        path.write_bytes(gzip.compress(CSV.encode()) if ending == "csv.gz" else CSV.encode())
    data = ef.data.load(path, label="kind")
    assert data.kind == "table" and data.columns == ["a", "b"] and data.classes == ["x", "y"]
    assert np.array_equal(data.train, [[1, 2.5], [-300, 4], [5, 6]]) and data.train.dtype == np.float64
    assert np.array_equal(data.train_labels, [0, 1, 0])
    assert np.array_equal(ef.data.load(os.fsencode(path), columns=["b", "a"]).train[:, 0], [2.5, 4, 6])
    assert ef.data.load(path, columns=["b"], label="a").train_labels.tolist() == [1, 0, 2]
    for options in (dict(columns=["a", "c"]), dict(label="class"), dict(columns=["a", "b", "a"]),
                    dict(columns=["a"], label="a"), dict(columns=[])):
        with pytest.raises(ef.ConfigError):
            ef.data.load(path, **options)
    for columns in ("a", 3):
        with pytest.raises(TypeError):
            ef.data.load(path, columns=columns)
    with pytest.raises(ef.IoError):
        ef.data.load(path)


@pytest.mark.parametrize("text", ["1;2\n3;4\n", "1\t2\n3\t4\n", "\ufeff1,2\r\n3,4\r\n\r\n",
                                  '"1","2"\n"3","4"\n'])
def test_csv_without_header(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    data = ef.data.load(tmp_path / "t.csv")
    assert np.array_equal(data.train, [[1, 2], [3, 4]]) and data.columns == ["0", "1"]
    assert np.array_equal(ef.data.load(tmp_path / "t.csv", columns=[1]).train, [[2], [4]])


def test_classes_that_are_numbers_go_by_their_value(tmp_path):
    for names, order in ((["10", "2", "-1"], ["-1", "2", "10"]), (["1e1", "2.5"], ["2.5", "1e1"]),
                         (["10", "2", "x"], ["10", "2", "x"])):
        (tmp_path / "t.csv").write_text("\n".join(["a,kind", *(f"1,{name}" for name in names)]))
        data = ef.data.load(tmp_path / "t.csv", label="kind")
        assert data.classes == order and [data.classes[i] for i in data.train_labels] == names


@pytest.mark.parametrize("cells", [2, 7, 1 << 16])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_blocks(tmp_path, parquet, monkeypatch, cells, ending):
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", cells)
    table, path = np.random.default_rng(0).standard_normal((50, 2)), tmp_path / f"t.{ending}"
    kinds = [f"k{i % 3}" for i in range(50)]

    def write(last):
        if ending == "parquet":
            return parquet(a=[*table[:, 0], 1.0], b=[*table[:, 1], last], kind=[*kinds, "k0"])
        lines = ["a,b,kind", *(f"{x},{y},{k}" for (x, y), k in zip(table, kinds)), f"1,{last},k0"]
        text = "\n".join(lines).encode()
        return path.write_bytes(gzip.compress(text) if ending == "csv.gz" else text)

    write(2.0)
    data = ef.data.load(path, label="kind")
    assert np.array_equal(data.train, [*table, [1, 2]]) and data.train.shape == (51, 2)
    assert [data.classes[i] for i in data.train_labels] == [*kinds, "k0"]
    if ending != "parquet":
        blocks = [batch.x for batch in read_rows(path, columns=["a", "b"])]
        assert np.array_equal(np.concatenate(blocks), data.train) and len(blocks) == -(-51 // max(1, cells // 3))
    write(None if ending == "parquet" else "NA")
    with raises(ef.IoError, row=50, column="b"):
        ef.data.load(path, label="kind")


@pytest.mark.parametrize("text, row, column", [
    ("a,b\n1,2\n3,?\n", 1, "b"), ("a,1\n2,3\n", 0, "0"), ("a,b\n1,2\n3\n", 1, "b"), ("a,b\n1,-inf\n", 0, "b"),
    *((text, None, None) for text in ("", "a,b\n", "a,b\n1,2\n3,4,5\n", "a,a\n1,2\n", 'a,b\n1,"2\n'))])
def test_broken_csv(tmp_path, text, row, column):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with raises(ef.IoError, row=row, column=column):
        ef.data.load(tmp_path / "t.csv")


def test_missing_values_are_counted(tmp_path, monkeypatch):
    """Over all rows, also behind the block that has the first."""
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", 6)
    (tmp_path / "t.csv").write_text("a,b,kind\n1,2,x\n?,,x\n3,4,\n5,oops,y\n5,NA,y\n")
    with raises(ef.IoError, row=1, column="a") as error:
        ef.data.load(tmp_path / "t.csv", label="kind")
    assert str(error.value).endswith("; 4 of 5 rows have such values: 1 in column 'a', 3 in column 'b', 1 in column 'kind'; "
                                     "evenflow inspect proposes options for all columns")


@pytest.mark.parametrize("columns, options, row, column", [
    (dict(a=[1.0, None]), {}, 1, "a"), (dict(a=[np.inf]), {}, 0, "a"), (dict(a=[1.0], w=[-1]), dict(weight="w"), 0, "w"),
    (dict(a=[1.0], k=[None]), dict(label="k"), 0, "k"),
    *((dict(a=values), {}, None, None) for values in (["1", "2"], [True], np.empty(0)))])
def test_broken_parquet(parquet, columns, options, row, column):
    with raises(ef.IoError, row=row, column=column):
        ef.data.load(parquet(**columns), **options)


def test_foreign_parquet(parquet):
    path = parquet(a=np.arange(1000.0))
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[:60] + bytes(200) + whole[260:], b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(ef.IoError) as error:
            ef.data.load(path)
        assert "\n" not in str(error.value)


def test_without_pandas(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("1,2\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ef.MissingExtra):
        ef.data.load(tmp_path / "t.csv")
