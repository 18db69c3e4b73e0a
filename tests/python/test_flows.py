"""What is true of every flow, over a list of them (flows.py): densities, inverses, gradients, samples, files, errors."""

import copy
import pickle

import numpy as np
import pytest
from raised import raises
from flows import BOUNDS, CASES, EXACT, inside
from parameters import assert_same

import evenflow as ef

every = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
exact = pytest.mark.parametrize("case", EXACT.values(), ids=list(EXACT))


def rows_of(given, rows):
    return {name: value[rows] for name, value in given.items()}


def close(got, wanted, tolerance):
    """But for a row or two, which may be at a kink of a net."""
    error = np.abs(got - wanted) / max(1.0, np.abs(wanted).max())
    assert np.sort(error.ravel())[-3 if error.size > 5 else -1] < tolerance


# Densities

@pytest.mark.parametrize("case", [case for case in CASES.values() if case.shape in (1, 2)],
                         ids=[name for name, case in CASES.items() if case.shape in (1, 2)])
def test_a_density_integrates_to_one(case):
    """Over the box, or as far as it reaches; given each of two contexts."""
    flow, s = case.flow(), case.settings
    n, edge = (200_000, 60.0) if case.shape == 1 else (700, 14.0)
    if s.get("base") == "uniform":
        at, area = (np.arange(n) + 0.5) / n, 1 / n**case.shape
    else:
        at, area = edge * ((np.arange(n) + 0.5) / n * 2 - 1), (2 * edge / n)**case.shape
    grid = np.stack(np.meshgrid(*[at] * case.shape, indexing="ij"), axis=-1).reshape(-1, case.shape)
    x, slopes = (grid, 0.0) if s.get("base") == "uniform" else inside(s.get("bounds") or [(None, None)] * case.shape, grid)
    _, given = case.data(2)
    x = x.astype(flow.dtype)
    keep = np.ones(len(x), bool)
    for column, (low, high) in enumerate(s.get("bounds") or []):  # where numbers round to a bound there is nothing
        keep &= (x[:, column] > (-np.inf if low is None else low)) & (x[:, column] < (np.inf if high is None else high))
    for row in range(2 if given else 1):
        found = flow.log_prob(x[keep], **rows_of(given, row))
        assert np.exp(found + (slopes[keep] if np.ndim(slopes) else 0)).sum() * area == pytest.approx(1, abs=1e-3)


@exact
def test_a_log_determinant_is_that_of_the_jacobian(case):
    """By differences; a density is the base's of the latents times that."""
    flow, (x, given) = case.flow(), case.data(4, 1)
    z, logdet = flow.forward(x, **given)
    size, step = x[0].size, 1e-6 * (1 if isinstance(case.shape, int) else 100)
    moved = x[:, None].repeat(2 * size, axis=1).reshape(len(x), 2, size, *x.shape[1:])
    flat = moved.reshape(len(x), 2, size, size)
    flat[:, 0] += step * np.eye(size)
    flat[:, 1] -= step * np.eye(size)
    there, _ = flow.forward(moved.reshape(-1, *x.shape[1:]), **{k: v.repeat(2 * size, axis=0) for k, v in given.items()})
    there = there.reshape(len(x), 2, size, size)
    _, wanted = np.linalg.slogdet((there[:, 0] - there[:, 1]) / (2 * step))
    assert np.sort(np.abs(logdet - wanted))[-2] < 1e-5 * size
    if "classes" not in case.settings:
        np.testing.assert_allclose(flow.log_prob(x, **given), flow.base_log_prob(z) + logdet, rtol=1e-9)


@every
def test_a_round_trip(case):
    flow, (x, given) = case.flow(), case.data(50, 1)
    z, logdet = flow.forward(x, **given)
    back, minus = flow.inverse(z, **given)
    near = (1e-3 if flow.dtype == np.float32 else 1e-9) * max(1.0, np.abs(x).max())
    assert np.abs(back - x).max() < near and np.abs(logdet + minus).max() < max(near, 1e-8 * np.abs(logdet).max())
    assert np.array_equal(flow.encode(x, **given), z) and np.array_equal(flow.decode(z, **given), back)
    for name, value in given.items():
        assert np.abs(flow.forward(x, **{name: value[::-1].copy()})[0] - z).max() > 1e-4
    report = flow.verify(x, **given)
    assert report.ok, report


