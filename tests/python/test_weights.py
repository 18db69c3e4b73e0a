"""Rows that count for more or less than one: sample_weight."""

import numpy as np
import pytest
from raised import raises
from parameters import values as by_name
from test_drift import shrinking

import evenflow as ef
from evenflow._border.batch import Batch
from evenflow.training.feed import Feed
from evenflow.data.rows import Picked
from evenflow._border.weights import mean_one
from evenflow.training.samples import in_proportion


def values(flow):
    return np.concatenate([value.ravel() for value in by_name(flow).values()])


def gradient(flow, x, sample_weight=None, factor=1.0, **given):
    """(its gradient, the step's numbers but for drift), each times the factor."""
    flow.zero_grad()
    flow.loss_and_grad(x, weight=factor, sample_weight=sample_weight, **given)
    step = np.array([flow.last_step[name] for name in ("loss", "nll", "class_nll", "class_error")])
    return flow.grads.copy(), factor * step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["glow", "table"])
def test_weights_of_one_change_no_bit(images, table, glow, real_nvp, case, dtype):
    """Of gradients, of single steps, of a training with all that it logs."""
    make, x = (glow, images[0]) if case == "glow" else (real_nvp, table)
    settings = {"classes": 3, "class_weight": 0.1} if case == "glow" else {}
    given = {"label": images[1]} if case == "glow" else {}
    found = []
    for ones in (None, np.ones(len(x))):
        flow = make(dtype=dtype, **settings)
        flow.init(x)
        got = [*gradient(flow, x, ones, **given)]
        flow.train_step(x, ef.Adam(flow), sample_weight=ones, **given)
        got.append(values(flow))
        fresh = make(dtype=dtype, **settings)
        half = None if ones is None else 0.3 * ones
        history = fresh.fit(x, epochs=3, batch_size=24, seed=1, **given, sample_weight=half, valid=dict(x=x[:20], sample_weight=None if ones is None else half[:20], **{name: value[:20] for name, value in given.items()}), settings=ef.Settings(init_batch=40, accumulate=2))
        got += [values(fresh), [[r["loss"], r["valid_loss"]] for r in history]]
        found.append(got)
    for a, b in zip(*found):
        assert np.array_equal(a, b)


def test_a_repeated_pass_is_weighted_too():
    """From checkpoints, in float32, against float64 numbers that need none."""
    flow, exact, x = shrinking(offset=5e4)
    w = np.random.default_rng(4).uniform(0, 3, len(x))
    flow.loss_and_grad(x, activation_budget=0, sample_weight=w)
    exact.loss_and_grad(x.astype(np.float64), sample_weight=w)
    assert flow.last_step["fallback"] and not exact.last_step["fallback"]
    assert np.linalg.norm(flow.grads - exact.grads) < 1e-3 * np.linalg.norm(exact.grads)


# Training

@pytest.mark.slow
def test_fit_learns_the_weighted_density():
    """Two heaps of as many rows, of which one counts three times as much; in any unit of the weights."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 3000)
    x = rng.standard_normal((3000, 2)) + 8.0 * side[:, None]
    flow = ef.CouplingFlow(2, couplings=6, hidden=(32, 32), seed=0)
    flow.fit(x, sample_weight=1e-3 * (1 + 2 * side), epochs=20, lr=3e-3)
    assert (flow.sample(4000, seed=1)[:, 0] > 4).mean() == pytest.approx(0.75, abs=0.03)


def test_numbers_of_a_training_are_weighted_means(table, real_nvp):
    """Of an epoch's steps, whose rows' weights differ, and of validation, which decides what is kept.

    181 rows: a single one is left over from the batches, and out.
    """
    rng, table = np.random.default_rng(4), table[:181]
    w, valid_w = rng.uniform(0, 3, len(table)), rng.uniform(0, 3, 50)
    flow, seen = real_nvp(dtype="float64"), []

    def watch(record):
        if record["event"] == "step":
            seen.append(record)
        else:
            with_kept.append(-np.average(flow.log_prob(table[:50]), weights=valid_w))

    with_kept = []
    history = flow.fit(table, sample_weight=w, epochs=2, batch_size=30, lr=0.0, callback=watch, valid=dict(x=table[:50], sample_weight=valid_w), settings=ef.Settings(average=0.0, warmup=0))
    for epoch, record in enumerate(history):  # the rate is zero
        rows = np.random.default_rng([0, epoch]).permutation(181)[:180]
        assert record["loss"] == pytest.approx(-np.average(flow.log_prob(table[rows]), weights=w[rows]), rel=1e-10)
    assert [r["valid_loss"] for r in history] == pytest.approx(with_kept, rel=1e-12)
    scaled = w / w.mean()
    order = np.random.default_rng([0, 0]).permutation(len(table))[:30]
    assert seen[0]["loss"] == pytest.approx(-(scaled * flow.log_prob(table))[order].mean(), rel=1e-10)


def test_pieces_of_a_batch_have_their_rows_weights(table, real_nvp):
    w = np.random.default_rng(4).uniform(0, 3, len(table))
    flows = [real_nvp(dtype="float64") for _ in range(2)]
    for flow, pieces in zip(flows, (1, 3)):
        flow.fit(table, sample_weight=w, steps=5, batch_size=50, settings=ef.Settings(accumulate=pieces))
    np.testing.assert_allclose(values(flows[1]), values(flows[0]), rtol=1e-8, atol=1e-10)


def test_validation_stops_by_weights(table, real_nvp):
    """Rows far off that count for nothing do not decide."""
    valid = np.concatenate([table[:40], table[40:80] + [300, 0, 0]])
    history = [real_nvp(dtype="float64").fit(table, epochs=3, valid=dict(x=rows, sample_weight=w))
               for rows, w in ((table[:40], None), (valid, np.repeat([2.0, 0.0], 40)))]
    assert [r["valid_loss"] for r in history[0]] == pytest.approx([r["valid_loss"] for r in history[1]], rel=1e-12)


def test_a_validation_row_of_weight_zero_may_have_no_density(table, real_nvp):
    """Of data in memory and of a large file's, whose rows are read by their numbers."""
    valid, w = np.concatenate([[[3e37, 0, 0]], table[:40], [[0, 3e37, 0]]]), np.pad(np.arange(1.0, 41), 1)
    found = [real_nvp().fit(table, epochs=2, valid=dict(x=x, sample_weight=weights))[-1]["valid_loss"]
             for x, weights in ((valid, w), (Picked(valid, np.arange(42)), w), (table[:40], w[1:-1]))]
    assert found[0] == found[1] and found[0] == pytest.approx(found[2], rel=1e-12)
    with pytest.raises(ef.NumericError):
        real_nvp().fit(table, epochs=1, valid=dict(x=valid, sample_weight=w + 1e-6))


