"""States of a flow and its optimisers: dictionaries, files in memory, copies of subclasses, and a new start."""

import copy
import io
import json
import pickle
import threading

import numpy as np
import pytest
from parameters import assert_same, values
from plain import plain_table
import evenflow as ef
from evenflow import _core

OPTIMIZERS = {"adam": lambda flow: ef.Adam(flow, lr=1e-2, weight_decay=1e-3),
              "adamw": lambda flow: ef.AdamW(flow, lr=1e-2),
              "adamax": lambda flow: ef.Adamax(flow, lr=1e-2, shrink=0.999),
              "sgd": lambda flow: ef.SGD(flow, lr=1e-4, momentum=0.9),
              "rmsprop": lambda flow: ef.RMSProp(flow, lr=1e-3)}


# Dictionaries

@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_goes_on_to_the_same_bits(images, glow, name):
    """Noise, running statistics and moments are all in the states."""
    x, flow = images[0], glow(dtype="float64")
    flow.init(x)
    optimizer = OPTIMIZERS[name](flow)
    for step in range(6):
        if step == 3:
            saved = pickle.dumps((flow.state_dict(), optimizer.state_dict()))
            optimizer.lr /= 2
        flow.train_step(x[8 * step:8 * step + 8], optimizer)

    again = glow(dtype="float64", seed=9)
    state, of_optimizer = pickle.loads(saved)
    again.load_state_dict(state)
    other = OPTIMIZERS[name](again)
    other.load_state_dict(of_optimizer)
    assert other.steps == 3 and other.lr == 2 * optimizer.lr
    other.lr /= 2
    for step in range(3, 6):
        again.train_step(x[8 * step:8 * step + 8], other)
    assert_same(again, flow)
    assert other.steps == optimizer.steps and other.lr == optimizer.lr
    assert all(np.array_equal(a, b) for a, b in zip(other.moments(), optimizer.moments()))


def test_a_state_is_a_copy_of_all_tensors(table, real_nvp):
    flow = real_nvp(batch_norm=True)
    assert not flow.state_dict()["initialized"].any()
    flow.init(table)
    flow.loss_and_grad(table)
    state = flow.state_dict()
    assert state.keys() == {*flow.named_parameters(), "calls"} and int(state["calls"]) == 1
    before = values(flow)
    for value in state.values():
        value[...] += 1
    assert_same(flow, before)
    fresh = real_nvp(batch_norm=True, seed=3)
    fresh.load_state_dict(flow.state_dict())
    assert fresh.initialized and np.array_equal(fresh.log_prob(table), flow.log_prob(table))
    fresh.load_state_dict({name: value.tolist() for name, value in flow.state_dict().items()})  # as JSON has them
    assert_same(fresh, flow)
    wide = real_nvp(batch_norm=True, dtype="float64")
    wide.load_state_dict(flow.state_dict())
    np.testing.assert_allclose(wide.log_prob(table), flow.log_prob(table), rtol=1e-3)


@pytest.mark.parametrize("spoil, error", [
    (lambda s: s.pop("coupling1.dense0.bias"), ef.ShapeError), (lambda s: s.update(more=np.zeros(3)), ef.ShapeError),
    (lambda s: s.update({"coupling1.dense0.bias": np.zeros(9)}), ef.ShapeError),
    (lambda s: s.update({"coupling1.dense0.bias": np.full(8, np.nan)}), ef.NumericError),
    (lambda s: s.update({"coupling1.dense0.bias": np.full(8, 1e60)}), ef.NumericError),
    (lambda s: s.update({"coupling1.dense0.bias": ["a"] * 8}), TypeError),
    (lambda s: s.update({"permutation1.permutation": np.zeros(3)}), ef.NumericError),
    (lambda s: s.update(calls=-1), ef.ConfigError), (lambda s: s.update(calls=1.5), TypeError)])