@every
def test_a_row_has_its_bits_alone_and_among_others(case):
    """One context stands for all rows; a thread more or less changes nothing."""
    flow, n = case.flow(threads=2), 300 if isinstance(case.shape, int) else 40
    x, given = case.data(n, 1)
    together = flow.log_prob(x, **given)
    for rows in (slice(5, 6), slice(0, 17), slice(n - 2, n)):
        assert np.array_equal(flow.log_prob(x[rows], **rows_of(given, rows)), together[rows])
    assert np.array_equal(case.flow(threads=1).log_prob(x, **given), together)
    one = flow.log_prob(x[:9], **rows_of(given, 3))
    assert np.array_equal(one, flow.log_prob(x[:9], **rows_of(given, [3] * 9)))
    if "context" in given:
        assert np.array_equal(one, flow.log_prob(x[:9], context=given["context"][3].tolist()))


# Gradients

@exact
def test_gradients_of_a_density_and_of_a_loss_of_latents_and_of_samples(case):
    """By x, z and the context, along a random direction."""
    flow, (x, given) = case.flow(), case.data(30, 1)
    rng = np.random.default_rng(0)
    z, logdet = flow.forward(x, **given)
    flat = x.reshape(len(x), -1)
    size = np.minimum(1.0, np.abs(flat).std(0) + 1e-3)
    g, h, dx, dz = rng.normal(size=z.shape), rng.normal(size=len(x)), rng.normal(size=x.shape), rng.normal(size=z.shape)
    if case.settings.get("bounds") or case.settings.get("base") == "uniform":
        size = 0.1 * np.min([np.abs(flat - low) for low in (0, 1, 5)], axis=0) + 1e-6
    along = (rng.normal(size=flat.shape) * size).reshape(x.shape)
    out = {}
    if "context" in given:
        dcontext = rng.normal(size=given["context"].shape) * given["context"].std(0)

    def call(name, *arguments):
        out[name] = np.zeros((len(x), case.settings["context"])) if "context" in given else None
        return getattr(flow, name)(*arguments, **given, **({"dcontext": out[name]} if "context" in given else {}))

    log_prob, by_x = call("log_prob_and_grad", x)
    assert np.array_equal(log_prob, flow.log_prob(x, **given)) or "classes" in case.settings
    rebuilt, by_x_of_latents = call("backward", z, g, h)
    latents, by_z = call("inverse_backward", x, dx, h)
    close(rebuilt, x, 1e-6)
    close(latents, z, 1e-6)
    flow.zero_grad()

    def losses(x, z, given):
        of_z, det = flow.forward(x, **given)
        of_x, minus = flow.inverse(z, **given)
        return (flow.log_prob(x, **given), (of_z * g).sum(1) + det * h,
                (of_x * dx).reshape(len(x), -1).sum(1) + minus * h)

    def differences(step, **directions):
        ends = []
        for sign in (step, -step):
            moved = {**given, **({"context": given["context"] + sign * directions["context"]}
                                 if "context" in directions else {})}
            ends.append(losses(x + sign * directions.get("x", 0), z + sign * directions.get("z", 0), moved))
        return [(a - b) / (2 * step) for a, b in zip(*ends)]

    step = 1e-6 if isinstance(case.shape, int) else 1e-5
    if case.settings.get("base") != "uniform":
        dz *= 0.1
    else:
        dz *= 0.1 * np.minimum(z, 1 - z)
    of_density, of_latents, of_samples = differences(step, x=along, z=dz)
    close((by_x * along).reshape(len(x), -1).sum(1), of_density, 1e-5)
    close((by_x_of_latents * along).reshape(len(x), -1).sum(1), of_latents, 1e-5)
    close((by_z * dz).sum(1), of_samples, 1e-5)
    if "context" in given:
        found = differences(step, context=dcontext)
        for name, wanted in zip(("log_prob_and_grad", "backward", "inverse_backward"), found):
            close((out[name] * dcontext).sum(1), wanted, 1e-5)


@exact
def test_the_gradient_of_a_training_step(case):
    """By the parameters, along random directions; by a context, it is that of rows' densities."""
    flow, (x, given) = case.flow(), case.data(30, 1)

    def loss(**more):
        flow.zero_grad()
        return flow.loss_and_grad(x, seed=1, **given, **more)

    loss()
    grads, start = flow.grads.copy(), flow.params.copy()
    along, errors = np.random.default_rng(0).normal(size=(5, grads.size)), []
    for way in along:
        ends = []
        for step in (1e-7, -1e-7):
            flow.params[:] = start + step * way
            ends.append(loss())
        errors.append(abs((ends[0] - ends[1]) / 2e-7 - grads @ way))
    assert np.sort(errors)[2] < 1e-5 * max(1, np.abs(along @ grads).max())  # others may be at a kink of a net
    flow.params[:] = start
    loss(activation_budget=0)
    np.testing.assert_allclose(flow.grads, grads, rtol=1e-6, atol=1e-8 * np.abs(grads).max())
    if not case.batch:
        assert loss() == pytest.approx(-flow.log_prob(x, **given).mean(), rel=1e-12)
    if "context" in given and not case.batch:
        dcontext, of_density = (np.empty_like(given["context"]) for _ in range(2))
        loss(weight=2.0, dcontext=dcontext)
        flow.log_prob_and_grad(x, **given, dcontext=of_density)
        np.testing.assert_allclose(dcontext, -2 * of_density / len(x), rtol=1e-8, atol=1e-13)


