"""Moving averages of a model's values."""

import numpy as np
import pytest
from parameters import assert_same, values

import evenflow as ef


@pytest.mark.any_device
@pytest.mark.parametrize("zero_debias", [False, True])
def test_moving_average(table, real_nvp, zero_debias, device):
    flow = real_nvp(dtype="float64", permutation="shuffle", device=device)
    flow.init(table)
    average, decay = ef.MovingAverage(flow, 0.8, zero_debias=zero_debias), 0.8
    wanted = np.zeros_like(flow.params) if zero_debias else flow.params.copy()
    optimizer, shared = ef.Adam(flow, lr=1e-2), average.average
    for _ in range(5):
        flow.zero_grad()
        flow.loss_and_grad(table)
        optimizer.step()
        average.update()
        wanted = decay * wanted + (1 - decay) * flow.params
    assert np.array_equal(shared, average.average)  # one array, of kernels and the program
    wanted /= (1 - decay**5) if zero_debias else 1
    own = values(flow)
    with average.applied():
        np.testing.assert_allclose(flow.params, wanted, rtol=1e-12, atol=1e-15)
        fixed = {k: v for k, v in values(flow).items() if "permutation" in k or "standardize" in k}
        assert fixed and all(np.array_equal(v, own[k]) for k, v in fixed.items())
        inside = flow.log_prob(table)
    assert_same(flow, own)
    assert not np.array_equal(inside, flow.log_prob(table))
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert_same(flow, own)


@pytest.mark.parametrize("zero_debias", [False, True])
def test_the_average_of_constant_values(table, real_nvp, zero_debias):
    """float32 sums of small steps up to a value would stop below it."""
    flow = real_nvp()
    flow.init(table)
    average = ef.MovingAverage(flow, 0.9999, zero_debias=zero_debias)
    for _ in range(50_000):
        average.update()
    np.testing.assert_array_equal(average.values()[:len(flow.params)], flow.params)


def test_average_is_what_fit_keeps(table, real_nvp):
    raw, averaged, seen = real_nvp(), real_nvp(), []
    raw.fit(table, valid=None, steps=6, batch_size=50, settings=ef.Settings(average=0.0))
    averaged.fit(table, valid=None, steps=6, batch_size=50, callback=lambda r: r["event"] == "step" and seen.append(averaged.params.copy()), settings=ef.Settings(average=0.5))
    assert np.array_equal(seen[-1], raw.params)
    weights = 0.5 ** np.arange(6, 0, -1)
    wanted = np.tensordot(weights / weights.sum(), seen, 1)
    np.testing.assert_allclose(averaged.params, wanted, rtol=1e-5, atol=1e-7)


def test_validation_scores_what_is_kept(table, real_nvp):
    flow = real_nvp()
    history = flow.fit(table[50:], epochs=1, batch_size=20, lr=1e-2, valid=table[:50], settings=ef.Settings(average=0.9, warmup=0))
    assert history[0]["valid_loss"] == -flow.log_prob(table[:50]).mean()
