"""Checkpoints: exact resume, refusal of what is another training's, interrupts."""

import contextlib
import itertools
import json
import math
import os
import signal

import numpy as np
import pytest
from raised import raises
from fits import fit
from parameters import assert_same, broken_after, values

import evenflow as ef
from evenflow import _core

FULL = dict(batch_size=12, optimizer="adam", lr=3e-3, warmup=5, lr_decay=0.99, clip=50.0, average=0.9,
            accumulate=2, on_nonfinite="rollback", seed=3)


@pytest.mark.parametrize("stop", [12, 13, 17])
def test_resume_is_exact(tmp_path, images, glow, stop):
    """In the middle of an epoch (of six steps) and between two, with every part of the state in use."""
    x, valid = images[0], images[0][:20]
    whole, part, path = glow(), glow(), tmp_path / "m.safetensors"
    history = fit(whole, x, valid=valid, steps=30, **FULL)
    fit(part, x, valid=valid, steps=stop, checkpoint=path, **FULL)
    again = ef.load(path)
    assert_same(again, part)
    resumed = fit(again, x, valid=valid, steps=30, checkpoint=path, resume=True, **FULL)
    assert_same(again, whole)
    assert_same(ef.load(path), whole)

    def timeless(records):
        return [{k: v for k, v in r.items() if k not in ("seconds", "data_wait")} for r in records]

    assert timeless(resumed) == timeless(history)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_training_that_dies_between_two_files_goes_on(tmp_path, table, real_nvp, monkeypatch, written):
    """Of a state and a model, written at the start and at the end."""
    whole, part, path = real_nvp(), real_nvp(), tmp_path / "m.safetensors"
    whole.fit(table, steps=10, batch_size=20)
    write, count = _core.write_safetensors, itertools.count()

    def dies(*arguments):
        if next(count) == written:
            raise MemoryError
        write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(_core, "write_safetensors", dies)
        part.fit(table, steps=5, batch_size=20, checkpoint=path)
    again = ef.load(path) if path.exists() else real_nvp()
    again.fit(table, steps=10, batch_size=20, checkpoint=path, resume=True)
    assert_same(again, whole)


def test_rollback_goes_to_the_last_snapshot(tmp_path, table, real_nvp):
    """Of step 100, in one training as in one that was resumed after it."""
    wanted, whole, path = real_nvp(), real_nvp(), tmp_path / "m.safetensors"
    wanted.fit(table, valid=None, steps=100, batch_size=20)
    settings = dict(batch_size=20, on_nonfinite="rollback")
    fit(whole, table, steps=106, callback=broken_after(whole, 105), **settings)
    assert_same(whole, wanted)
    fit(real_nvp(), table, steps=102, checkpoint=path, **settings)
    part = ef.load(path)
    fit(part, table, steps=106, checkpoint=path, resume=True, callback=broken_after(part, 105), **settings)
    assert_same(part, wanted)


@pytest.mark.parametrize("bad", [99, 100, 101])
def test_no_snapshot_is_taken_of_values_that_fail_at_once(table, real_nvp, bad):
    """Values that an update spoilt are finite until a step tries them, be it the one that snapshots are due in."""
    flow = real_nvp()
    history = flow.fit(table, steps=150, batch_size=20, callback=broken_after(flow, bad), settings=ef.Settings(on_nonfinite="rollback"))
    assert sum(record.get("skipped", 0) for record in history) == 1
    assert np.isfinite(flow.log_prob(table)).all()


def test_a_callback_that_ends_a_training_with_an_epoch(tmp_path, table, real_nvp):
    path, whole, settings = tmp_path / "m.safetensors", real_nvp(), dict(valid=table[:20], batch_size=50, epochs=3)
    fit(whole, table, **settings)

    def stop(record):
        return record["event"] == "step" and record["step"] == 4

    fit(real_nvp(), table, callback=stop, checkpoint=path, **settings)
    again = ef.load(path)
    history = fit(again, table, checkpoint=path, resume=True, **settings)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert_same(again, whole)


def test_checkpoints_are_as_frequent_as_asked_for(tmp_path, table, real_nvp):
    seen = []

    def look(record):
        _, metadata = _core.read_safetensors(str(tmp_path / "m.state.safetensors"))
        seen.append((record["step"], int(metadata["step"])))

    fit(real_nvp(), table, steps=3, callback=look, checkpoint=tmp_path / "m.safetensors", save_every=0)
    assert seen == [(1, 0), (2, 1), (3, 2), (3, 3)]  # the last is the epoch, which ends with the training


