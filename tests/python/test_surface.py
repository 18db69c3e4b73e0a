"""The calls of a flow as a user meets them: order of arguments, seeds, no rows, what counts as data, names."""

import copy
import inspect
import pickle
import signal

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow import latent
from evenflow.inpaint import inpaint

ORDER = ["label", "context", "seed", "first"]


def public(kind):
    return {name: call for name, call in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def calls():
    found = {f"Flow.{name}": call for name, call in public(ef.Flow).items()}
    for name in ("reconstruct", "interpolate", "manifold", "attribute", "edit", "project"):
        found[name] = getattr(latent, name)
    return {**found, "inpaint": inpaint}


@pytest.mark.parametrize("name, call", calls().items(), ids=list(calls()))
def test_conditions_and_seeds_have_the_same_order_everywhere(name, call):
    parameters = list(inspect.signature(call).parameters.values())
    known = [p.name for p in parameters if p.name in ORDER]
    assert known == [word for word in ORDER if word in known]
    if name.startswith("Flow."):  # data by place, the rest by name
        assert all((p.kind == p.KEYWORD_ONLY) == (p.default is not p.empty) for p in parameters)
    data = sum(p.kind != p.KEYWORD_ONLY for p in parameters)
    if known and name != "Flow.reset" and name != "Flow.fit":  # valid stands beside x
        assert [p.name for p in parameters[data:data + len(known)]] == known


@pytest.fixture
def conditional(images, glow):
    """A Glow of classes that has seen `images`."""
    flow = glow(classes=3, class_weight=0.5, levels=2)
    flow.init(images[0])
    flow.params[:] += np.random.default_rng(1).normal(0, 0.02, flow.params.size).astype(np.float32)
    return flow


# Seeds

@pytest.mark.parametrize("call", ["sample", "sample_and_log_prob", "base_sample"])
def test_draws_without_a_seed_are_new_ones(table_model, call):
    def draw(n=5, **given):
        drawn = getattr(table_model, call)(n, **given)
        return drawn[0] if isinstance(drawn, tuple) else drawn

    np.random.seed(0)
    one = draw()
    np.random.seed(0)
    assert not np.array_equal(one, draw()) and not np.array_equal(one, draw(seed=None))
    seeded = draw(seed=3)
    assert np.array_equal(seeded, draw(seed=3)) and not np.array_equal(seeded, draw(seed=4))
    assert np.array_equal(seeded[:2], draw(2, seed=3))
    assert np.array_equal(seeded[2:], draw(3, seed=3, first=2))


def test_blocks_of_draws(table_model, block_of):
    whole = table_model.sample_and_log_prob(100, seed=2), table_model.base_sample(100, seed=2)
    block_of(7 * 3)
    (x, log_prob), z = table_model.sample_and_log_prob(100, seed=2), table_model.base_sample(100, seed=2)
    assert np.array_equal(x, whole[0][0]) and np.array_equal(log_prob, whole[0][1]) and np.array_equal(z, whole[1])
    assert np.array_equal(table_model.base_log_prob(z), [table_model.base_log_prob(row[None])[0] for row in z])


@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_the_base(table, base):
    flow = ef.CouplingFlow(3, couplings=3, hidden=(8,), base=base, dtype="float64")
    flow.init(table)
    z, logdet = flow.forward(table)
    np.testing.assert_allclose(flow.base_log_prob(z) + logdet, flow.log_prob(table), rtol=1e-12)
    exact = -0.5 * (z**2 + np.log(2 * np.pi)) if base == "gaussian" else -z - 2 * np.log1p(np.exp(-z))
    np.testing.assert_allclose(flow.base_log_prob(z), exact.sum(1), rtol=1e-12)
    drawn = flow.base_sample(4000, seed=5)
    assert drawn.shape == (4000, 3) and drawn.dtype == flow.dtype
    assert drawn.std() == pytest.approx(1 if base == "gaussian" else np.pi / 3**0.5, rel=0.03)
    np.testing.assert_allclose(flow.decode(drawn[:50]), flow.sample(50, seed=5), rtol=1e-10)
    np.testing.assert_allclose(flow.base_sample(9, seed=5, temperature=0.5), drawn[:9] / 2, rtol=1e-15)
    for bad, error in ((z[:, :2], ef.ShapeError), (z * np.nan, ef.NumericError)):
        with pytest.raises(error):
            flow.base_log_prob(bad)


def test_noise_of_training_calls_is_counted(images, model):
    x, other = images[0], copy.deepcopy(model)
    counted = [model.loss_and_grad(x) for _ in range(3)]
    assert len(set(counted)) == 3
    assert counted == [other.loss_and_grad(x, seed=k) for k in (1, 2, 3)]
    assert model.loss_and_grad(x, seed=9) == other.loss_and_grad(x, seed=9)  # which is not counted
    assert model.loss_and_grad(x, seed=None) == other.loss_and_grad(x, seed=4)
    model.zero_grad()
    steps = [model.train_step(x, ef.SGD(model, lr=0.0)) for _ in range(2)]
    assert steps == [other.loss_and_grad(x, seed=k) for k in (5, 6)]
    with pytest.raises(ef.ShapeError):
        model.loss_and_grad(x[:0])
    assert model.loss_and_grad(x) == other.loss_and_grad(x, seed=7)


def test_densities_repeat_their_noise(images, model):
    x = images[0]
    assert np.array_equal(model.log_prob(x), model.log_prob(x, seed=0))
    assert not np.array_equal(model.log_prob(x), model.log_prob(x, seed=1))
    assert np.array_equal(model.log_prob(x[5:], first=5), model.log_prob(x)[5:])
    value, grad = model.log_prob_and_grad(x[5:], first=5)
    wanted = model.log_prob_and_grad(x)
    assert np.array_equal(value, wanted[0][5:]) and np.array_equal(grad, wanted[1][5:])


# No rows

def test_no_rows(table_model, conditional):
    for flow, given in ((table_model, {}), (conditional, {"label": np.empty(0, int)}), (conditional, {"label": 1})):
        shape, d, kind = flow.shape, flow.dims, flow.dtype
        x, z = np.empty((0, *shape)), np.empty((0, d))
        for got, wanted in ((flow.forward(x, **given), [(0, d), (0,)]), (flow.inverse(z, **given), [(0, *shape), (0,)]),
                            (flow.log_prob_and_grad(x, **given), [(0,), (0, *shape)]),
                            (flow.sample_and_log_prob(0, **given), [(0, *shape), (0,)]),
                            (flow.backward(z, z, np.empty(0), **given), [(0, *shape), (0, *shape)]),
                            (flow.inverse_backward(x, x, np.empty(0), **given), [(0, d), (0, d)])):
            assert [part.shape for part in got] == wanted
        for got, wanted, dtype in ((flow.encode(x, **given), (0, d), kind),
                                   (flow.decode(z, **given), (0, *shape), kind),
                                   (flow.log_prob(x, **given), (0,), np.float64),
                                   (flow.bits_per_dim(x, **given), (0,), np.float64),
                                   (flow.sample(0, **given), (0, *shape), kind),
                                   (flow.base_sample(0), (0, d), kind), (flow.base_log_prob(z), (0,), np.float64),
                                   (flow.join_latent(flow.split_latent(z)), (0, d), z.dtype)):
            assert (got.shape, got.dtype) == (wanted, dtype)
        for call in (flow.init, flow.fit, flow.verify, flow.loss_and_grad):
            named = {} if call == flow.init else given
            with pytest.raises(ef.ShapeError):
                call(x, **named)
        with pytest.raises(ef.ShapeError):
            flow.train_step(x, ef.SGD(flow), **given)
    pixels = np.empty((0, 4, 4, 2), np.uint8)
    assert conditional.class_log_prob(pixels).shape == (0, 3)
    assert conditional.to_uint8(pixels * 1.0).shape == pixels.shape
    assert conditional.log_prob(pixels, label=0).shape == (0,)
    assert table_model.log_prob(np.empty((0, 3), int)).shape == (0,)


# What counts as data

def test_lists_are_data(table, real_nvp):
    rows = table.tolist()
    flow, other = real_nvp(dtype="float64"), real_nvp(dtype="float64")
    flow.init(rows)
    other.init(table)
    for call in (flow.log_prob, flow.encode, flow.bits_per_dim, flow.loss_and_grad):
        assert np.array_equal(call(rows), call(table))
    assert np.array_equal(flow.log_prob(tuple(map(tuple, rows))), other.log_prob(table))
    z = flow.encode(rows).tolist()
    assert np.array_equal(flow.decode(z), flow.decode(np.array(z)))
    flow.fit(rows, valid=rows[:50], epochs=1)
    other.fit(table, valid=table[:50], epochs=1)
    assert np.array_equal(flow.params, other.params)
    with pytest.raises(ef.ShapeError):
        flow.log_prob([])
    with pytest.raises(TypeError):
        flow.log_prob([[1.0, 2.0, 3.0], [4.0]])


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.uint32])
def test_whole_numbers_in_images_are_pixels(images, model, kind):
    x = images[0]
    assert np.array_equal(model.log_prob(x.astype(kind), seed=2), model.log_prob(x, seed=2))  # with their noise
    assert np.array_equal(model.encode(x.astype(kind)), model.encode(x))
    assert np.array_equal(model.log_prob(x[:3].tolist()), model.log_prob(x[:3]))
    assert model.loss_and_grad(x.astype(kind), seed=1) == model.loss_and_grad(x, seed=1)
    with pytest.raises(ef.ConfigError):
        model.encode(np.where(x == x.max(), 300, x.astype(kind)))


