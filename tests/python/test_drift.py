"""The guard against drift, in the units that a flow's layers meet the data in; and steps that have no moments."""

import numpy as np
import pytest
from raised import raises

import evenflow as ef
from evenflow.verify import float64_copy
from plain import plain_table


def shrinking(offset=0.0, scale=1.0, **settings):
    """A Real NVP in float32 that loses a batch on the way back, in float64 too, and data in some units."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    x[:, 0] += offset
    flow = plain_table(6, couplings=30, hidden=(32,), **settings)
    flow.init((scale * x).astype(np.float32))
    flow.params[:] += np.random.default_rng(1).normal(0, 0.06, flow.params.size)
    return flow, float64_copy(flow), (scale * x).astype(np.float32)


def distance(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("units", [dict(), dict(offset=5e4), dict(scale=1e-6), dict(scale=1e6)], ids=str)
@pytest.mark.parametrize("preprocess", ["standardize", "whiten"])
def test_units_do_not_blind_the_guard(units, preprocess):
    """A column beside which the others' errors are small, or units in which all are."""
    flow, exact, x = shrinking(**units, preprocess=preprocess)
    flow.loss_and_grad(x, activation_budget=0)
    exact.loss_and_grad(x.astype(np.float64))
    assert flow.last_step["fallback"] and flow.last_step["drift"] > 1e-3
    assert distance(flow.grads, exact.grads) < 1e-3