def test_states_that_are_refused_change_nothing(table, real_nvp, spoil, error):
    flow = real_nvp(permutation="shuffle")
    flow.init(table)
    before = pickle.dumps(flow.state_dict())
    state = {name: value + 1 if value.size and "permutation" not in name else value
             for name, value in flow.state_dict().items()}
    spoil(state)
    with pytest.raises(error):
        flow.load_state_dict(state)
    assert pickle.dumps(flow.state_dict()) == before


def test_a_loop_of_ones_own_resumes_exactly(glow, images):
    """From a model file and the states of the optimiser and of the average; the noise goes on, too."""
    x = images[0]

    def steps(flow, optimizer, average, n):
        for _ in range(n):
            flow.train_step(x, optimizer, average=average)

    flow = glow()
    flow.init(x)
    optimizer, average = ef.Adam(flow), ef.MovingAverage(flow, 0.9)
    steps(flow, optimizer, average, 2)
    flow.save(file := io.BytesIO())
    kept = optimizer.state_dict(), average.state_dict()
    steps(flow, optimizer, average, 2)
    again = ef.load(file.getvalue())
    parts = ef.Adam(again), ef.MovingAverage(again, 0.9)
    for part, state in zip(parts, kept):
        part.load_state_dict(state)
    steps(again, *parts, 2)
    assert np.array_equal(again.params, flow.params) and np.array_equal(parts[1].average, average.average)
    with pytest.raises(ef.ConfigError):
        parts[1].load_state_dict(kept[0])


# A new start

@pytest.mark.parametrize("make, orders", [
    (lambda **s: plain_table(32, couplings=4, hidden=(8,), permutation="shuffle", batch_norm=True, **s), 3),
    (lambda **s: plain_table(32, couplings=2, hidden=(8,), permutation="lu", actnorm=True, **s), 0),
    (lambda **s: ef.NICE((4, 4, 2), couplings=2, hidden=(8,), permutation="shuffle", preprocess="standardize", **s), 3),
    (lambda **s: ef.Glow((4, 4, 2), levels=2, steps=2, hidden=8, permutation="shuffle", **s), 4),
    (lambda **s: ef.Glow((4, 4, 2), levels=2, steps=2, hidden=8, **s), 0),
    (lambda **s: ef.RealNVP((4, 4, 2), levels=2, base_dim=4, residual_blocks=1, **s), 0)])
def test_reset(images, make, orders):
    """Weights of a new model of that seed; shuffled orders stay."""
    x, flow = images[0], make(seed=1)
    x = x if flow.is_image else x.reshape(64, 32).astype(float)
    flow.fit(x, epochs=1, batch_size=32)
    flow.loss_and_grad(x)
    start = make(seed=1)
    kept = {name: value for name, value in values(start).items()
            if name.endswith(".permutation") and orders}
    assert len(kept) == orders
    flow.reset(7)
    assert not flow.initialized and not flow.grads.any() and int(flow.state_dict()["calls"]) == 0
    assert_same(flow, {**values(make(seed=7)), **kept})
    with pytest.raises(ef.ConfigError):
        flow.log_prob(x)
    flow.init(x)
    assert np.isfinite(flow.log_prob(x)).all() and flow.config["seed"] == 1
    flow.reset(1)
    assert_same(flow, start)
    flow.reset(7)
    one = flow.fit(x, epochs=1, batch_size=32)
    flow.reset(7)
    assert flow.fit(x, epochs=1, batch_size=32)[0]["loss"] == one[0]["loss"]


# Files in memory

def test_files_in_memory(tmp_path, table, table_model):
    path, file = tmp_path / "m.safetensors", io.BytesIO()
    table_model.save(path)
    table_model.save(file)
    written = path.read_bytes()
    assert file.getvalue() == written
    with open(tmp_path / "other", "wb") as other:
        other.write(b"before")
        table_model.save(other)
    assert (tmp_path / "other").read_bytes() == b"before" + written
    wanted = table_model.log_prob(table)
    with open(path, "rb") as opened:
        for source in (written, bytearray(written), memoryview(written), io.BytesIO(written), opened, path, str(path)):
            flow = ef.load(source)
            assert type(flow) is ef.CouplingFlow and np.array_equal(flow.log_prob(table), wanted)
    assert np.array_equal(ef.load(written, device="cpu", threads=1).log_prob(table), wanted)
    with pytest.raises(TypeError):
        ef.load(written, "cpu")


