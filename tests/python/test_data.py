"""Data sets by name and path, files of numpy and IDX: what is in them arrives, and a broken file is a typed error."""

import doctest
import gzip
import os
import pickle
import struct

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow._border.rows import Rows
from evenflow.data import rows

rng = np.random.default_rng(0)


def idx(array, code=0x08):
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


# Names

def test_digits():
    digits = ef.data.load("digits")
    assert digits.train.dtype == np.uint8 and digits.train_labels.shape == (1500,)
    assert np.array_equal(np.unique(digits.train), np.arange(16) * 17)
    assert np.array_equal(np.unique(digits.train_labels), np.arange(10))
    assert digits.classes == list("0123456789")
    # A zero is dark in the middle, an eight is not.
    mean = {k: digits.train[digits.train_labels == k].mean(0)[..., 0] for k in (0, 8)}
    assert mean[0][3:5, 3:5].mean() < 60 < mean[8][3:5, 3:5].mean()


@pytest.mark.parametrize("name", ["two-moons", "rings", "checkerboard"])
def test_toys(name):
    data = ef.data.load(name)
    assert data.train.shape == (10_000, 2) and data.test.shape == (2_000, 2) and data.kind == "table"
    assert np.array_equal(data.train, ef.data.load(name).train)
    assert np.isfinite(data.train).all() and (name == "checkerboard") == (data.train_labels is None)


@pytest.mark.parametrize("module", ["", ".dataset", ".toys", ".augment"])
def test_examples_of_docstrings(module):
    results = doctest.testmod(__import__(f"evenflow.data{module}", fromlist=["data"]))
    assert results.attempted and not results.failed


# What is asked for

def test_missing_and_unknown(tmp_path):
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "x.npy")
    (tmp_path / "x.feather").write_bytes(b"FEA1")
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "x.feather")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "empty")
    with raises(TypeError, argument="named"):
        ef.data.load("digits", named="no")


@pytest.mark.parametrize("options", [dict(columns=["a"]), dict(size=8), dict(background="red"), dict(pad=0)])
def test_options_that_do_not_fit(options):
    with pytest.raises(ef.ConfigError):
        ef.data.load("digits", **options)


# Parts

def test_split():
    digits = ef.data.load("digits")
    part = digits.split(0.1, seed=3)
    assert len(part.train) == 1350 and len(part.test) == len(part.test_labels) == 150
    both = np.concatenate([part.train, part.test]).reshape(1500, -1)
    assert np.array_equal(np.unique(both, axis=0), np.unique(digits.train.reshape(1500, -1), axis=0))
    assert np.array_equal(part.test, digits.split(0.1, seed=3).test)
    assert not np.array_equal(part.test, digits.split(0.1, seed=4).test)
    with pytest.raises(ef.ConfigError):
        digits.split(0.0)
    part = ef.data.Dataset(np.arange(38.0).reshape(19, 2)).split(0.1)
    assert (len(part.train), len(part.test)) == (17, 2)


def test_parts():
    data = ef.data.load("digits")
    train, test = data.part("train"), data.part("test")
    assert train.x is data.train and train.label is data.train_labels and train.weight is None
    assert test.x is data.test and test.label is data.test_labels and len(test[3:5]) == 2
    for which in ("test", "valid"):
        with raises(ef.ConfigError, argument="which"):
            data.without_test().part(which)