@pytest.mark.parametrize("mask", ["halves", "odd-even"])
def test_a_spline_too_flat_to_invert_trains_from_the_real_inputs(mask):
    """A wide bin of little height between steep knots has slopes of 1e-8, far rows make such numbers: float32 gives no
    input back, and a step takes the real one."""
    x = np.repeat(np.linspace(-1, 1, 64)[:, None], 3, axis=1).astype(np.float32)
    found = {}
    for dtype in ("float32", "float64"):
        flow = plain_table(3, law="spline", bins=3, bound=4.0, couplings=1, hidden=(), preprocess="none", mask=mask,
                           dtype=dtype)
        flow.init(x)
        parameters = flow.named_parameters()
        parameters["coupling0.dense0.weight"][:] = 0
        bias = parameters["coupling0.dense0.bias"]
        bias[:] = np.repeat([-9, 9, -9, 9, -9, 9, 99, 99], len(bias) // 8)
        flow.loss_and_grad(x)
        found[dtype] = flow.last_step["fallback"], flow.grads.astype(np.float64)
    assert found["float32"][0] and not found["float64"][0]
    assert distance(found["float32"][1], found["float64"][1]) < 1e-3


def test_backward_with_the_truth():
    flow, exact, x = shrinking(offset=5e4)
    for model, truth in ((flow, x), (exact, x.astype(float))):
        z, logdet = model.forward(truth)
        model.zero_grad()
        model.backward(z, z, logdet, truth=truth)
    z, logdet = flow.forward(x)
    assert distance(flow.grads, exact.grads) < 1e-3
    flow.zero_grad()
    flow.backward(z, z, logdet)
    assert distance(flow.grads, exact.grads) > 1e-2
    with pytest.raises(ef.NumericError):
        flow.backward(1.1 * z, z, logdet, truth=x)  # latents of other parameters
    sound = plain_table(6, couplings=2, hidden=(8,))
    sound.init(x)
    z, logdet = sound.forward(x)
    for watched, alone in zip(sound.backward(z, z, logdet, truth=x), sound.backward(z, z, logdet)):
        assert np.array_equal(watched, alone)
    with pytest.raises(ef.ShapeError):
        sound.backward(z, z, logdet, truth=x[:, :3])


def steep_spline(dtype="float32", threads=0):
    """A flow of splines that makes volumes up to 1e10 times smaller: float32 loses the latents."""
    flow = ef.CouplingFlow(5, couplings=12, bins=8, hidden=(32, 32), preprocess="none", dtype=dtype, threads=threads)
    flow.init(np.random.default_rng(0).standard_normal((200, 5)))
    flow.params[:] += np.random.default_rng(1).normal(0, 0.06, flow.params.size).astype(np.float32)
    return flow


def test_samples_have_gradients_where_they_lose_their_latents():
    """Given the latents, a loss of samples has the gradient that it has in float64."""
    flow, exact = steep_spline(), steep_spline("float64")
    z = flow.base_sample(600, seed=0)
    found = []
    for model in (flow, exact):
        x, logdet = model.inverse(z.astype(model.dtype))
        _, dz = model.inverse_backward(x, np.cos(x), np.sin(logdet), z=z)
        found.append((dz, model.grads.copy()))
    for got, want in zip(*found):
        assert distance(got, want) < 1e-3
    x, logdet = flow.inverse(z)
    rebuilt, dz = flow.inverse_backward(x, np.cos(x), np.sin(logdet))
    assert np.abs(rebuilt - z).max() > 1e-2 and distance(dz, found[1][0]) > 1e-3
    before = flow.grads.copy()
    far = np.concatenate([50 * z[:1], z[1:]])  # beside whose sample the others are small
    x, logdet = flow.inverse(far)
    for wrong in (far + 0.1, far[::-1], np.concatenate([far[:1], far[:0:-1]])):
        with pytest.raises(ef.NumericError):
            flow.inverse_backward(x, x, logdet, z=wrong)
    assert np.array_equal(flow.grads, before)
    with raises(ef.ShapeError, argument="z"):
        flow.inverse_backward(x, x, logdet, z=z[1:])


def test_gradients_do_not_depend_on_threads():
    """Nor, by inputs, on the rows beside: a batch of several tiles, and a part of it."""
    found = []
    for threads in (1, 2):
        flow = ef.CouplingFlow(5, couplings=4, hidden=(64, 64), threads=threads)
        x = np.random.default_rng(0).standard_normal((700, 5)).astype(np.float32)
        flow.init(x)
        flow.params[:] += np.random.default_rng(1).normal(0, 0.1, flow.params.size).astype(np.float32)
        z, logdet = flow.forward(x)
        results = [*flow.log_prob_and_grad(x), *flow.backward(z, z, logdet, truth=x), *flow.backward(z, z, logdet),
                   *flow.inverse_backward(x, x, logdet)]
        samples, det = flow.inverse(z)
        results += [*flow.inverse_backward(samples, x, det, z=z), flow.grads.copy()]
        found.append(results)
    for one, two in zip(*found):
        assert np.array_equal(one, two)
    for whole, part in zip(flow.log_prob_and_grad(x), flow.log_prob_and_grad(x[100:230])):
        assert np.array_equal(whole[100:230], part)


def test_far_values_are_named():
    x = np.random.default_rng(0).normal(size=(2000, 2))
    x[::200, 0] = 1e9
    flow = plain_table(2, couplings=2, hidden=(8,))
    with pytest.raises(ef.NumericError), pytest.warns(ef.DataWarning):
        flow.fit(x, epochs=3)
    for far in (2e30, 1e-24):
        with pytest.raises(ef.NumericError):
            plain_table(2).init(np.random.default_rng(0).normal(size=(100, 2)) * [far, 1])


def test_batch_norm_wants_two_rows():
    x = np.random.default_rng(0).normal(size=(50, 3))
    flow = plain_table(3, couplings=2, hidden=(8,), batch_norm=True)
    flow.init(x)
    before, optimizer = flow.named_parameters()["batch_norm0.var"].copy(), ef.Adam(flow)
    for call in (lambda: flow.loss_and_grad(x[:1]), lambda: flow.train_step(x[:1], optimizer)):
        with pytest.raises(ef.ShapeError):
            call()
    assert np.array_equal(flow.named_parameters()["batch_norm0.var"], before)
    flow.train_step(x[:2], optimizer)
    flow.log_prob(x[:1])


@pytest.mark.slow
def test_whitening_sees_enough_rows():
    """A covariance of few rows costs about D (D + 3) / 4M nats a row."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 300)).astype(np.float32)
    flow = plain_table(300, couplings=1, hidden=(2,), preprocess="whiten")
    flow.fit(x[:-1000], steps=1, batch_size=64, lr=0.0)
    entropy = 150 * np.log(2 * np.pi * np.e)
    assert -flow.log_prob(x[-1000:]).mean() < entropy + 4  # of 64 rows a column 1.2 more; of a million values 6.7