def test_bad_files_in_memory(tmp_path, table_model):
    table_model.save(file := io.BytesIO())
    good = file.getvalue()
    for source in (b"", good[:-4], io.BytesIO(b"hello")):
        with pytest.raises(ef.IoError):
            ef.load(source)
    with pytest.raises(TypeError):
        ef.load(io.StringIO("model.safetensors"))
    table_model.named_parameters()["coupling1.dense0.bias"][2] = np.nan
    with pytest.raises(ef.NumericError):
        table_model.save(file := io.BytesIO())
    assert not file.getvalue()


@pytest.mark.parametrize("columns, settings, wanted", [
    (3, {}, ("lu-shuffle", "logistic", "standardize")), (257, {}, ("shuffle", "gaussian", "standardize")),
    (1, {}, ("none", "gaussian", "standardize")), (3, {"context": 2}, ("lu-shuffle", "gaussian", "standardize")),
    (3, {"base": "uniform"}, ("shuffle", "uniform", "none")), (3, {"permutation": "none"},
                                                                ("none", "gaussian", "standardize"))])
def test_auto_is_resolved_when_a_model_is_made(tmp_path, columns, settings, wanted):
    flow = ef.CouplingFlow(columns, couplings=2, hidden=(4,), **settings)
    chosen = {name: flow.config[name] for name in ("permutation", "base", "preprocess")}
    assert tuple(chosen.values()) == wanted and "auto" not in repr(flow)
    same = ef.CouplingFlow(columns, couplings=2, hidden=(4,), **{**settings, **chosen})
    assert same.config == flow.config and np.array_equal(same.params, flow.params)
    flow.save(path := tmp_path / "m.safetensors")
    tensors, metadata = _core.read_safetensors(str(path))
    assert json.loads(metadata["config"]) == flow.config
    auto = {**flow.config, **{name: "auto" for name in chosen if name not in settings}}  # as files of 0.1.0 have it
    _core.write_safetensors(str(path), tensors, {**metadata, "config": json.dumps(auto)})
    assert ef.load(path).config == flow.config


@pytest.mark.parametrize("kind", ["memory", "path"])
def test_a_file_that_is_written_during_training_is_whole(tmp_path, table, real_nvp, kind):
    flow = real_nvp(hidden=(32, 32))
    flow.init(table)
    done, failed = threading.Event(), []

    def train():
        optimizer = ef.Adam(flow, lr=1e-3)
        try:
            while not done.is_set():
                flow.train_step(table, optimizer)
        except Exception as error:
            failed.append(error)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        seen = set()
        for _ in range(40):
            place = io.BytesIO() if kind == "memory" else tmp_path / "m.safetensors"
            flow.save(place)
            again = ef.load(place.getvalue() if kind == "memory" else place)
            assert np.isfinite(again.log_prob(table)).all()
            seen.add(again.params.tobytes())
    finally:
        done.set()
        trainer.join()
    assert not failed and len(seen) > 1


# Copies

class Named(ef.CouplingFlow):
    """A flow with more to say, made by other arguments."""

    def __init__(self, note):
        super().__init__(3, couplings=2, hidden=(8,), seed=3)
        self.note, self.log = note, {"seen": [1, 2]}

    def shouted(self):
        return self.note.upper()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_copy_of_a_subclass_is_one(table, way):
    flow = Named("hello")
    flow.fit(table, epochs=1)
    flow.loss_and_grad(table)
    again = way(flow)
    assert type(again) is Named and again.shouted() == "HELLO" and again.config == flow.config
    assert again.log == flow.log and again.last_step == {} and not again.grads.any()
    assert np.array_equal(again.log_prob(table), flow.log_prob(table))
    assert again.state_dict()["calls"] == flow.state_dict()["calls"]
    again.params[:] = 0
    assert flow.params.any()
    if way is not copy.copy:
        again.log["seen"].append(3)
        assert flow.log == {"seen": [1, 2]}