@pytest.mark.parametrize("bits", [3, 8])
def test_images_out_of_their_levels_are_refused(images, bits):
    x, top = images[0].astype(np.float32) / 256, 2**bits
    for call in ("init", "fit"):
        for bad in (x, x * 2 * top, x * top - top / 2):
            flow = ef.Glow((4, 4, 2), levels=1, steps=1, hidden=4, bits=bits)
            with raises(ef.ConfigError, argument="x"):
                getattr(flow, call)(bad)
            assert not flow.initialized
        getattr(flow, call)(x * top)
        assert flow.initialized


# Columns by name

@pytest.fixture
def frame(table):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(table, columns=["mass", "age", "size"])


@pytest.mark.parametrize("way", ["init", "fit"])
def test_columns_are_remembered(frame, table, real_nvp, tmp_path, way):
    flow = real_nvp(dtype="float64")
    assert flow.columns is None
    flow.init(frame) if way == "init" else flow.fit(frame, valid=frame[:50], epochs=1)
    plain = real_nvp(dtype="float64")
    plain.init(table) if way == "init" else plain.fit(table, valid=table[:50], epochs=1)
    wanted = plain.log_prob(table)
    assert plain.columns is None and flow.columns == ["mass", "age", "size"]
    flow.save(tmp_path / "m")
    copies = copy.copy(flow), copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))
    for other in (flow, ef.load(tmp_path / "m"), *copies):
        assert other.columns == ["mass", "age", "size"]
        assert np.array_equal(other.log_prob(frame), wanted) and np.array_equal(other.log_prob(table), wanted)
        for call in ("log_prob", "encode", "verify", "bits_per_dim", "loss_and_grad", "fit"):
            with raises(ef.ShapeError, argument="x"):
                getattr(other, call)(frame[["age", "mass", "size"]])
            with raises(ef.ShapeError, argument="x"):
                getattr(other, call)(frame.rename(columns={"age": "years"}))
    flow.columns.append("more")  # of a copy
    assert flow.columns == ["mass", "age", "size"]
    flow.init(table)
    assert flow.columns is None


