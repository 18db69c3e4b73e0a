"""Training through the public surface: validation, recovery, accumulation, optimisers' helpers."""

import math

import numpy as np
import pytest
from raised import raises
from fits import fit
from parameters import assert_same, broken_after, values
import evenflow as ef
from evenflow.density import loss_and_grad


def test_learns(images, glow):
    flow = glow()
    seen = []
    history = fit(flow, images[0], epochs=30, batch_size=16, lr=1e-2, average=0.0, callback=seen.append)
    assert flow.initialized
    assert [r["epoch"] for r in history] == list(range(1, 31)) and history[-1]["step"] == 120
    assert sum(r["event"] == "step" for r in seen) == 120
    assert history[-1]["bits_per_dim"] < history[0]["bits_per_dim"] - 0.1
    # The history is in the units of bits_per_dim of the same data.
    assert history[-1]["bits_per_dim"] == pytest.approx(flow.bits_per_dim(images[0]).mean(), abs=0.1)


def test_same_seed_same_bits(table, real_nvp):
    one, two, other = real_nvp(), real_nvp(), real_nvp()
    for flow, seed in ((one, 1), (two, 1), (other, 2)):
        flow.fit(table, steps=7, batch_size=32, seed=seed)
    assert_same(one, two)
    assert not np.array_equal(one.params, other.params)


def test_every_step_draws_noise_anew(images, glow):
    seen = []
    glow().fit(np.repeat(images[0][:1], 16, 0), batch_size=16, lr=0.0, steps=3, callback=seen.append)
    assert len({r["loss"] for r in seen if r["event"] == "step"}) == 3


def test_initialised_from_rows_of_all_the_data(table, real_nvp):
    x, flow, first = table[np.argsort(table[:, 0])], real_nvp(), real_nvp()
    flow.fit(x, valid=None, steps=0, settings=ef.Settings(init_batch=20))
    first.init(x[:20])
    means = [values(f)["preprocess.mean"][0] for f in (flow, first)]
    assert abs(means[0] - 100) < 5 < abs(means[1] - 100)
    flow = real_nvp(context=1)
    with pytest.warns(ef.DataWarning):
        flow.fit(x, valid=None, context=x[:, :1], steps=0, settings=ef.Settings(init_batch=20))
    assert values(flow)["context.mean"] == pytest.approx(values(flow)["preprocess.mean"][:1])  # of the same rows


