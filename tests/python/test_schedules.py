"""AdamW, learning rates that fall along a cosine or on a plateau, and the bar that shows a training."""

import io
import sys

import numpy as np
import pytest
from raised import raises
from fits import fit
from parameters import assert_same

import evenflow as ef


def rates(flow, x, **settings):
    """Learning rate of every step, and the records of the epochs."""
    found = []
    history = fit(flow, x, callback=lambda r: found.append(r["lr"]) if r["event"] == "step" else None, **settings)
    return found, history


# AdamW


def test_adamw_is_adam_without_decay(table, real_nvp):
    flows = [real_nvp() for _ in range(3)]
    for flow, optimizer, options in zip(flows, ("adam", "adamw", "adamw"), ({}, {"weight_decay": 0.0}, {})):
        flow.fit(table, epochs=2, optimizer=optimizer, settings=ef.Settings(optimizer_options=options))
    assert_same(flows[0], flows[1])
    assert np.abs(flows[2].params - flows[0].params).max() > 1e-4  # its decay is 0.01 unless told


def test_adamw_decays_by_the_rate_of_the_step(table_model):
    before, optimizer = table_model.params.copy(), ef.AdamW(table_model, lr=0.5, weight_decay=0.1)
    table_model.zero_grad()
    optimizer.step()
    optimizer.lr = 0.2
    optimizer.step()
    np.testing.assert_allclose(table_model.params, before * (1 - 0.05) * (1 - 0.02), rtol=1e-5)
    for bad in (dict(lr=20.0, weight_decay=0.1), dict(weight_decay=-1.0), dict(lr=-1.0)):
        with pytest.raises(ef.ConfigError):
            ef.AdamW(table_model, **bad)
    with pytest.raises(ef.ConfigError):
        optimizer.lr = 11.0
    assert optimizer.lr == 0.2
    with pytest.raises(TypeError):
        ef.AdamW(table_model, shrink=0.9)


# Schedules

def test_a_cosine():
    schedule = ef.Schedule(lr=2.0, warmup=10, floor=0.5, steps=110)
    found = [schedule.lr_at(step) for step in range(130)]
    assert found[:10] == [pytest.approx(0.2 * (k + 1)) for k in range(10)]
    assert found[10] == 2.0 and found[60] == pytest.approx(1.25) and found[110:] == [pytest.approx(0.5)] * 20
    assert found[35] == pytest.approx(0.5 + 1.5 * (1 + np.cos(np.pi / 4)) / 2)
    assert all(a > b for a, b in zip(found[10:110], found[11:]))
    assert ef.Schedule(lr=1.0, floor=3.0, steps=10).lr_at(5) == 1.0  # a floor is no rise
    with raises(ef.ConfigError, argument="steps"):
        ef.Schedule(steps=-1)


def test_a_schedule_and_a_class_in_the_place_of_names(table, real_nvp):
    schedule, seen, flows = ef.Schedule(1e-2, warmup=3, decay=0.9), [], [real_nvp(), real_nvp()]
    flows[0].fit(table, steps=8, batch_size=50, optimizer=ef.Adamax, schedule=schedule, callback=seen.append)
    assert [r["lr"] for r in seen if r["event"] == "step"] == [schedule.lr_at(step) for step in range(8)]
    flows[1].fit(table, steps=8, batch_size=50, optimizer="adamax", lr=1e-2,
                 settings=ef.Settings(warmup=3, lr_decay=0.9))
    assert_same(*flows)
    with raises(ef.ConfigError, argument="lr"):
        flows[0].fit(table, steps=1, lr=1e-3, schedule=schedule)


@pytest.mark.parametrize("length", [dict(epochs=3), dict(steps=12), dict(epochs=3, steps=99)])
def test_fit_with_a_cosine(table, real_nvp, length):
    found, history = rates(real_nvp(), table, batch_size=50, lr=1e-2, warmup=2, schedule="cosine", lr_floor=1e-3,
                           **length)
    wanted = ef.Schedule(lr=1e-2, warmup=2, floor=1e-3, steps=12)
    assert found == [wanted.lr_at(step) for step in range(12)]
    assert history[-1]["lr"] == found[-1] < 2e-3