def test_a_refused_call_remembers_no_columns(frame, real_nvp):
    other = frame.rename(columns={"age": "years"})
    other.iloc[3, 1] = np.nan
    flow = real_nvp()
    for call in (flow.init, flow.fit):
        with raises(ef.NumericError, argument="x", row=3, column="years"):
            call(other)
        assert flow.columns is None
    flow.init(frame)
    with pytest.raises(ef.NumericError):
        flow.init(other)
    assert flow.columns == ["mass", "age", "size"]


def test_a_context_by_name(frame, table):
    c = frame[["mass", "size"]].set_axis(["dose", "time"], axis=1) + 1
    flow = ef.CouplingFlow(3, context=2, couplings=2, hidden=(8,), dtype="float64")
    flow.init(table, context=c)
    assert flow.columns is None
    wanted = flow.log_prob(table, context=c.to_numpy())
    again = pickle.loads(pickle.dumps(flow))
    for other in (flow, again):
        assert np.array_equal(other.log_prob(table, context=c), wanted)
        with pytest.raises(ef.ShapeError):
            other.log_prob(table, context=c[["time", "dose"]])
        with pytest.raises(ef.ShapeError):
            other.sample(200, context=frame[["mass", "size"]])
        assert np.array_equal(other.sample(5, context=c.iloc[0], seed=1),
                              other.sample(5, context=c.to_numpy()[0], seed=1))
        with pytest.raises(ef.ShapeError):
            other.sample(5, context=c.iloc[0][["time", "dose"]])


def test_ctrl_c_ends_a_long_call():
    """Between two blocks of rows; all of these would take minutes."""
    flow = ef.NICE(784)
    flow.init(np.zeros((2, 784)))
    rows = np.broadcast_to(np.float32(0.1), (1_000_000, 784))

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for call in (flow.log_prob, flow.encode, lambda x: flow.sample(len(x))):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                call(rows)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_summary_says_what_the_model_is(table):
    flow = ef.CouplingFlow(3, couplings=2)
    text = flow.summary()
    assert repr(text) == str(text) and "'logistic' (auto)" in text and f"{flow.num_params:,} parameters" in text
    for name in flow.named_parameters():
        assert name.rpartition(".")[0] in text