def test_best_is_kept_and_training_stops(table, real_nvp):
    flow = real_nvp()
    kept = {}

    def watch(record):
        if record["event"] == "epoch":
            kept[record["valid_loss"]] = values(flow)

    # A rate that makes the validation loss worse sooner or later.
    history = flow.fit(table[:40], epochs=200, batch_size=40, lr=3e-2, patience=5, callback=watch, valid=table[40:], settings=ef.Settings(warmup=0, average=0.0))
    losses = [r["valid_loss"] for r in history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 6 < 200
    assert_same(flow, kept[losses[best]])
    assert -flow.log_prob(table[40:]).mean() == losses[best]


def test_an_equal_validation_loss_is_no_better(table, real_nvp):
    history = real_nvp().fit(table, valid=table[:50], epochs=20, lr=0.0, patience=3)
    assert len(history) == 4 and history.stopped and history.settings.batch_size == 32
    assert repr(history).endswith("; ended after 3 epochs that were not better")


def test_a_better_epoch_begins_patience_anew(table, real_nvp):
    """Of one column's scale, which a callback sets, and with it the validation losses."""
    flow, scales = real_nvp(), iter([2, 3, 1, 4, 5, 6, 7])
    flow.init(table)
    size = flow.named_parameters()["preprocess.std"]
    start = size[0].copy()

    def watch(record):
        if record["event"] == "step":
            size[0] = next(scales) * start

    history = flow.fit(table, epochs=7, batch_size=200, lr=0.0, patience=2, callback=watch, valid=table[:50], settings=ef.Settings(warmup=0, average=0.0))
    assert len(history) == 5


def test_patience_begins_after_the_warmup(table, real_nvp):
    """Whose small steps are no sign that nothing gets better: the first epoch is the best here."""
    settings = dict(valid=table[:50], epochs=40, batch_size=len(table), lr=0.0, patience=3)
    assert [len(real_nvp().fit(table, **settings, settings=ef.Settings(warmup=steps))) for steps in (0, 7)] == [4, 10]


def test_accumulation_gives_the_same_gradient(images, glow):
    x = images[0]
    flows = [glow(dtype="float64"), glow(dtype="float64")]
    for flow, pieces in zip(flows, (1, 3)):
        fit(flow, x, steps=1, batch_size=50, optimizer="sgd", lr=1e-3, accumulate=pieces)
    assert not np.array_equal(flows[0].params, glow(dtype="float64").params)
    np.testing.assert_allclose(flows[1].params, flows[0].params, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("setting", [dict(clip=0.1), dict(average=0.5)])
def test_steps_in_pieces_are_those_of_the_whole(table, real_nvp, setting):
    """Clipped and averaged once; a row drops the same units."""
    whole, pieces = (real_nvp(dtype="float64", dropout=0.3) for _ in range(2))
    for flow, count in ((whole, 1), (pieces, 3)):
        fit(flow, table, steps=6, batch_size=50, optimizer="sgd", lr=1e-2, **setting, accumulate=count)
    np.testing.assert_allclose(pieces.params, whole.params, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("batch_norm, sizes", [(False, [3, 3, 3, 4, 1, 1, 1]), (True, [3, 3, 3, 4, 3])])
def test_pieces_are_balanced(table, real_nvp, monkeypatch, batch_norm, sizes):
    """Of batches of 13 and 3 rows; batch norm never sees one row, which has no variance."""
    flow, seen = real_nvp(batch_norm=batch_norm), []
    flow.init(table)
    monkeypatch.setattr("evenflow.distributed.steps.loss_and_grad",
                        lambda flow, batch, *a, **k: seen.append(len(batch)) or loss_and_grad(flow, batch, *a, **k))
    flow.fit(table[:16], valid=None, epochs=1, batch_size=13, settings=ef.Settings(accumulate=4))
    assert seen == sizes


def test_batch_norm_refuses_single_rows(table, real_nvp):
    for rows, batch in ((9, 1), (1, 64)):
        with raises(ef.ConfigError, argument="batch_size"):
            real_nvp(batch_norm=True).fit(table[:rows], valid=None, batch_size=batch, steps=1)


def test_last_batch(table, real_nvp):
    for rows, batch, steps in ((65, 64, 1), (66, 64, 2), (64, 64, 1), (1, 64, 1), (3, 1, 3)):
        flow = real_nvp()
        flow.init(table)
        assert flow.fit(table[:rows], valid=None, epochs=1, batch_size=batch)[0]["step"] == steps
    assert real_nvp(batch_norm=True).fit(table[:65], valid=None, epochs=1, batch_size=64)[0]["step"] == 1


def test_the_length_if_none_is_given(table, real_nvp):
    """4,000 updates, which patience may end; 100 passes where there are no data to tell."""
    assert len(real_nvp().fit(table, valid=None, batch_size=100)) == 100
    few = real_nvp().fit(table[20:], valid=table[:20], batch_size=100)
    assert 20 < len(few) < 2000 and all(r["valid_loss"] >= few[-21]["valid_loss"] for r in few[-20:])
    assert len(real_nvp().fit(table[20:], valid=table[:20], batch_size=100, epochs=2)) == 2


@pytest.fixture
def poisoned(table):
    """One row of the table overflows float32 inside the model."""
    x = table.copy()
    x[7] = 1e30
    return x


def test_nonfinite_raise(table, poisoned, real_nvp):
    flow = real_nvp()
    flow.init(table)
    with pytest.raises(ef.NumericError):
        flow.fit(poisoned, valid=None, epochs=1, batch_size=20)
    assert np.isfinite(flow.params).all()


@pytest.mark.parametrize("mode", ["skip", "rollback"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_nonfinite_recovers(table, poisoned, real_nvp, mode, batch_norm):
    flow = real_nvp(batch_norm=batch_norm)
    flow.init(table)
    seen = []
    history = fit(flow, poisoned, epochs=3, batch_size=20, lr=1e-3, callback=seen.append, warmup=0, on_nonfinite=mode)
    assert [r["skipped"] for r in history] == [1, 1, 1]
    assert len([r for r in seen if "skipped" in r and r["event"] == "step"]) == 3
    assert all(np.isfinite(v).all() for v in values(flow).values())
    assert np.isfinite(flow.log_prob(table)).all()
    rates = [r["lr"] for r in seen if "lr" in r]
    assert rates[-1] == pytest.approx(1e-3 / (8 if mode == "rollback" else 1))


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_skipped_step_leaves_running_statistics(table, poisoned, real_nvp, accumulate, seed):
    flow = real_nvp(batch_norm=True)
    flow.init(table)
    start = values(flow)
    history = fit(flow, poisoned[:20], epochs=1, batch_size=20, seed=seed, accumulate=accumulate, on_nonfinite="skip")
    assert history[0]["skipped"] == 1
    assert_same(flow, start)


def test_rollback_restores_the_snapshot(table, real_nvp):
    flow = real_nvp()
    flow.init(table)
    start = values(flow)
    fit(flow, table, batch_size=20, on_nonfinite="rollback", average=0.9, steps=6, callback=broken_after(flow, 5))
    assert_same(flow, start)


def test_ten_steps_may_fail_one_after_the_other(table, real_nvp):
    flow, x = real_nvp(), table[:11].copy()
    flow.init(table)
    x[:10] *= 1e30
    options = dict(batch_size=1, on_nonfinite="skip")
    assert [r["skipped"] for r in fit(flow, x, epochs=3, **options)] == [10, 10, 10]
    x[10] *= 1e30
    with pytest.raises(ef.NumericError):
        fit(flow, x, epochs=1, **options)


def test_a_tenth_is_held_out(table, real_nvp):
    """Of rows, labels, contexts and weights alike."""
    x, rows = np.concatenate([table] * 5), np.arange(1000.0)
    flow, other = real_nvp(context=1), real_nvp(context=1)
    history = flow.fit(x, context=rows, sample_weight=1 + rows, epochs=3, seed=4)
    assert (history.rows, history.valid_rows) == (900, 100) and "validated on 100" in repr(history)
    held = np.sort(np.random.default_rng(4).permutation(1000)[:100])
    rest = np.setdiff1d(np.arange(1000), held)
    again = other.fit(x[rest], context=rows[rest], sample_weight=1 + rows[rest], epochs=3, seed=4, valid=dict(
        x=x[held], context=rows[held], sample_weight=1 + rows[held]))
    assert_same(flow, other)
    assert [r["valid_loss"] for r in history] == pytest.approx([r["valid_loss"] for r in again], rel=1e-12)
    whole = real_nvp().fit(table, valid=None, epochs=1)
    assert (whole.rows, whole.valid_rows) == (200, 0) and "valid_loss" not in whole[0]
    assert flow.fit(table[:1], context=rows[:1], epochs=1).valid_rows == 0  # one row is not divided


@pytest.mark.parametrize("valid", [1.0, -0.1, math.nan, "x", {"y": 1}, {"x": np.zeros((3, 3)), "contxt": 1}, True,
                                   np.zeros((3, 2)), {"x": np.zeros((3, 3)), "label": [0, 0, 0]}])
def test_validation_data_that_are_none(table, real_nvp, valid):
    flow = real_nvp()
    with pytest.raises((ef.ConfigError, ef.ShapeError, TypeError)):
        flow.fit(table, valid=valid, epochs=1)
    assert not flow.initialized


def test_a_callback_ends_a_training(tmp_path, table, real_nvp):
    """And another fit goes on with it."""
    def at(step):
        return lambda record: record["step"] == step

    def stop(record):
        if record["step"] == 7:
            raise StopIteration

    path, flow, whole = tmp_path / "m.safetensors", real_nvp(), real_nvp()
    history = flow.fit(table, batch_size=50, epochs=9, callback=at(6), checkpoint=path)
    assert [r["step"] for r in history] == [4, 6] and history[1]["loss"] > 0
    assert real_nvp().fit(table, batch_size=50, epochs=9, callback=stop)[-1]["step"] == 7
    again = ef.load(path)
    again.fit(table, batch_size=50, epochs=9, checkpoint=path, resume=True)
    whole.fit(table, batch_size=50, epochs=9)
    assert_same(again, whole)


def test_an_epochs_callback_sees_what_is_kept(tmp_path, table, real_nvp):
    flow, path = real_nvp(), tmp_path / "m.safetensors"
    history = flow.fit(table, epochs=4, callback=lambda r: flow.save(path) if r["event"] == "epoch" else None)
    assert_same(ef.load(path), flow)
    assert history[-1]["valid_loss"] >= min(r["valid_loss"] for r in history)


@pytest.mark.parametrize("steps, lr", [(2, 1e-3), (6, 1e-3), (6, 0.3)])  # the last ends worse than it was
def test_the_end_is_validated_where_no_epoch_ends(table, real_nvp, steps, lr):
    flow, seen = real_nvp(), []
    history = flow.fit(table, valid=table[:50], batch_size=50, steps=steps, lr=lr,
                       settings=ef.Settings(warmup=0, average=0.0, clip=1e9, on_nonfinite="skip"),
                       callback=lambda r: seen.append(r) if r["event"] == "epoch" else None)
    losses = [r["valid_loss"] for r in history]
    assert history == seen and len(losses) == -(-steps // 4)
    assert -flow.log_prob(table[:50]).mean() == pytest.approx(min(losses))
    assert (losses[-1] == min(losses)) == (lr < 0.1) == ("a longer training may" in repr(history))


def test_any_number_of_steps_has_a_loss(table, real_nvp):
    history = real_nvp().fit(table, steps=1)
    assert len(history) == 1 and history[0]["loss"] > 0 and history[0]["step"] == 1
    assert real_nvp().fit(table, steps=0) == []


def test_a_setting_has_one_place(table, real_nvp):
    flow, settings = real_nvp(), ef.Settings(lr=1e-3, clip=1.0)
    flow.fit(table, steps=1, settings=settings)
    flow.fit(table, steps=1, lr=1e-3, settings=settings)
    for more, name in ((dict(lr=2e-3, settings=settings), "lr"), (dict(settings=3), "settings")):
        with raises((ef.ConfigError, TypeError), argument=name):
            flow.fit(table, steps=1, **more)
    for call, words in ((lambda: flow.fit(table, clip=1.0), "pass settings=ef.Settings(clip=...)"),
                        (lambda: flow.fit(table, learning_rate=1.0), "did you mean 'lr'?"),
                        (lambda: flow.fit(table, valid_context=[1]), "pass valid=dict("),
                        (lambda: ef.Settings(clipp=1.0), "did you mean 'clip'?")):
        with pytest.raises(TypeError) as wrong:
            call()
        assert words in str(wrong.value)


def test_nonfinite_validation(table, poisoned, real_nvp):
    with pytest.raises(ef.NumericError):
        real_nvp().fit(table, valid=poisoned, epochs=1)
    assert real_nvp().fit(table, epochs=1, valid=poisoned, settings=ef.Settings(on_nonfinite="skip"))[0]["valid_loss"] is None


@pytest.mark.parametrize("setting, error", [
    (dict(batch_size=0), ef.ConfigError), (dict(batch_size=2.5), TypeError), (dict(optimizer="lion"), ef.ConfigError),
    (dict(optimizer_options={"momentum": 0.5}), ef.ConfigError), (dict(lr=-1.0), ef.ConfigError),
    (dict(lr_decay=1.5), ef.ConfigError), (dict(on_nonfinite="ignore"), ef.ConfigError),
    (dict(patience=3), ef.ConfigError), (dict(callback=3), TypeError), (dict(epochs=-1), ef.ConfigError),
    (dict(average=1.5), ef.ConfigError)])
def test_settings(table, real_nvp, setting, error):
    with pytest.raises(error) as wrong:
        fit(real_nvp(), table, **setting)
    assert wrong.value.argument in setting


@pytest.mark.parametrize("initialized", [False, True])
@pytest.mark.parametrize("setting", [
    dict(epochs="3"), dict(steps=1.5), dict(callback=3), dict(optimizer="adam", optimizer_options={"eps": 0.0}),
    dict(optimizer_options={"nope": 1}), dict(optimizer_options=3), dict(checkpoint="nowhere/m.safetensors"),
])
def test_a_refused_fit_changes_nothing(tmp_path, monkeypatch, table, real_nvp, setting, initialized):
    monkeypatch.chdir(tmp_path)
    flow = real_nvp()
    if initialized:
        flow.init(table)
    before = values(flow)
    with pytest.raises((TypeError, ef.Error)):
        fit(flow, table * 1000, **setting)
    assert flow.initialized == initialized
    assert_same(flow, before)


def test_schedule():
    nice = ef.Schedule(lr=1.0, warmup=4, decay=0.5, floor=0.2)
    assert [nice.lr_at(s) for s in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.25, 0.2]
    assert [ef.Schedule(0.1).lr_at(s) for s in (0, 10**6)] == [0.1, 0.1]
    assert ef.Schedule(lr=0.1, floor=0.2).lr_at(0) == 0.1


def test_steps_follow_the_schedule(table, real_nvp):
    schedule, seen = ef.Schedule(1e-2, warmup=4, decay=0.5, floor=2e-3), []
    real_nvp().fit(table, steps=8, batch_size=50, lr=1e-2, callback=seen.append, settings=ef.Settings(warmup=4, lr_decay=0.5, lr_floor=2e-3))
    assert [r["lr"] for r in seen if r["event"] == "step"] == [schedule.lr_at(step) for step in range(8)]


@pytest.mark.parametrize("make", [ef.Adam, ef.AdamW, ef.Adamax, ef.SGD, ef.RMSProp])
def test_optimizers_descend(table, real_nvp, make):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    optimizer = make(flow, lr=1e-3)
    losses = []
    for _ in range(30):
        flow.zero_grad()
        losses.append(flow.loss_and_grad(table))
        ef.clip_grad_norm(flow, 1.0)
        optimizer.step()
    assert optimizer.steps == 30 and losses[-1] < losses[0]
    flow.grads[0] = np.nan
    before = flow.params.copy()
    with pytest.raises(ef.NumericError):
        optimizer.step()
    assert np.array_equal(flow.params, before) and optimizer.steps == 30


@pytest.mark.parametrize("make", [ef.Adam, ef.Adamax, ef.SGD, ef.RMSProp])
def test_shrink_multiplies_every_value(table_model, make):
    before = table_model.params.copy()
    make(table_model, shrink=0.5).step()  # of no gradient
    assert before.any() and np.array_equal(table_model.params, 0.5 * before)


@pytest.mark.parametrize("make, setting", [
    (ef.Adam, dict(eps=0.0)), (ef.Adamax, dict(eps=1e-60)), (ef.RMSProp, dict(eps=0.0)),
    (ef.Adam, dict(beta2=1 - 1e-9)), (ef.RMSProp, dict(decay=1.0)), (ef.SGD, dict(lr=1e39)),
    (ef.Adam, dict(weight_decay=1e39))])
def test_settings_that_the_dtype_rounds_away(table, real_nvp, make, setting):
    with pytest.raises(ef.ConfigError):
        make(real_nvp(), **setting)
    if 0 < setting.get("eps", 1) and setting.get("decay", 0) < 1:
        make(real_nvp(dtype="float64"), **setting)


def test_clip(table, real_nvp):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    flow.loss_and_grad(table)
    norm = float(np.linalg.norm(flow.grads))
    assert ef.clip_grad_norm(flow, 0.0) == pytest.approx(norm)
    assert np.linalg.norm(flow.grads) == pytest.approx(norm)
    assert ef.clip_grad_norm(flow, norm / 4) == pytest.approx(norm)
    assert np.linalg.norm(flow.grads) == pytest.approx(norm / 4)


@pytest.mark.parametrize("batch", [200, 20])
def test_a_failed_pass_changes_no_gradient(table, real_nvp, batch):
    x = table[:batch]
    poisoned = x.copy()
    poisoned[batch - 1] = 1e200  # its log-density is not finite
    flow, twice = real_nvp(dtype="float64"), real_nvp(dtype="float64")
    for f in (flow, twice):
        f.init(table)
        with pytest.raises(ef.NumericError):
            f.loss_and_grad(poisoned)
        f.loss_and_grad(x)
    with pytest.raises(ef.NumericError):
        twice.loss_and_grad(poisoned)
    clean = real_nvp(dtype="float64")
    clean.init(table)
    clean.loss_and_grad(x)
    np.testing.assert_array_equal(flow.grads, clean.grads)
    np.testing.assert_array_equal(twice.grads, clean.grads)


def test_class_conditional(images, glow):
    x, labels = images
    flow = glow(classes=3, class_weight=1.0)
    history = flow.fit(x, label=labels, epochs=40, batch_size=16, lr=1e-2, valid=dict(x=x, label=labels))
    assert history[-1]["loss"] < history[0]["loss"]
    assert np.mean(flow.class_log_prob(x).argmax(1) == labels) > 0.6
    right = flow.log_prob(x, label=labels).mean()
    assert right > flow.log_prob(x, label=(labels + 1) % 3).mean()
    assert math.isfinite(flow.last_step["class_nll"])


def test_classes_far_apart_have_finite_log_probabilities(images, glow):
    flow = glow(classes=3, class_weight=0.5)
    flow.init(images[0])
    (offset, size), = [(at, n) for name, _, _, at, n in flow.entries() if name == "class_head.bias"]
    flow.params[offset:offset + size] = 1000, 0, -1000
    assert np.array_equal(flow.class_log_prob(images[0][:2]), 2 * [[0, -1000, -2000]])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_what_a_class_head_learns_is_recorded(images, glow, accumulate):
    x, labels = images
    flow, other = (glow(classes=3, class_weight=0.5, dtype="float64") for _ in range(2))
    records = []
    history = fit(flow, x, label=labels, epochs=2, batch_size=20, callback=records.append, accumulate=accumulate)
    steps = [r for r in records if r["event"] == "step"]
    for r in steps:
        assert r["loss"] == pytest.approx(r["nll"] + 0.5 * r["class_nll"]) and 0 <= r["class_error"] <= 1
    epoch = steps[len(steps) // 2:]
    for name in ("loss", "bits_per_dim", "class_nll", "class_error"):
        mean = np.average([r[name] for r in epoch], weights=[r["samples"] for r in epoch])
        assert history[-1][name] == pytest.approx(mean)
    again = []
    other.fit(x, valid=None, label=labels, epochs=1, batch_size=20, callback=again.append)
    for name in ("loss", "class_nll", "class_error"):
        assert steps[0][name] == pytest.approx(again[0][name], rel=1e-9)
    plain = glow(classes=3)
    assert "class_nll" not in plain.fit(x, label=labels, epochs=1, batch_size=20)[0]


@pytest.mark.parametrize("batch", [200, 20])
def test_a_failed_train_step_changes_no_value(table, real_nvp, batch):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    optimizer, average = ef.Adam(flow, lr=1e-2), ef.MovingAverage(flow, 0.9)
    flow.train_step(table, optimizer, average=average)
    before, moments = values(flow), [m.copy() for m in optimizer.moments()]
    poisoned = table[:batch].copy()
    poisoned[batch - 1] = 1e200  # its log-density is not finite
    with pytest.raises(ef.NumericError):
        flow.train_step(poisoned, optimizer, average=average)
    assert_same(flow, before)
    assert all(np.array_equal(a, b) for a, b in zip(optimizer.moments(), moments))
    assert optimizer.steps == 1 and average.steps == 1 and not flow.grads.any()


@pytest.fixture
def ruled_out(images, glow):
    """A flow whose class head rules out a class, with a weight that leaves its gradients finite."""
    flow = glow(classes=3, class_weight=1e-200, dtype="float64")
    flow.init(images[0])
    flow.named_parameters()["class_head.bias"][:] = 1e308, -1e308, 0.0
    return flow


def test_a_step_whose_loss_alone_is_not_finite_changes_no_value(images, ruled_out):
    (x, labels), flow = images, ruled_out
    optimizer, before = ef.Adam(flow, lr=1e-2), values(flow)
    with pytest.raises(ef.NumericError):
        flow.train_step(x, optimizer, label=labels)
    assert_same(flow, before)
    assert optimizer.steps == 0 and not flow.grads.any()
    with pytest.raises(ef.NumericError):
        flow.fit(x, label=labels, steps=1, settings=ef.Settings(accumulate=2))
    assert_same(flow, before)