@pytest.fixture
def overflowing(table, real_nvp):
    """Trains a flow so that every other update overflows, which its next step finds."""
    def train(flow, on_nonfinite, **more):
        return fit(flow, table - table.mean(0), batch_size=64, optimizer="sgd", lr=3e38, on_nonfinite=on_nonfinite,
                   warmup=0, clip=0.0, average=0.0, steps=4, save_every=0, **more)
    return real_nvp(preprocess="none"), train


def test_rollback_comes_before_a_checkpoint(tmp_path, overflowing):
    """One that is due after an update that overflowed waits."""
    (flow, train), path, seen = overflowing, tmp_path / "m.safetensors", []

    def watch(record):
        seen.append((bool(np.isfinite(flow.params).all()), "skipped" in record))
        assert ef.load(path).initialized

    train(flow, "rollback", checkpoint=path, callback=watch)
    assert not all(finite for finite, _ in seen) and any(skipped for _, skipped in seen)
    assert_same(ef.load(path), flow)


def test_a_checkpoint_of_an_update_that_overflowed(tmp_path, overflowing):
    """Without a rollback the next step fails, and the one before stays."""
    (flow, train), path, first = overflowing, tmp_path / "m.safetensors", {}

    def watch(record):
        first.setdefault("bytes", path.read_bytes())

    with pytest.raises(ef.NumericError):
        train(flow, "raise", checkpoint=path, callback=watch)
    assert path.read_bytes() == first["bytes"]


@pytest.mark.parametrize("option, error", [
    *((dict(save_every=value), error) for value, error in (
        (math.nan, ef.ConfigError), (-1, ef.ConfigError), (math.inf, ef.ConfigError), (True, TypeError),
        ("x", TypeError))),
    (dict(checkpoint=1.5), TypeError), (dict(checkpoint=2**31), TypeError)])
def test_a_checkpoint_that_is_none(table, real_nvp, option, error):
    flow = real_nvp()
    with pytest.raises(error):
        fit(flow, table, steps=1, **option)
    assert not flow.initialized


def test_resume_refuses_what_differs(tmp_path, table, real_nvp):
    path = tmp_path / "m.safetensors"
    real_nvp().fit(table, steps=3, checkpoint=path)
    again = dict(steps=5, checkpoint=path, resume=True)
    with raises(ef.ConfigError, argument="lr"):
        ef.load(path).fit(table, lr=0.1, **again)
    with pytest.raises(ef.ConfigError):
        ef.load(path).fit(table + 1, **again)
    with raises(ef.ConfigError, argument="couplings"):
        real_nvp(couplings=2).fit(table, **again)
    with raises(ef.ConfigError, argument="checkpoint"):
        ef.load(path).fit(table, steps=5, resume=True)
    state = tmp_path / "m.state.safetensors"
    state.write_bytes(state.read_bytes()[:-8])
    with pytest.raises(ef.IoError):
        ef.load(path).fit(table, **again)
    state.write_bytes(path.read_bytes())
    with pytest.raises(ef.IoError):
        ef.load(path).fit(table, **again)
    state.unlink()
    with raises(ef.ConfigError, argument="checkpoint"):
        ef.load(path).fit(table, **again)


def test_resume_begins_or_goes_on(tmp_path, table, real_nvp):
    """With the settings of before where none are given, whatever fit would choose by the length."""
    path, whole = tmp_path / "m.safetensors", real_nvp()
    for steps in (3, 6):
        real_nvp().fit(table, steps=steps, lr=1e-3, checkpoint=path, resume=True)
    real_nvp().fit(table, steps=9, checkpoint=path, resume=True, settings=ef.Settings())
    whole.fit(table, steps=9, lr=1e-3)
    assert_same(ef.load(path), whole)


def rewrite_progress(state, change):
    tensors, metadata = _core.read_safetensors(str(state))
    metadata["progress"] = json.dumps(change(json.loads(metadata["progress"])))
    _core.write_safetensors(str(state), tensors, metadata)


@pytest.mark.parametrize("damage", [
    dict(step="3"), dict(position=99), dict(best_loss="x"), dict(best_loss=""), dict(history=[3]), dict(history={}),
    dict(unknown=1), dict(lr_scale=float("nan")), dict(sums={"loss": 1.0}), dict(sums=3),
    dict(history=[{"loss": json.loads("[" * 400 + "]" * 400)}]),
    *({name: -1} for name in ("step", "position", "skipped", "bad_epochs", "failing"))])
