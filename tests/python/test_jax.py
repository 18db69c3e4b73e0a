"""Flows as functions of JAX, beside the flows themselves."""

import copy
import gc

import numpy as np
import pytest
from raised import raises

import evenflow as ef

jax = pytest.importorskip("jax")

import evenflow.jax  # noqa: E402

jnp = jax.numpy


@pytest.fixture(params=[0, 3], ids=["plain", "context"])
def trained(request):
    """A flow away from the identity, its rows, latents and keywords."""
    rng = np.random.default_rng(1)
    context = {"context": rng.normal(size=(40, 3)).astype(np.float32)} if request.param else {}
    flow = ef.CouplingFlow(4, context=request.param, couplings=4, hidden=(16,))
    x = rng.normal(size=(40, 4)).astype(np.float32)
    flow.init(x, **context)
    optimizer = ef.Adam(flow, lr=1e-2)
    for step in range(20):
        flow.train_step(x, optimizer, seed=step, **context)
    return flow, x, flow.encode(x, **context), context


def test_values_and_gradients_are_the_flows(trained):
    flow, x, z, context = trained
    log_prob, forward, inverse = evenflow.jax.functions(flow)
    given = tuple(context.values())
    np.testing.assert_array_equal(jax.jit(log_prob)(x, *given), flow.log_prob(x, **context).astype(np.float32))
    for function, method, source in ((forward, flow.forward, x), (inverse, flow.inverse, z)):
        for got, expected in zip(jax.jit(function)(source, *given), method(source, **context)):
            np.testing.assert_array_equal(got, expected.astype(np.float32))

    dcontext = np.zeros_like(given[0]) if given else None
    _, grad = flow.log_prob_and_grad(x, **context, dcontext=dcontext)
    expected = (grad, dcontext)[:1 + len(given)]
    which = tuple(range(len(expected)))
    for got, want in zip(jax.jit(jax.grad(lambda *a: log_prob(*a).sum(), which))(x, *given), expected):
        np.testing.assert_allclose(got, want, rtol=1e-6)

    weights = np.arange(40, dtype=np.float32)
    weighted = jax.grad(lambda *a: (weights * log_prob(*a)).sum())(x, *given)
    np.testing.assert_allclose(weighted, weights[:, None] * expected[0], rtol=1e-6)

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(40, 4)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    other, before = copy.deepcopy(flow), flow.grads.copy()
    for function, backward, source, name in ((forward, other.backward, x, "truth"),
                                             (inverse, other.inverse_backward, z, "z")):
        dcontext = np.zeros_like(given[0]) if given else None
        real = {name: np.asarray(source, np.float32)}
        _, grad = backward(function(source, *given)[0], a, b, **context, **real, dcontext=dcontext)
        _, pull = jax.vjp(function, source, *given)
        for got, want in zip(pull((jnp.asarray(a), jnp.asarray(b))), (grad, dcontext)):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(flow.grads, before)


def test_batch_axes(trained):
    """One row, no row, more axes, vmap over each argument, scan."""
    flow, x, _, context = trained
    log_prob, forward, _ = evenflow.jax.functions(flow)
    given = tuple(context.values())
    expected = np.asarray(log_prob(x, *given))
    np.testing.assert_array_equal(log_prob(x[3], *(c[3] for c in given)), expected[3])
    assert log_prob(x[:0], *(c[:0] for c in given)).shape == (0,)
    folded = log_prob(x.reshape(5, 8, 4), *(c.reshape(5, 8, 3) for c in given))
    np.testing.assert_array_equal(folded, expected.reshape(5, 8))
    np.testing.assert_array_equal(jax.vmap(log_prob)(x, *given), expected)
    single = jax.vmap(jax.grad(log_prob))(x, *given)
    whole = jax.grad(lambda *a: log_prob(*a).sum())(x, *given)
    np.testing.assert_array_equal(single, whole)
    one = tuple(c[0] for c in given)
    np.testing.assert_array_equal(jax.vmap(lambda row: log_prob(row, *one))(x), log_prob(x, *one))
    _, scores = jax.lax.scan(lambda carry, row: (carry, log_prob(row, *one)), 0, x)
    np.testing.assert_array_equal(scores, log_prob(x, *one))
    assert forward(x, *given)[1].shape == (40,)


def test_the_functions_keep_the_flow_of_their_time(trained):
    flow, x, _, context = trained
    log_prob = evenflow.jax.functions(flow).log_prob
    before = log_prob(x, *context.values())
    flow.train_step(x, ef.Adam(flow, lr=1e-2), seed=0, **context)
    np.testing.assert_array_equal(log_prob(x, *context.values()), before)


def test_errors(trained):
    flow, x, _, context = trained
    log_prob = evenflow.jax.functions(flow).log_prob
    given = tuple(context.values())
    bad = x.copy()
    bad[7, 2] = np.nan
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(log_prob(bad, *given))
    with raises(ef.ShapeError, argument="x"):
        log_prob(x[:, :3], *given)
    with raises(ef.ConfigError, argument="context"):
        log_prob(x, *(() if given else (x,)))
    with raises(ef.ConfigError, argument="flow"):
        evenflow.jax.functions(ef.CouplingFlow(2, dtype="float64"))


def test_a_compiled_program_keeps_its_flow(trained):
    flow, x, _, context = trained
    given = tuple(context.values())
    compiled = jax.jit(evenflow.jax.functions(flow).log_prob).lower(x, *given).compile()
    jax.clear_caches()
    gc.collect()
    np.testing.assert_array_equal(compiled(x, *given), flow.log_prob(x, **context).astype(np.float32))


def test_images():
    flow = ef.Glow((4, 4, 1), levels=1, steps=2, hidden=8)
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
    flow.init(x)
    log_prob, forward, inverse = evenflow.jax.functions(flow)
    floats = x.astype(np.float32) + 0.5
    np.testing.assert_array_equal(jax.jit(log_prob)(floats), flow.log_prob(floats).astype(np.float32))
    np.testing.assert_allclose(inverse(forward(floats)[0])[0], floats, rtol=1e-4)
    assert jax.grad(log_prob)(floats[0]).shape == (4, 4, 1)
