"""Dropout inside the nets of coupling flows: masks are functions of the step's seed."""

import numpy as np
import pytest
from plain import plain_table


RATE, UNITS, ROWS = 0.3, 400, 7


def table(**settings):
    flow = plain_table(3, couplings=2, dropout=RATE, dtype="float64", **settings)
    rng = np.random.default_rng(0)
    given = {"context": rng.normal(size=(ROWS, flow.context))} if flow.context else {}
    x = rng.normal(size=(ROWS, 3))
    flow.init(x, **given)
    flow.params[:] = 0.3 * rng.normal(size=flow.params.shape)
    return flow, x, given


def gradient(flow, x, given, **options):
    flow.zero_grad()
    return flow.loss_and_grad(x, **given, **options), flow.grads.copy()


def test_a_loss_is_that_of_the_units_that_are_left():
    """With the masks that a row's gradient shows: a dropped unit gets none for the weights that read it."""
    flow, x, _ = table(net="mlp", hidden=(UNITS,), activation="tanh", law="additive")
    x = x[:1]
    loss, _ = gradient(flow, x, {}, seed=5)
    grads, values = flow.named_grads(), flow.named_parameters()
    z, shares = x[0] * 1.0, []
    standard = values["preprocess.mean"], values["preprocess.std"]
    z = (z - standard[0]) / standard[1]
    for i, (passed, changed) in enumerate([(slice(0, 2), slice(2, 3)), (slice(2, 3), slice(0, 2))]):
        of = f"coupling{i}.dense"
        mask = np.any(grads[f"{of}1.weight"] != 0, axis=1)
        shares.append(1 - mask.mean())
        hidden = np.tanh(z[passed] @ values[f"{of}0.weight"] + values[f"{of}0.bias"]) * mask / (1 - RATE)
        z[changed] += hidden @ values[f"{of}1.weight"] + values[f"{of}1.bias"]
    want = 0.5 * (z**2).sum() + 1.5 * np.log(2 * np.pi) + np.log(standard[1]).sum()
    assert loss == pytest.approx(want, rel=1e-5)  # the rate is rounded to 16 bits
    deviation = np.sqrt(RATE * (1 - RATE) / UNITS)
    assert all(abs(share - RATE) < 4 * deviation for share in shares), shares


def test_steps_have_masks_of_their_own_and_rows_too():
    flow, x, given = table(net="residual", hidden=(9, 9))
    losses = {flow.loss_and_grad(x) for _ in range(5)}
    assert len(losses) == 5
    alone = [flow.loss_and_grad(np.repeat(x[:1], n, axis=0), seed=3) for n in (1, 2, 3)]
    assert len(set(alone)) == 3


def test_nothing_else_drops_units():
    flow, x, _ = table(net="residual", hidden=(9, 9))
    whole = plain_table(3, couplings=2, dtype="float64", net="residual", hidden=(9, 9))
    whole.load_state_dict(flow.state_dict())
    np.testing.assert_allclose(flow.log_prob(x), whole.log_prob(x), rtol=1e-13)
    np.testing.assert_allclose(flow.sample(5, seed=1), whole.sample(5, seed=1), rtol=1e-12)
    for ours, theirs in zip(flow.log_prob_and_grad(x), whole.log_prob_and_grad(x)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    report = flow.verify(x)
    assert report.ok, report