def test_a_plateau_halves_the_rate(table, real_nvp):
    found, history = rates(real_nvp(), table[:100], valid=table[100:], epochs=25, batch_size=50, lr=0.05, warmup=0,
                           schedule="plateau", lr_patience=2, lr_floor=0.004)
    best, flat, lr, halved = np.inf, 0, 0.05, 0
    for record in history:
        assert record["lr"] == found[record["step"] - 1] == found[record["step"] - 2] == max(lr, 0.004)
        best, flat = (record["valid_loss"], 0) if record["valid_loss"] < best else (best, flat + 1)
        if flat == 2:
            lr, flat, halved = lr / 2, 0, halved + 1
    assert halved > 3


@pytest.mark.parametrize("setting, error", [
    (dict(schedule="linear"), ef.ConfigError), (dict(schedule="plateau"), ef.ConfigError),
    (dict(lr_patience=0), ef.ConfigError), (dict(lr_patience=1.5), TypeError),
    (dict(optimizer="adamw", lr=200.0), ef.ConfigError),
    (dict(optimizer="adamw", optimizer_options={"shrink": 0.5}), ef.ConfigError)])
def test_settings(table, real_nvp, setting, error):
    with pytest.raises(error):
        fit(real_nvp(), table, **setting)


@pytest.mark.parametrize("settings", [
    dict(optimizer="adamw", schedule="plateau", lr_patience=1, lr=0.05, warmup=0), dict(optimizer="adamw", warmup=5),
    dict(schedule="cosine", optimizer="sgd", lr=1e-4)], ids=lambda s: s.get("schedule", "constant"))
def test_a_stop_changes_no_bit(tmp_path, table, real_nvp, settings):
    class Stop(Exception):
        pass

    def stop(record):
        if record["event"] == "step" and record["step"] == 11:
            raise Stop

    path, whole, part = tmp_path / "m.safetensors", real_nvp(), real_nvp()
    settings = dict(settings, valid=table[150:], batch_size=50, epochs=6)
    wanted = fit(whole, table[:150], **settings)
    if settings.get("schedule") == "cosine":  # whose end is known from the start
        with pytest.raises(Stop):
            fit(part, table[:150], callback=stop, checkpoint=path, **settings)
    else:
        fit(part, table[:150], checkpoint=path, **{**settings, "epochs": 4})
    again = ef.load(path)
    got = fit(again, table[:150], checkpoint=path, resume=True, **settings)
    assert_same(again, whole)
    assert all(a[name] == b[name] for a, b in zip(got, wanted) for name in ("step", "lr", "loss", "valid_loss"))
    assert len(got) == len(wanted)


# The bar

class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("verbose, terminal, shown", [(True, False, True), (True, True, True), (None, True, True),
                                                      (None, False, False), (False, True, False)])
def test_a_bar_is_shown_to_who_looks(table, real_nvp, monkeypatch, verbose, terminal, shown):
    pytest.importorskip("tqdm")
    place, seen = Terminal() if terminal else io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", place)
    real_nvp().fit(table, valid=table[:50], batch_size=50, epochs=3, verbose=verbose, callback=seen.append)
    text = place.getvalue()
    assert len(seen) == 12 + 3 and bool(text) == shown
    if shown:
        assert ("12/12" if terminal else "step 12 of 12: ") in text and ", valid " in text


def test_a_bar_without_tqdm(table, real_nvp, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    real_nvp().fit(table, epochs=1)
    assert not sys.stderr.getvalue()
    real_nvp().fit(table, epochs=1, verbose=True)
    assert sys.stderr.getvalue().count("\n") == 3  # what is trained, and the first and the last step
    with raises(TypeError, argument="verbose"):
        real_nvp().fit(table, epochs=1, verbose="yes")