def test_images_in_a_black_square(tmp_path):
    x = rng.integers(1, 256, (5, 8, 7, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x[:2], train_labels=np.arange(5))
    padded = ef.data.load(tmp_path / "x.npz", pad=11)
    assert padded.shape == (11, 11, 3) and np.array_equal(padded.train_labels, np.arange(5))
    assert np.array_equal(padded.train[:, 1:9, 2:9], x) and np.array_equal(padded.test, padded.train[:2])
    assert padded.train.sum() == x.sum(dtype=np.uint64)
    outside = ef.data.Dataset(rows.Picked(x, np.arange(5)), kind="image").padded(11).train
    assert isinstance(outside, Rows) and outside.dtype == np.uint8
    assert np.array_equal(outside[[3, 0]], padded.train[[3, 0]]) and np.array_equal(outside[1:3], padded.train[1:3])
    assert np.array_equal(padded.padded(11).train, padded.train)
    with pytest.raises(ef.ShapeError):
        ef.data.load(tmp_path / "x.npz", pad=7)
    with pytest.raises(ef.ConfigError):
        ef.data.load("two-moons", pad=8)


# IDX

@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_folder(tmp_path, ending):
    """Labels and a test part may be missing, images to train on may not."""
    images, labels = rng.integers(0, 256, (5, 3, 4), np.uint8), np.arange(5, dtype=np.uint8)
    write = gzip.compress if ending else bytes

    def add(name, array):
        (tmp_path / f"{name}-ubyte{ending}").write_bytes(write(idx(array)))

    add("t10k-images-idx3", images[:2])
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path)
    add("train-images-idx3", images)
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train[..., 0], images) and np.array_equal(data.test[..., 0], images[:2])
    assert data.train_labels is data.test_labels is None and data.classes == []
    add("train-labels-idx1", labels)
    add("t10k-labels-idx1", labels[:2])
    data = ef.data.load(tmp_path)
    assert np.array_equal(data.train_labels, labels) and np.array_equal(data.test_labels, [0, 1])
    single = ef.data.load(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert np.array_equal(single.train, data.train) and single.test is None


GOOD = idx(np.zeros((2, 3, 4), np.uint8))


@pytest.mark.parametrize("content", [
    b"", b"\x89PNG\r\n\x1a\n" + GOOD, b"\0\0\x07\x03" + GOOD[4:], GOOD[:9], GOOD[:-1], GOOD + b"\0",
    b"\0\0\x08\x03" + b"\xff" * 12])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_broken_idx(tmp_path, content, ending):
    path = tmp_path / f"x-ubyte{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    with pytest.raises(ef.IoError):
        ef.data.load(path)


# numpy's files

def test_npy_and_npz(tmp_path):
    grey, colour = rng.integers(0, 256, (6, 4, 4), np.uint8), rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    table = rng.standard_normal((7, 2))
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "table.npy", table)
    np.savez(tmp_path / "colour.npz", train=colour, test=colour[:2], train_labels=np.arange(6))
    np.savez(tmp_path / "x.npz", x=table)
    assert np.array_equal(ef.data.load(tmp_path / "grey.npy").train, grey[..., None])
    assert ef.data.load(tmp_path / "table.npy").kind == "table"
    data = ef.data.load(tmp_path / "colour.npz")
    assert data.shape == (4, 4, 3) and len(data.test) == 2 and data.test_labels is None
    assert np.array_equal(ef.data.load(tmp_path / "x.npz").train, table)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("content", [
    lambda p: np.save(p, np.array([Bomb()], object), allow_pickle=True), lambda p: p.write_bytes(pickle.dumps(Bomb())),
    lambda p: p.write_bytes(b""), lambda p: (np.save(p, np.zeros((9, 3))), p.write_bytes(p.read_bytes()[:-8])),
    lambda p: (np.save(p, np.zeros((9, 3))), p.write_bytes(p.read_bytes().replace(b"}", b" "))),
    lambda p: (np.savez(f"{p}.npz", x=np.zeros((9, 3))), os.rename(f"{p}.npz", p)),
    lambda p: np.save(p, np.zeros((9, 3, 3), np.int64)), lambda p: np.save(p, np.zeros((9, 3), bool)),
    lambda p: np.save(p, np.zeros((9, 3), np.uint8)), lambda p: np.save(p, np.zeros(9)),
    lambda p: np.save(p, np.zeros((0, 3)))])
def test_broken_npy(tmp_path, content):
    path = tmp_path / "x.npy"
    content(path)
    with pytest.raises(ef.IoError):
        ef.data.load(path)


@pytest.mark.parametrize("arrays", [
    dict(y=np.zeros((3, 2))), dict(train=np.zeros((3, 2)), test=np.zeros((3, 4))),
    dict(train=np.zeros((3, 2)), train_labels=np.zeros(4, int)),
    dict(train=np.zeros((3, 2)), labels=np.array([0, -1, 2])), dict(train=np.array([{}, {}], object))])
