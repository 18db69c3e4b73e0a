"""The same flow in two places, compared."""

import numpy as np

import evenflow as ef


def assert_alike(here, there, x, c, rtol):
    """Flows with a context c: densities, samples, every gradient by the context and the parameters, and three steps."""
    found = []
    for flow in (here, there):
        of_loss, of_density, of_inverse = (np.empty_like(c) for _ in range(3))
        flow.zero_grad()
        loss = flow.loss_and_grad(x, context=c, dcontext=of_loss)
        grads = flow.grads.copy()
        density, _ = flow.log_prob_and_grad(x, context=c, dcontext=of_density)
        flow.inverse_backward(x, x, c[:, 1], context=c, dcontext=of_inverse)
        sample = flow.sample(5, seed=2, context=c[:5])
        of_sample = flow.sample_and_log_prob(5, seed=2, context=c[:5])[1]
        z = flow.base_sample(5, seed=2)
        forward = flow.log_prob(x, context=c)
        step = [flow.train_step(x, optimizer, context=c) for optimizer in [ef.Adam(flow, lr=1e-3)] for _ in range(3)]
        draws = sample, of_sample, z, flow.base_log_prob(z)
        found.append((density, forward, *draws, loss, grads, of_loss, of_density, of_inverse, step))
    for mine, theirs in zip(*found):
        np.testing.assert_allclose(theirs, mine, rtol=rtol, atol=0.1 * rtol * np.abs(mine).max())


def assert_a_step_is_its_parts(one, other, x, c):
    """Two flows of the same bits: steps of one, and of the other gradients and an optimiser's steps."""
    steps, parts = ef.Adam(one, lr=1e-3), ef.Adam(other, lr=1e-3)
    for _ in range(3):
        loss = one.train_step(x, steps, context=c)
        other.zero_grad()
        assert other.loss_and_grad(x, context=c) == loss
        parts.step()
    assert np.array_equal(one.params, other.params)
