"""Batches: data that stay in files, orders and the thread that prepares them."""

import signal
import threading

import numpy as np
import pytest

import evenflow as ef
from evenflow._border.batch import Batch
from evenflow.data.augment import Augment
from evenflow.training.feed import Feed
from evenflow.data.rows import Order, Picked, Rows, group_of


class Outside(Rows):
    """Rows of an array, counted as if they came from a file."""

    def __init__(self, array, broken=()):
        self.array, self.broken, self.reads, self.threads = array, broken, [], set()
        self.shape, self.dtype = array.shape, array.dtype

    def _read(self, index):
        rows = np.arange(len(self))[index]
        self.reads.append(rows)
        self.threads.add(threading.current_thread().name)
        for row in self.broken:
            if row in rows:
                raise ef.IoError(f"[data] expected row {row}, got nothing")
        return self.array[index]


def feed(x, augment=None, labels=None, batch=7):
    return Feed(Batch(x, labels), dtype=np.dtype(np.float32), batch_size=batch, seed=5, augment=augment)


@pytest.mark.parametrize("key", [slice(None), slice(3, 17), slice(17, 3), slice(25, 99), slice(20, 2, -3),
                                 -1, 4, [5, 2, 2, -1, 12], np.arange(30) % 4 == 1, np.empty(0, int)])
def test_rows_are_those_of_the_array(key):
    a = np.arange(90, dtype=np.int64).reshape(30, 3)
    for x in (Picked(a[::-1], np.arange(29, -1, -1)), Picked(Outside(a), Order(30, 0).part(0, 30))):
        wanted = a if isinstance(x.index, np.ndarray) else a[x.index[:]]
        assert len(x) == 30 and x.ndim == 2 and x.size == 90 and x.nbytes == 720 and x.dtype == a.dtype
        found = x[key]
        assert found.dtype == a.dtype and found.shape == a[key].shape and np.array_equal(found, wanted[key])
        assert np.array_equal(np.asarray(x), wanted)