def test_broken_npz(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ef.IoError):
        ef.data.load(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["test", "train", "train_context"])
def test_a_value_that_is_not_finite_is_found_as_the_file_is_read(tmp_path, name):
    parts = {part: rng.standard_normal((9, 2)) for part in ("train", "test", "train_context", "test_context")}
    parts[name][7, 1] = np.nan
    np.savez(tmp_path / "x.npz", **parts)
    with raises(ef.IoError, row=7, column=1):
        ef.data.load(tmp_path / "x.npz")


# Large arrays

@pytest.fixture
def small_memory(monkeypatch):
    """Arrays of more than 100 bytes count as large."""
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 100)


def test_whole_numbers_in_a_large_file(tmp_path, small_memory):
    x = rng.integers(-50, 50, (60, 3))
    np.save(tmp_path / "x.npy", x)
    outside = ef.data.load(tmp_path / "x.npy").train
    assert isinstance(outside, np.memmap) and outside.dtype == np.int64
    flow = ef.CouplingFlow(3)
    flow.fit(outside, steps=3, batch_size=20)
    assert np.array_equal(flow.log_prob(outside), flow.log_prob(x))


def test_large_arrays_stay_in_their_files(tmp_path, small_memory):
    table, grey = rng.standard_normal((50, 3)).astype(np.float32), rng.integers(0, 256, (30, 4, 4), np.uint8)
    np.save(tmp_path / "t.npy", table)
    one = ef.data.load(tmp_path / "t.npy").train
    assert isinstance(one, np.memmap) and np.array_equal(one, table)
    (tmp_path / "folder").mkdir()
    unread = np.array([None])
    for name, array in dict(train=grey, test=grey[:9], labels=np.arange(30) % 3, names=unread).items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    many = ef.data.load(tmp_path / "folder")
    assert isinstance(many.train, np.memmap) and np.array_equal(many.train[[7, 3]], grey[[7, 3], ..., None])
    assert np.array_equal(many.test, grey[:9, ..., None]) and many.classes == ["0", "1", "2"]


def test_split_of_a_file_keeps_no_numbers(tmp_path, small_memory):
    table = rng.standard_normal((50, 3))
    np.save(tmp_path / "x.npy", table)
    np.save(tmp_path / "labels.npy", np.arange(50))
    part = ef.data.load(tmp_path).split(0.2)
    assert isinstance(part.train.index, rows.Order) and len(part.test) == 10
    assert np.array_equal(part.train[:], table[part.train_labels])
    assert np.array_equal(np.sort(np.concatenate([part.train_labels, part.test_labels])), np.arange(50))
    flow = ef.CouplingFlow(3, couplings=2, hidden=(8,))
    flow.fit(part.train, valid=part.test, batch_size=8, epochs=2)


@pytest.mark.parametrize("held_out", ["val_data", "test_data"])
def test_imagenet_batches(tmp_path, held_out):
    planes = rng.integers(0, 256, (10, 3 * 64), np.uint8)
    for k, name in enumerate(["train_data_batch_1", "train_data_batch_2", "train_data_batch_10"]):
        np.savez(tmp_path / f"{name}.npz", data=planes[3 * k:3 * k + 3], labels=np.arange(3) + 3 * k + 1,
                 mean=np.zeros(192))
    np.savez(tmp_path / f"{held_out}.npz", data=planes[9:], labels=np.array([12]))
    data = ef.data.load(tmp_path)
    images = planes.reshape(10, 3, 8, 8).transpose(0, 2, 3, 1)
    assert np.array_equal(data.train, images[:9]) and np.array_equal(data.test, images[9:])
    assert np.array_equal(data.train_labels, np.arange(9)) and np.array_equal(data.test_labels, [11])
    assert len(data.classes) == 12
    for arrays in (dict(data=planes[:, :12], labels=np.arange(10)), dict(data=planes[:, :12], labels=np.arange(10) + 1),
                   dict(data=planes[:, :13]), dict(data=planes), dict(x=images, test=images)):
        np.savez(tmp_path / "train_data_batch_3.npz", **arrays)
        with pytest.raises(ef.IoError):
            ef.data.load(tmp_path)