def test_resume_refuses_a_damaged_state(tmp_path, table, real_nvp, damage):
    path, state = tmp_path / "m.safetensors", tmp_path / "m.state.safetensors"
    real_nvp().fit(table, steps=3, checkpoint=path)
    rewrite_progress(state, lambda progress: {**progress, **damage})
    flow = ef.load(path)
    before = values(flow)
    with pytest.raises(ef.IoError):
        flow.fit(table, steps=5, checkpoint=path, resume=True)
    assert_same(flow, before)


@pytest.mark.parametrize("name", ["facts", "progress"])
def test_resume_refuses_a_state_nested_too_deep(tmp_path, table, real_nvp, name):
    path, state = tmp_path / "m.safetensors", tmp_path / "m.state.safetensors"
    real_nvp().fit(table, steps=3, checkpoint=path)
    tensors, metadata = _core.read_safetensors(str(state))
    _core.write_safetensors(str(state), tensors, {**metadata, name: "[" * 100_000})
    with pytest.raises(ef.IoError):
        ef.load(path).fit(table, steps=5, checkpoint=path, resume=True)


@pytest.mark.parametrize("name", ["live2", "snapshot2", "live4", "live0", "snapshot0", "best"])
def test_resume_refuses_arrays_that_no_training_has(tmp_path, table, name):
    """A second moment or a count below zero, or no permutation, which is tried in the flow itself."""
    flow, path, state = ef.CouplingFlow(3, couplings=2, hidden=(4,), permutation="lu"), tmp_path / "m", tmp_path / "m.state"
    settings = dict(valid=table, batch_size=100, optimizer="adam", on_nonfinite="rollback", average=0.9)
    fit(flow, table, epochs=2, checkpoint=path, **settings)
    tensors, metadata = _core.read_safetensors(str(state))
    order = next(offset for entry, _, _, offset, _ in flow.entries() if entry == "permutation1.permutation")
    if name[-1] in "24":
        tensors[name][1] = -1
    else:
        tensors[name][order] = 7
    _core.write_safetensors(str(state), tensors, metadata)
    flow = ef.load(path)
    before = values(flow)
    with pytest.raises(ef.IoError):
        fit(flow, table, epochs=3, checkpoint=path, resume=True, **settings)
    assert_same(flow, before)


def test_resume_takes_an_average_below_zero(tmp_path, table, real_nvp):
    """Which stands where the second moments of other optimisers do."""
    path, settings = tmp_path / "m", dict(optimizer="sgd", lr=1e-4, average=0.9)
    fit(real_nvp(), table, steps=2, checkpoint=path, **settings)
    fit(ef.load(path), table, steps=3, checkpoint=path, resume=True, **settings)


def test_resume_refuses_other_data_in_a_file(tmp_path, table, real_nvp):
    """A few rows of a file are looked at, and all that stand in a page with them: here all."""
    path, kept = tmp_path / "m.safetensors", np.lib.format.open_memmap(tmp_path / "x.npy", "w+", shape=(200, 3))
    kept[:] = table
    real_nvp().fit(kept, steps=3, checkpoint=path)
    ef.load(path).fit(kept, steps=4, checkpoint=path, resume=True)
    kept[102, 1] += 1
    with pytest.raises(ef.ConfigError):
        ef.load(path).fit(kept, steps=5, checkpoint=path, resume=True)


def test_resume_refuses_half_a_pair(tmp_path, table, real_nvp):
    """The state is written first: a model may be older than its state, but not newer, nor a stranger's."""
    path, state, old = (tmp_path / n for n in ("m.safetensors", "m.state.safetensors", "old"))
    real_nvp().fit(table, steps=3, checkpoint=path)
    model3, state3 = path.read_bytes(), state.read_bytes()
    ef.load(path).fit(table, steps=4, checkpoint=path, resume=True)
    model4, again = path.read_bytes(), dict(steps=6, checkpoint=path, resume=True)
    state.write_bytes(state3)
    with pytest.raises(ef.IoError):
        ef.load(path).fit(table, **again)
    assert path.read_bytes() == model4 and state.read_bytes() == state3
    for file in (path, state):
        file.unlink()
    real_nvp().fit(table, steps=3, seed=1, checkpoint=path)
    state.write_bytes(state3)
    with pytest.raises(ef.IoError):
        ef.load(path).fit(table, **again)
    path.write_bytes(model3)
    resumed, saved = ef.load(path), ef.load(path)
    resumed.fit(table, **again)
    saved.save(old)
    path.write_bytes(old.read_bytes())
    ef.load(path).fit(table, **again)
    whole = real_nvp()
    whole.fit(table, steps=6)
    assert_same(resumed, whole)
    assert_same(ef.load(path), whole)