@pytest.mark.parametrize("group", [1, 4, 64])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 1000])
def test_order_is_a_permutation(n, group):
    order = Order(n, [3, 1], group)
    whole = order[:]
    assert np.array_equal(np.sort(whole), np.arange(n))
    assert np.array_equal(order[n // 3:], whole[n // 3:])
    assert np.array_equal(order[np.array([n - 1, 0, n // 2])], whole[[n - 1, 0, n // 2]])
    assert np.array_equal(order.part(n // 4, n)[:5], whole[n // 4:][:5])
    neighbours = np.diff(whole[:n // group * group].reshape(-1, group), axis=1)
    assert (neighbours == 1).all()
    if n == 1000 and group < 64:
        assert not np.array_equal(whole, Order(n, [3, 2], group)[:])
        # No trend from place to row: a rank correlation of chance size.
        assert abs(np.corrcoef(np.arange(n), whole)[0, 1]) < 4 / np.sqrt(n / group)


def test_every_row_once_an_epoch(tmp_path, monkeypatch):
    """And neighbours in the file go to different batches."""
    x = np.arange(60_000, dtype=np.float32).reshape(30_000, 2)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("evenflow._border.rows.RESIDENT_BYTES", 1000)
    batches = feed(np.load(tmp_path / "x.npy", mmap_mode="r"), labels=np.arange(30_000), batch=100)
    group = group_of(batches.data.x)
    assert group > 16
    epochs = [[batches.get(epoch, k) for k in range(300)] for epoch in range(2)]
    late = batches.get(0, 250)
    batches.close()
    for epoch in epochs:
        rows = np.concatenate([batch.batch.label for batch in epoch])
        assert np.array_equal(np.sort(rows), np.arange(30_000))
        assert np.array_equal(np.concatenate([batch.batch.x for batch in epoch]), x[rows])
        distinct = [len(np.unique(batch.batch.label // group)) for batch in epoch]
        assert np.mean(distinct[:256]) > 60
    assert np.array_equal(late.batch.label, epochs[0][250].batch.label)
    assert not np.array_equal(epochs[0][0].batch.label, epochs[1][0].batch.label)


@pytest.mark.parametrize("threads", [{"evenflow-feed_0", "MainThread"}, {"MainThread"}], ids=["thread", "none"])
def test_reading_ahead_changes_no_bit(pictures, monkeypatch, threads):
    """From any place on, after a stop too, and where the system refuses a thread."""
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    if len(threads) == 1:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    labels = np.arange(40)
    ahead = feed(Outside(pictures), Augment(shift=0.1, flip=True, rotation=15.0), labels)
    for epoch, position in ((0, 0), (0, 1), (0, 5), (1, 0), (1, 1), (1, 0), (0, 4)):
        share = ahead.get(epoch, position)
        rows = Order(40, [5, epoch])[position * 7:position * 7 + 7]
        assert np.array_equal(share.batch.label, rows) and len(share.batch) == share.size == len(rows)
        assert np.array_equal(share.batch.x, ahead.augment(pictures[rows], 5, epoch, rows))
        if position == 5:
            ahead.close()
    assert ahead.data.x.threads == threads
    ahead.close()
    assert not any("evenflow-feed" in t.name for t in threading.enumerate())


def test_augmentation_is_drawn_anew_in_every_epoch(pictures):
    augment = Augment(shift=0.5)
    batches = feed(pictures, augment, labels=np.arange(40))
    for epoch in (0, 3):
        batch = batches.get(epoch, 1)
        assert np.array_equal(batch.batch.x, augment(pictures[batch.batch.label], 5, epoch, batch.batch.label))
    batches.close()


def test_error_comes_with_its_batch(pictures):
    batches = feed(Outside(pictures, broken=[11]))
    order = Order(40, [5, 0])[:]
    bad = int(np.flatnonzero(order == 11)[0]) // 7
    for position in range(6):
        if position == bad:
            with pytest.raises(ef.IoError):
                batches.get(0, position)
        else:
            assert np.array_equal(batches.get(0, position).batch.x, pictures[order[position * 7:position * 7 + 7]])
    batches.close()


def test_nan_is_named_by_its_row_in_the_file(table, real_nvp):
    table[123, 1] = np.nan
    flow = real_nvp()
    flow.init(table[:100])
    with pytest.raises(ef.NumericError):
        flow.fit(Outside(table), batch_size=16, epochs=1)
    history = flow.fit(Outside(table), batch_size=16, epochs=2, settings=ef.Settings(on_nonfinite="skip"))
    assert [r["skipped"] for r in history] == [1, 1]


def test_nan_of_a_part_is_named_by_its_row_in_the_file(table, real_nvp):
    """Of a part of a part, in a step, in the initialisation and in validation."""
    table[123, 1] = np.nan
    odd = Picked(Outside(table), Order(200, 0).part(10, 200))
    part, clean = Picked(odd, np.arange(189, -1, -1)), table[:100]
    assert np.isnan(part[:]).any()
    flow = real_nvp()
    flow.init(clean)
    for train in (lambda: flow.fit(part, batch_size=16, epochs=1),
                  lambda: real_nvp().fit(part, steps=1),
                  lambda: flow.fit(clean, valid=part, epochs=1)):
        with pytest.raises(ef.NumericError):
            train()


def test_training_from_outside_is_training_from_memory(table, real_nvp):
    """Of the same batches; so with one batch an epoch, of all rows but in another order."""
    inside, outside = (real_nvp(dtype="float64") for _ in range(2))
    for flow, source in ((inside, np.asarray), (outside, Outside)):
        history = flow.fit(source(table), batch_size=200, epochs=5, valid=source(table[:50]), settings=ef.Settings(init_batch=200))
        assert 0 <= history[-1]["data_wait"] <= 1
    np.testing.assert_allclose(inside.params, outside.params, rtol=1e-7, atol=1e-9)


def test_resume_of_data_outside_is_exact(table, real_nvp, tmp_path):
    whole, part, path = real_nvp(), real_nvp(), tmp_path / "m.safetensors"
    whole.fit(Outside(table), steps=20, batch_size=30)
    part.fit(Outside(table), steps=9, batch_size=30, checkpoint=path)
    again = ef.load(path)
    again.fit(Picked(Outside(table), np.arange(200)), steps=20, batch_size=30, checkpoint=path, resume=True)
    assert np.array_equal(again.params, whole.params)
    with pytest.raises(ef.ConfigError):
        again.fit(Outside(table + 1), steps=30, batch_size=30, checkpoint=path, resume=True)


def test_nothing_is_read_as_a_whole(table, real_nvp, tmp_path, monkeypatch):
    monkeypatch.setattr("evenflow.data.check.MOST_ROWS", 64)
    monkeypatch.setattr("evenflow.score.SCORED_VALUES", 64 * 3)
    x = Outside(np.concatenate([table + 0.1 * i for i in range(20)]))
    flow = real_nvp()
    flow.fit(x, batch_size=32, steps=20, checkpoint=tmp_path / "m.safetensors", settings=ef.Settings(init_batch=64))
    assert max(map(len, x.reads)) <= 64


def test_closed_after_an_error_and_after_an_interrupt(pictures):
    flow = ef.NICE((6, 5, 3), hidden=(8,))

    def stop(record):
        raise ValueError("enough")

    def press(record):
        signal.raise_signal(signal.SIGINT)

    for callback, error in ((stop, ValueError), (press, KeyboardInterrupt)):
        with pytest.raises(error):
            flow.fit(Outside(pictures), batch_size=8, epochs=2, callback=callback)
        assert not any("evenflow-feed" in t.name for t in threading.enumerate())