@exact
def test_weights_of_rows(case):
    """A row of weight 2 is two rows, one of 0 none, whatever it holds; the sum is that of the rows' own gradients."""
    if case.batch and case.settings.get("classes") is None:
        pytest.skip("rows of a batch see each other, or draw by their places")
    flow, n = case.flow(), 300 if case.shape == 3 else 12
    x, given = case.data(n, 1)
    w = np.random.default_rng(4).integers(0, 4, n)

    def gradient(rows, weights=None, factor=1.0):
        flow.zero_grad()
        flow.loss_and_grad(x[rows], weight=factor, sample_weight=weights, **rows_of(given, rows))
        step = [factor * flow.last_step[name] for name in ("loss", "nll", "class_nll", "class_error")]
        return np.concatenate([flow.grads, step])

    def same(a, b):
        assert np.abs(a - b).max() <= 1e-9 * np.abs(b).max()

    rows, whole = np.repeat(np.arange(n), w), gradient(np.arange(n), w)
    same(whole, gradient(rows, factor=len(rows) / n))
    same(whole, sum(w[i] * gradient([i]) for i in range(n)) / n)
    other = np.where(w == 0, (np.arange(n) + 1) % n, np.arange(n))
    kept, labels, x = x, given, np.where((w == 0).reshape(-1, *[1] * (x.ndim - 1)), x[other], x)
    given = {**labels}
    assert np.array_equal(gradient(np.arange(n), w), whole)
    x = kept
    assert not gradient(np.arange(n), np.zeros(n)).any()


@exact
def test_a_step_is_its_parts(case):
    x, given = case.data(40, 1)
    given["sample_weight"] = np.random.default_rng(4).uniform(0, 3, 40)
    one, other = case.flow(), case.flow()
    steps, parts = ef.Adam(one, lr=1e-3), ef.Adam(other, lr=1e-3)
    for seed in range(3):
        loss = one.train_step(x, steps, seed=seed, clip=0.5, **given)
        other.zero_grad()
        assert other.loss_and_grad(x, seed=seed, **given) == loss
        ef.clip_grad_norm(other, 0.5)
        parts.step()
    assert np.array_equal(one.params, other.params)


@every
def test_steps_have_the_same_bits_on_any_number_of_threads(case):
    x, given = case.data(700 if isinstance(case.shape, int) else 12, 1)
    w, found = np.random.default_rng(2).uniform(0, 2, len(x)), []
    for threads in (1, 2):
        flow = case.flow(threads=threads)
        optimizer = ef.Adam(flow)
        for seed in range(2):
            flow.train_step(x, optimizer, seed=seed, sample_weight=w, **given)
        found.append(flow.params.copy())
    assert np.array_equal(*found)


def results(flow, x, given):
    """Densities, samples, every gradient by x, the context and the parameters, and three steps."""
    rng, found, few = np.random.default_rng(0), [], rows_of(given, slice(5))
    dx, ddet, (z, logdet) = rng.normal(size=x.shape), rng.normal(size=len(x)), flow.forward(x, **given)
    for name, arguments in (("loss_and_grad", (x,)), ("log_prob_and_grad", (x,)), ("backward", (z, np.cos(z), ddet)),
                            ("inverse_backward", (x, dx, ddet))):
        place = {"dcontext": np.empty(given["context"].shape, flow.dtype)} if "context" in given else {}
        flow.zero_grad()
        got = getattr(flow, name)(*arguments, **given, **place)
        found += [*(got if isinstance(got, tuple) else (got,)), flow.grads.copy(), *place.values()]
    optimizer = ef.Adam(flow, lr=1e-3)
    return [*found, z, logdet, flow.log_prob(x, **given), *flow.sample_and_log_prob(5, seed=2, **few),
            flow.base_sample(5, seed=2), flow.base_log_prob(z),
            *(flow.train_step(x, optimizer, seed=seed, **given) for seed in range(3))]