def test_the_first_batch_is_drawn_in_proportion(table, real_nvp):
    """Standardisation is that of rows by weight: of all rows, of as many as `init_batch` says, of few that count."""
    w = np.random.default_rng(4).integers(0, 5, len(table)).astype(float)
    for n, tolerance in ((200, 0.1), (100, 0.2)):
        flow = real_nvp(dtype="float64")
        flow.fit(table, valid=None, sample_weight=w, steps=0, settings=ef.Settings(init_batch=n))
        mean = flow.named_parameters()["preprocess.mean"].ravel()
        wanted = np.average(table, axis=0, weights=w)
        assert (np.abs(mean - wanted) < tolerance * table.std(0)).all()
    few = np.zeros(len(table))
    few[[5, 50, 77]] = [1, 2, 1]
    flow = real_nvp(dtype="float64")
    flow.fit(table, valid=None, sample_weight=few, steps=0)
    np.testing.assert_allclose(flow.named_parameters()["preprocess.mean"].ravel(),
                               np.average(table, axis=0, weights=few), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
def test_rows_in_proportion(n):
    order = np.random.default_rng(0).permutation(100)
    w = mean_one("test", np.random.default_rng(1).uniform(0, 2, 100) ** 3)
    rows = in_proportion(order, w, n)
    assert len(rows) == min(n, 100)
    counts = np.bincount(rows, minlength=100)
    chosen = set(order[:np.flatnonzero(np.isin(order, rows)).max() + 1])
    for row in chosen:  # as often as its weight says, up to one
        assert abs(counts[row] - w[row]) < 1 or row == order[len(chosen) - 1]
    assert np.array_equal(in_proportion(order, np.ones(100), n), order[:n])
    assert np.array_equal(in_proportion(order, None, n), order[:n])


def test_batches_have_their_rows_weights():
    """Those of a rank have its own, and the sum of all."""
    x, w = np.arange(40.0).reshape(20, 2), np.arange(20.0)
    whole, part = (Feed(Batch(x, weight=w), dtype=np.dtype(np.float64), batch_size=8, seed=0, mine=mine)
                   for mine in (np.arange, lambda size: np.arange(2, 4)))
    for position in range(3):
        all_of, own = whole.get(0, position), part.get(0, position)
        weight = all_of.batch.weight
        assert np.array_equal(weight, all_of.batch.x[:, 0] / 2) and all_of.total == weight.sum()
        assert np.array_equal(own.batch.weight, weight[2:4]) and own.total == all_of.total


# Errors

@pytest.mark.parametrize("error, row, spoil", [
    (ef.ShapeError, None, lambda w: w[:-1]), (ef.ShapeError, None, lambda w: w[:, None]),
    (ef.ShapeError, None, lambda w: 2.0), (TypeError, None, lambda w: w > 0), (TypeError, None, lambda w: w.astype(str)),
    (ef.NumericError, 3, lambda w: np.where(np.arange(200) == 3, np.nan, w)),
    (ef.ConfigError, 3, lambda w: np.where(np.arange(200) == 3, -1, w))])
def test_bad_weights(table, table_model, error, row, spoil):
    w, before = spoil(np.ones(len(table))), values(table_model)
    optimizer = ef.Adam(table_model)
    for call in (table_model.loss_and_grad, lambda x, **w: table_model.train_step(x, optimizer, **w), table_model.fit,
                 lambda x, sample_weight: table_model.fit(x, valid=dict(x=x, sample_weight=sample_weight))):
        with raises(error, argument="sample_weight", row=row):
            call(table, sample_weight=w)
    assert np.array_equal(values(table_model), before) and not table_model.grads.any()


def test_weights_that_are_all_zero(table, table_model):
    for more in ({"sample_weight": np.zeros(200)}, {"valid": dict(x=table[:5], sample_weight=np.zeros(5))}):
        with raises(ef.ConfigError, argument="sample_weight"):
            table_model.fit(table, **more)


def test_a_loss_that_overflows(table, table_model):
    before = values(table_model)
    for call in (lambda w: table_model.loss_and_grad(table, sample_weight=w),
                 lambda w: table_model.train_step(table, ef.Adam(table_model), sample_weight=w)):
        with pytest.raises(ef.NumericError):
            call(np.full(len(table), 1e308))
        assert not table_model.grads.any() and np.array_equal(values(table_model), before)
