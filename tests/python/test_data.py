"""Readers: what is in the file arrives, and a broken file is a typed error that says where."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest

import evenflow as ef
from evenflow.stream import read_latents, read_rows


def idx(array, code=0x08):
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_digits():
    digits = ef.data.load("digits")
    assert digits.kind == "image"
    assert digits.train.shape == (1500, 8, 8, 1) and digits.test.shape == (297, 8, 8, 1)
    assert digits.train.dtype == np.uint8 and digits.train_labels.shape == (1500,)
    assert np.array_equal(np.unique(digits.train), np.arange(16) * 17)
    assert np.array_equal(np.unique(digits.train_labels), np.arange(10))
    assert digits.classes == list("0123456789")
    assert repr(digits) == ("Dataset(image, train (1500, 8, 8, 1) uint8, test (297, 8, 8, 1) uint8, "
                            "train_labels (1500,) int32, test_labels (297,) int32, 10 classes)")
    # A zero is dark in the middle, an eight is not.
    mean = {k: digits.train[digits.train_labels == k].mean(0)[..., 0] for k in (0, 8)}
    assert mean[0][3:5, 3:5].mean() < 60 < mean[8][3:5, 3:5].mean()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_folder(tmp_path, ending):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 3, 4), np.uint8), np.arange(5, dtype=np.uint8)
    write = gzip.compress if ending else bytes
    for name, array in (("train-images-idx3", images), ("train-labels-idx1", labels),
                        ("t10k-images-idx3", images[:2]), ("t10k-labels-idx1", labels[:2])):
        (tmp_path / f"{name}-ubyte{ending}").write_bytes(write(idx(array)))
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train[..., 0], images) and np.array_equal(data.test[..., 0], images[:2])
    assert np.array_equal(data.train_labels, labels) and np.array_equal(data.test_labels, [0, 1])
    single = ef.data.load(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert np.array_equal(single.train, data.train) and single.test is None


def test_endings_in_capitals(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((50, 2))
    text = "".join(f"{a!r}\t{b!r}\n" for a, b in x.tolist())
    (tmp_path / "X.TSV").write_text("a\tb\n" + text)
    (tmp_path / "X.TSV.GZ").write_bytes(gzip.compress(b"a\tb\n" + text.encode()))
    (tmp_path / "X.CSV").write_text("a,b\n" + text.replace("\t", ","))
    (tmp_path / "X.IDX").write_bytes(idx(x, 0x0E))
    (tmp_path / "X.Idx.Gz").write_bytes(gzip.compress(idx(x, 0x0E)))
    (tmp_path / "folder").mkdir()
    for save, name, arrays in ((np.save, "X.NPY", (x,)), (np.savez, "X.NPZ", ()), (np.savez, "folder/X.NPZ", ())):
        with open(tmp_path / name, "wb") as file:  # numpy appends an ending of its own
            save(file, *arrays, **({} if arrays else {"x": x, "z": x}))
    names = ["X.TSV", "X.TSV.GZ", "X.CSV", "X.IDX", "X.Idx.Gz", "X.NPY", "X.NPZ", "folder"]
    for name in names:
        data = ef.data.load(tmp_path / name)
        assert np.array_equal(data.train, x) and data.columns == (["a", "b"] if "SV" in name else [])
    assert np.array_equal(ef.data.load(tmp_path / "X.CSV", columns=["b"]).train, x[:, 1:])
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", 20)
    assert len(list(read_rows(tmp_path / "X.TSV.GZ"))) == 5
    for name in ("X.TSV.GZ", "X.CSV", "X.NPY", "X.NPZ"):
        assert np.array_equal(np.concatenate([z for z, _ in read_latents(tmp_path / name)]), x)


@pytest.mark.parametrize("code, dtype", [(0x0D, np.float32), (0x0E, np.float64)])
def test_idx_float(tmp_path, code, dtype):
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    (tmp_path / "x.idx").write_bytes(idx(x, code))
    data = ef.data.load(tmp_path / "x.idx")
    assert data.kind == "table" and np.array_equal(data.train, x) and data.train.dtype.isnative


@pytest.mark.parametrize("code, dtype", [(0x09, np.int8), (0x0B, np.int16), (0x0C, np.int32)])
def test_idx_whole_numbers(tmp_path, code, dtype):
    x = np.array([[1, -2, 3], [100, 5, -6]], dtype)
    (tmp_path / "x.idx").write_bytes(idx(x, code))
    read = ef.data.read_idx(tmp_path / "x.idx")
    assert np.array_equal(read, x) and read.dtype == dtype


GOOD = idx(np.zeros((2, 3, 4), np.uint8))


@pytest.mark.parametrize("content, word", [
    (b"", "empty"),
    (b"\x89PNG\r\n\x1a\n" + GOOD, "magic"),
    (b"\0\0\x07\x03" + GOOD[4:], "magic"),
    (GOOD[:9], "header"),
    (GOOD[:-1], "only 23"),
    (GOOD + b"\0", "more"),
    (b"\0\0\x08\x03" + b"\xff" * 12, "only 0"),
])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_broken_idx(tmp_path, content, word, ending):
    path = tmp_path / f"x-ubyte{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    with pytest.raises(ef.IoError, match=word) as error:
        ef.data.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:99] + b"\0\0\0\0" + b[103:],
                                    lambda b: b"no gzip"])
def test_broken_gzip(tmp_path, damage):
    path = tmp_path / "x-ubyte.gz"
    noise = np.random.default_rng(0).integers(0, 256, (9, 5, 5), np.uint8)
    path.write_bytes(damage(gzip.compress(idx(noise))))
    with pytest.raises(ef.IoError, match="IDX"):
        ef.data.load(path)


def test_an_idx_folder_without_some_parts(tmp_path):
    """Labels and a test part may be missing, images to train on may not."""
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    with pytest.raises(ef.IoError, match="expected train-images-idx3-ubyte or .*.gz, got neither"):
        ef.data.load(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").rename(tmp_path / "train-images-idx3-ubyte")
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train[..., 0], images)
    assert data.test is data.train_labels is data.test_labels is None and data.classes == []


def test_npy_and_npz(tmp_path):
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (6, 4, 4), np.uint8), rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    rows = rng.standard_normal((7, 2))
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "colour.npz", train=colour, test=colour[:2], train_labels=np.arange(6))
    np.savez(tmp_path / "x.npz", x=rows)
    assert np.array_equal(ef.data.load(tmp_path / "grey.npy").train, grey[..., None])
    assert ef.data.load(tmp_path / "rows.npy").kind == "table"
    data = ef.data.load(tmp_path / "colour.npz")
    assert data.shape == (4, 4, 3) and len(data.test) == 2 and data.test_labels is None
    assert np.array_equal(ef.data.load(tmp_path / "x.npz").train, rows)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("content, word", [
    (lambda p: np.save(p, np.array([Bomb()], object), allow_pickle=True), "objects"),
    (lambda p: p.write_bytes(pickle.dumps(Bomb())), "objects"),
    (lambda p: p.write_bytes(b""), "npy file"),
    (lambda p: (np.save(p, np.zeros((9, 3))), p.write_bytes(p.read_bytes()[:-8])), "npy file"),
    (lambda p: (np.savez(f"{p}.npz", x=np.zeros((9, 3))), os.rename(f"{p}.npz", p)), "objects, got: an archive"),
    (lambda p: np.save(p, np.zeros((9, 3, 3), np.int64)), "int64"),
    (lambda p: np.save(p, np.zeros((9, 3), bool)), "bool"),
    (lambda p: np.save(p, np.zeros((9, 3), np.uint8)), r"other than uint8, got uint8 \(9, 3\)"),
    (lambda p: np.save(p, np.zeros(9)), "table \\(N, D\\) of floats"),
    (lambda p: np.save(p, np.zeros((0, 3))), "at least one sample"),
])
def test_broken_npy(tmp_path, content, word):
    path = tmp_path / "x.npy"
    content(path)
    with pytest.raises(ef.IoError, match=word) as error:
        ef.data.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("arrays, word", [
    (dict(y=np.zeros((3, 2))), "train, x or data, got y"),
    (dict(train=np.zeros((3, 2)), test=np.zeros((3, 4))), "test data like"),
    (dict(train=np.zeros((3, 2)), train_labels=np.zeros(4, int)), r"whole numbers \(3,\)"),
    (dict(train=np.zeros((3, 2)), labels=np.array([0, -1, 2])), "got -1"),
    (dict(train=np.array([{}, {}], object)), "objects"),
])
def test_broken_npz(tmp_path, arrays, word):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ef.IoError, match=word):
        ef.data.load(tmp_path / "x.npz")


def test_a_folder_of_npz_has_training_data_and_one_part_a_file(tmp_path):
    x = np.zeros((3, 2))
    np.savez(tmp_path / "test.npz", x=x)
    with pytest.raises(ef.IoError, match="expected .npz files of training data, got test.npz"):
        ef.data.load(tmp_path)
    np.savez(tmp_path / "a.npz", train=x, test=x)
    with pytest.raises(ef.IoError, match="a.npz: expected one part in each file of a folder, got a test part too"):
        ef.data.load(tmp_path)


CSV = "\ufeffa,b,kind\n1,2.5,x\n-3e2,4, y\n5,6,x \n"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_csv(tmp_path, ending):
    path = tmp_path / f"t.csv{ending}"
    path.write_bytes(gzip.compress(CSV.encode()) if ending else CSV.encode())
    data = ef.data.load(path, label="kind")
    assert data.kind == "table" and data.columns == ["a", "b"] and data.classes == ["x", "y"]
    assert np.array_equal(data.train, [[1, 2.5], [-300, 4], [5, 6]])
    assert np.array_equal(data.train_labels, [0, 1, 0])
    assert np.array_equal(ef.data.load(path, columns=["b", "a"]).train[:, 0], [2.5, 4, 6])
    assert np.array_equal(ef.data.read_csv(os.fsencode(path), columns=["a"]).train[:, 0], [1, -300, 5])


@pytest.mark.parametrize("text", ["1;2\n3;4\n", "1\t2\n3\t4\n", "\ufeff1,2\r\n3,4\r\n\r\n",
                                  '"1","2"\n"3","4"\n'])
def test_csv_without_header(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    data = ef.data.load(tmp_path / "t.csv")
    assert np.array_equal(data.train, [[1, 2], [3, 4]]) and data.columns == ["0", "1"]


@pytest.mark.parametrize("cells", [2, 7, 1 << 16])
def test_csv_in_blocks(tmp_path, monkeypatch, cells):
    monkeypatch.setattr("evenflow.data.table.BLOCK_CELLS", cells)
    table = np.random.default_rng(0).standard_normal((50, 2))
    kinds = [f"k{i % 3}" for i in range(50)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,kind", *(f"{x},{y},{k}" for (x, y), k in zip(table, kinds))]))
    data = ef.data.load(tmp_path / "t.csv", label="kind")
    assert np.array_equal(data.train, table) and [data.classes[i] for i in data.train_labels] == kinds
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text() + "\n1,x,k0")
    with pytest.raises(ef.IoError, match="number in line 52, column 'b', got 'x'"):
        ef.data.load(tmp_path / "t.csv", label="kind")


@pytest.mark.parametrize("text, word", [
    ("", "empty"),
    ("a,b\n", "below the header"),
    ("a,b\n1,2\n3,?\n", r"line 3, column 'b', got '\?'"),
    ("a,1\n2,3\n", "number in line 1, column '0', got 'a'"),
    ("a,b\n1,2\n\n3,\n", "line 4, column 'b', got ''"),
    ("a,b\n1,2\n3\n", "2 cells in line 3, got 1"),
    ("a,a\n1,2\n", "different names"),
    ('a,b\n1,"2\n', "CSV"),
    ("a,b\n1,2\n3,nan\n", "finite number in line 3, column 'b', got 'nan'"),
    ("a,b\n1,-inf\n", "finite number in line 2, column 'b', got '-inf'"),
    ("a,b\n1,1_000\n", "number in line 2, column 'b', got '1_000'"),
    ('\ufeff"a","b"\n"1","2"\n"3\n","x"\n', "line 4, column 'b', got 'x'"),
    ("a,b\n1,2,\n", "2 cells in line 2, got 3"),
    ("a,b\n1,\0\n", "CSV|number in line 2"),
])
def test_broken_csv(tmp_path, text, word):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ef.IoError, match=word):
        ef.data.load(tmp_path / "t.csv")


def test_csv_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-16")
    with pytest.raises(ef.IoError, match="t.csv: expected a table in CSV"):
        ef.data.load(tmp_path / "t.csv")


def test_csv_columns_and_labels(tmp_path):
    (tmp_path / "t.csv").write_text(CSV, encoding="utf-8")
    with pytest.raises(ef.ConfigError, match="out of a, b, kind, got 'c'"):
        ef.data.load(tmp_path / "t.csv", columns=["a", "c"])
    with pytest.raises(ef.ConfigError, match="out of a, b, kind, got 'class'"):
        ef.data.load(tmp_path / "t.csv", label="class")
    with pytest.raises(ef.IoError, match="column 'kind', got 'x'.*name it as label"):
        ef.data.load(tmp_path / "t.csv")
    with pytest.raises(ef.ConfigError, match="t.csv: expected different columns, got 'a' twice"):
        ef.data.load(tmp_path / "t.csv", columns=["a", "b", "a"])
    for columns in ("a", 3):
        with pytest.raises(TypeError, match="sequence of names for columns, got"):
            ef.data.load(tmp_path / "t.csv", columns=columns)
    (tmp_path / "b.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ef.IoError, match="CSV"):
        ef.data.load(tmp_path / "b.csv.gz")


def test_folder_of_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 6, 6, 3), np.uint8)
    for name, picture in zip(("cat/1.png", "cat/2.png", "dog/1.PNG"), pictures):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    for name in ("bird", ".ipynb_checkpoints", "cat/inside"):  # none is a class
        (tmp_path / name).mkdir()
    image.fromarray(pictures[0]).save(tmp_path / ".ipynb_checkpoints" / "1-checkpoint.png")
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train, pictures)
    assert data.classes == ["cat", "dog"] and np.array_equal(data.train_labels, [0, 0, 1])
    assert ef.data.load(tmp_path, size=4).shape == (4, 4, 3)
    image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "dog" / "2.png")
    with pytest.raises(ef.IoError, match="6 x 6 pixels.*got 6 x 8"):
        ef.data.load(tmp_path)
    cropped = ef.data.load(tmp_path, size=6).train
    assert np.array_equal(cropped[:3], pictures) and not cropped[3].any()
    (tmp_path / "dog" / "3.png").write_bytes((tmp_path / "dog" / "1.PNG").read_bytes()[:60])
    with pytest.raises(ef.IoError, match="3.png: expected a picture"):
        ef.data.load(tmp_path, size=6)
    (tmp_path / "dog" / "3.png").unlink()
    for hidden in (tmp_path / "._1.png", tmp_path / "dog" / "._1.png"):
        hidden.write_bytes(b"no picture")
    assert np.array_equal(ef.data.load(tmp_path, size=6).train, cropped)
    image.fromarray(pictures[0]).save(tmp_path / "stray.png")
    with pytest.raises(ef.IoError, match="pictures in subfolders.* or none there, got .*stray.png beside .*1.png"):
        ef.data.load(tmp_path, size=6)


def test_grey_pictures(tmp_path):
    """One channel, whether opaque or not. Of seven rows, the six in the middle are the upper ones."""
    image = pytest.importorskip("PIL.Image")
    grey = np.random.default_rng(0).integers(0, 256, (7, 6), np.uint8)
    opaque = image.fromarray(grey)
    opaque.save(tmp_path / "1.png")
    image.merge("LA", [opaque, image.new("L", opaque.size, 99)]).save(tmp_path / "2.png")
    small = np.asarray(image.fromarray(grey[:6]).resize((3, 3), image.Resampling.BICUBIC))
    for options, wanted in (({}, grey), (dict(crop=6), grey[:6]), (dict(size=3), small)):
        data = ef.data.load(tmp_path, **options).train
        assert data.shape[3] == 1 and np.array_equal(data[..., 0], [wanted, wanted])


def test_missing_and_unknown(tmp_path):
    with pytest.raises(ef.IoError, match="does not exist"):
        ef.data.load(tmp_path / "x.npy")
    (tmp_path / "x.feather").write_bytes(b"FEA1")
    with pytest.raises(ef.IoError, match="a name ending in .npy"):
        ef.data.load(tmp_path / "x.feather")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ef.IoError, match="expected pictures"):
        ef.data.load(tmp_path / "empty")
    with pytest.raises(ef.ConfigError, match="CSV or Parquet file only"):
        ef.data.load("digits", columns=["a"])
    with pytest.raises(TypeError, match=r"\[data\] expected True or False for named, got 'no'"):
        ef.data.load("digits", named="no")


READERS = [ef.data.read_csv, ef.data.read_idx, ef.data.read_idx_folder, ef.data.read_svhn, ef.data.read_cifar,
           ef.data.read_folder, ef.data.read_celeba, ef.data.read_npy, ef.data.read_npz, ef.data.read_npz_folder,
           ef.data.read_parquet, ef.data.load]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_paths_that_are_none(tmp_path, read):
    (tmp_path / "x.npz").write_bytes(b"")
    with open(tmp_path / "x.npz", "rb") as file:
        for path in (None, file.fileno(), file):
            with pytest.raises(TypeError, match=r"\[data\] expected a path, got"):
                read(path)
        os.fstat(file.fileno())  # which is still open
    for name in ("a\0b.csv", "\ud800.csv"):
        with pytest.raises(ef.IoError, match=r"\[data\] expected characters that a file's name can have, got '"):
            read(name)


def test_rows_of_a_path(tmp_path):
    table = np.random.default_rng(0).standard_normal((5, 2))
    np.save(tmp_path / "t.npy", table)
    np.savez(tmp_path / "t.npz", z=table)
    np.savetxt(tmp_path / "t.csv", table, delimiter=",")
    for read, name in ((read_rows, "t.npy"), (read_rows, "t.csv"), (read_latents, "t.npy"), (read_latents, "t.npz"),
                       (read_latents, "t.csv")):
        (rows, labels, *_), = read(tmp_path / name)
        assert np.array_equal(rows, table) and labels is None
    for read, path in ((read_rows, 3), (read_latents, None)):
        with pytest.raises(TypeError, match=r"\[data\] expected a path, got"):
            next(read(path))


def test_split():
    digits = ef.data.load("digits")
    part = digits.split(0.1, seed=3)
    assert len(part.train) == 1350 and len(part.test) == 150
    both = np.concatenate([part.train, part.test]).reshape(1500, -1)
    assert np.array_equal(np.unique(both, axis=0), np.unique(digits.train.reshape(1500, -1), axis=0))
    assert np.array_equal(part.test, digits.split(0.1, seed=3).test)
    assert not np.array_equal(part.test, digits.split(0.1, seed=4).test)
    with pytest.raises(ef.ConfigError, match="both sides"):
        digits.split(0.0)


def test_split_rounds_to_the_nearest_number():
    part = ef.data.Dataset(np.arange(38.0).reshape(19, 2)).split(0.1)
    assert (len(part.train), len(part.test)) == (17, 2)