def test_settings_may_be_numbers_of_numpy(tmp_path, images):
    """A checkpoint can hold them, and they are the settings that Python's numbers are."""
    def train(whole, real, **more):
        flow, path = ef.NICE((4, 4, 2), hidden=(8,)), tmp_path / "m.safetensors"
        flow.fit(images[0], batch_size=whole(16), seed=whole(4), patience=whole(5), lr=real(0.125), checkpoint=path, **more, valid=images[0][:9], settings=ef.Settings(accumulate=whole(2), warmup=whole(2), init_batch=whole(20), activation_budget=whole(1000), lr_decay=real(0.5), lr_floor=real(0.0625), clip=whole(1), average=real(0.5), optimizer_options={"beta1": real(0.75), "eps": whole(1)}, augment=dict(shift=real(0.25))))
        return flow

    train(np.int64, np.float32, steps=2)
    train(np.uint16, np.float64, steps=3, resume=True)
    assert_same(train(int, float, steps=4, resume=True), ef.load(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("number, times", [(signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 1),
                                           (signal.SIGHUP, 2)])  # impatience; a terminal and its shell
def test_interrupt_saves(tmp_path, table, real_nvp, hang_up, number, times):
    flow, path = real_nvp(), tmp_path / "m.safetensors"

    def press(record):
        if record["step"] == 9 and record["event"] == "step":
            for _ in range(times):
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        flow.fit(table, steps=20, batch_size=64, checkpoint=path, callback=press)
    assert signal.getsignal(number) is before
    flow = ef.load(path)
    seen = []
    flow.fit(table, steps=20, batch_size=64, checkpoint=path, resume=True, callback=seen.append)
    assert seen[0]["step"] == 10
    whole = real_nvp()
    whole.fit(table, steps=20, batch_size=64)
    assert_same(flow, whole)


def test_a_hang_up_that_is_ignored(table, real_nvp):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        history = real_nvp().fit(table, epochs=2, callback=lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert len(history) == 2 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_checkpoint_is_not_written_over(tmp_path, table, real_nvp):
    """Neither the model nor a state that is alone; resume=True goes on, another path or no file begins anew."""
    path, state, flow = tmp_path / "m.safetensors", tmp_path / "m.state.safetensors", real_nvp()
    real_nvp().fit(table, steps=3, checkpoint=path)
    before = path.read_bytes(), state.read_bytes()
    with raises(ef.ConfigError, argument="checkpoint"):
        flow.fit(table, steps=3, checkpoint=path)
    assert not flow.initialized and before == (path.read_bytes(), state.read_bytes())
    path.unlink()
    with raises(ef.ConfigError, argument="checkpoint"):
        flow.fit(table, steps=3, checkpoint=path)
    state.unlink()
    flow.fit(table, steps=3, checkpoint=path)
    ef.load(path).fit(table, steps=4, checkpoint=path, resume=True)


def test_what_no_reader_takes_leaves_the_older_pair(tmp_path, table, real_nvp):
    flow, files = real_nvp(), {}

    def spoil(record):
        if record["event"] == "step" and record["step"] == 3:
            files.update({path: path.read_bytes() for path in tmp_path.iterdir()})
            flow.params[3] = np.inf
            return True

    with pytest.raises(ef.NumericError):
        flow.fit(table, epochs=2, checkpoint=tmp_path / "m.safetensors", callback=spoil)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_resume_remembers_the_best(tmp_path, table, real_nvp):
    """A stop after the validation loss began to grow, before the training ends by itself."""
    options = dict(valid=table[40:], batch_size=40, lr=3e-2, patience=5)
    whole, path = real_nvp(), tmp_path / "m.safetensors"
    history = fit(whole, table[:40], epochs=200, **options)
    fit(real_nvp(), table[:40], epochs=len(history) - 2, checkpoint=path, **options)
    again = ef.load(path)
    resumed = fit(again, table[:40], epochs=200, checkpoint=path, resume=True, **options)
    assert [r["valid_loss"] for r in resumed] == [r["valid_loss"] for r in history]
    assert_same(again, whole)


def test_a_length_that_is_left_out_goes_on_with_the_patience_of_before(tmp_path, table, real_nvp):
    """Which fit chooses itself where there is neither length nor patience."""
    def press(record):
        if record["step"] == 9:
            os.kill(os.getpid(), signal.SIGINT)

    for name, length, stops in (("a", {"epochs": 2}, contextlib.nullcontext()),
                                ("b", {"callback": press}, pytest.raises(KeyboardInterrupt))):
        flow, data = real_nvp(), dict(x=table[20:], valid=table[:20], checkpoint=tmp_path / name)
        with stops:
            flow.fit(**data, **length)
        assert len(flow.fit(**data, resume=True)) > 2