@pytest.mark.any_device
@exact
def test_on_a_device(case, device):
    x, given = case.data(40, 1)
    here, there = (results(flow, x, given) for flow in (case.flow(), case.flow(device=device)))
    for mine, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-7, atol=1e-8 * np.abs(mine).max())


# Samples, files, errors

@every
@pytest.mark.filterwarnings("ignore:.*expected image levels")
def test_samples(case):
    """Those of the base, decoded; inside the bounds, with the density that comes along; row i whatever n is."""
    flow, n = case.flow(), 2000 if isinstance(case.shape, int) else 40
    _, given = case.data(n, 1)
    x, log_prob = flow.sample_and_log_prob(n, seed=3, **given)
    assert x.dtype == flow.dtype and log_prob.dtype == np.float64 and np.isfinite(log_prob).all()
    assert np.array_equal(x, flow.sample(n, seed=3, **given)) and not np.array_equal(x, flow.sample(n, seed=4, **given))
    rows = slice(20, 27)
    assert np.array_equal(x[rows], flow.sample(7, seed=3, first=20, **rows_of(given, rows)))
    if "classes" not in case.settings:
        decoded = flow.decode(flow.base_sample(n, seed=3), **given)
        np.testing.assert_allclose(x, decoded, rtol=1e-3 if flow.dtype == np.float32 else 1e-9, atol=1e-4)
    near = 2e-2 if flow.dtype == np.float32 else 1e-6
    np.testing.assert_allclose(log_prob, flow.log_prob(x, **given), rtol=near, atol=near)
    if case.settings.get("base") != "uniform":
        cool, density = flow.sample_and_log_prob(n, seed=3, temperature=0.7, **given)
        assert np.array_equal(cool, flow.sample(n, seed=3, temperature=0.7, **given))
        np.testing.assert_allclose(density, flow.log_prob(cool, **given), rtol=near, atol=near)
    for temperature in (1.0, 5.0, 1e-3) if case.settings.get("bounds") else ():  # hot samples pile up at the bounds
        drawn = flow.sample(n, seed=1, temperature=temperature, **given)
        for column, (low, high) in zip(drawn.T, case.settings["bounds"]):
            assert (low is None or (column > low).all()) and (high is None or (column < high).all())
        assert np.isfinite(flow.log_prob(drawn, **given)).all()
    if case.settings.get("base") == "uniform":
        assert x.min() >= 0 and x.max() <= 1


@every
def test_files_and_copies_have_the_same_bits(case, tmp_path):
    flow, (x, given) = case.flow(), case.data(20, 1)
    flow.save(tmp_path / "m.safetensors")
    wanted, drawn = flow.log_prob(x, **given), flow.sample(20, seed=1, **given)
    for other in (ef.load(tmp_path / "m.safetensors"), copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert type(other) is type(flow) and other.config == flow.config and repr(other) == repr(flow)
        assert np.array_equal(other.log_prob(x, **given), wanted)
        assert np.array_equal(other.sample(20, seed=1, **given), drawn)
        assert_same(other, flow)
        assert other.loss_and_grad(x, seed=4, **given) == copy.copy(flow).loss_and_grad(x, seed=4, **given)


@every
def test_a_bad_row_is_named(case):
    """By every call, and nothing has changed."""
    flow, (x, given) = case.flow(), case.data(20, 1)
    values = [np.nan, np.inf] + [0.0, 1.5] * (case.settings.get("bounds") in (BOUNDS[:2], BOUNDS))
    if case.settings.get("base") == "uniform":
        values += [-0.01, 1.25]
    before, optimizer = pickle.dumps(flow.state_dict()), ef.Adam(flow)
    for value in values:
        bad = x.copy()
        bad.reshape(20, -1)[3, min(1, x[0].size - 1)] = value
        if value == 0.0:
            bad[3, 0] = 0.0
        for call in (flow.log_prob, flow.encode, flow.log_prob_and_grad, flow.loss_and_grad,
                     lambda x, **given: flow.train_step(x, optimizer, **given),
                     flow.verify, flow.fit):
            with pytest.raises(ef.NumericError) as error:
                call(bad, **given)
            assert error.value.row in (3, None)  # the core says it in words
    state = pickle.loads(before)
    assert all(np.array_equal(value, state[name]) for name, value in flow.state_dict().items() if name != "calls")
    if "context" in given:
        bad = given["context"].copy()
        bad[3, 1 % bad.shape[1]] = np.nan
        with raises(ef.NumericError, row=3):
            flow.log_prob(x, context=bad)
        with pytest.raises(ef.ShapeError):
            flow.log_prob(x, context=bad[:5])
        with pytest.raises(ef.ConfigError):
            flow.log_prob(x)
