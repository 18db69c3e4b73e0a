"""Densities given numbers, p(x | c): the columns' context, against torch's own arithmetic, differences and truth."""

import warnings

import numpy as np
import pytest
from raised import raises
from plain import plain_table

import evenflow as ef
from evenflow.density import blocks


@pytest.fixture
def known():
    """x (120, 3) and what it was drawn given, c (120, 2), columns of very different sizes."""
    rng = np.random.default_rng(4)
    c = rng.standard_normal((120, 2)) * [300.0, 0.1] + [5000.0, 0.0]
    x = rng.standard_normal((120, 3)) * [1.0, 20.0, 0.5]
    x[:, 0] += (c[:, 0] - 5000) / 300
    x[:, 1] *= np.exp(5 * c[:, 1])
    return x, c


def conditional(x, c, device="cpu", dtype="float64", **settings):
    """A flow whose nets, unlike fresh ones, do something."""
    flow = plain_table(x.shape[1], **{"couplings": 3, "hidden": (8,), "context": c.shape[1], "dtype": dtype,
                                     "device": device, **settings})
    flow.init(x, context=c)
    flow.params[:] += np.random.default_rng(7).normal(0, 0.1, flow.params.size)
    return flow


@pytest.mark.slow
def test_learns_a_conditional_density():
    """A Gaussian whose mean and width depend on c: the loss comes near its entropy, and samples follow c."""
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, (4000, 1))
    x = np.concatenate([3 * c, c**2], 1) + rng.standard_normal((4000, 2)) * np.exp(c)
    flow = plain_table(2, couplings=4, hidden=(32, 32), context=1)
    flow.fit(x[:3000], context=c[:3000], epochs=25, batch_size=100, lr=5e-3, valid=dict(x=x[3000:], context=c[3000:]))
    entropy = (np.log(2 * np.pi * np.e) + 2 * c[3000:, 0]).mean()
    assert -flow.log_prob(x[3000:], context=c[3000:]).mean() < entropy + 0.06
    for at in (-0.5, 0.5):
        drawn = flow.sample(4000, context=[at])
        np.testing.assert_allclose(drawn.mean(0), [3 * at, at**2], atol=0.3)
        np.testing.assert_allclose(drawn.std(0), np.exp(at), rtol=0.15)


def test_fit_goes_on_from_a_checkpoint(known, tmp_path):
    x, c = known
    settings = dict(context=c, valid=dict(x=x[:20], context=c[:20]), batch_size=16, seed=2)
    whole = plain_table(3, couplings=2, hidden=(8,), context=2)
    whole.fit(x, epochs=4, **settings)
    half = plain_table(3, couplings=2, hidden=(8,), context=2)
    half.fit(x, epochs=2, checkpoint=tmp_path / "m.safetensors", **settings)
    half.fit(x, epochs=4, checkpoint=tmp_path / "m.safetensors", resume=True, **settings)
    assert np.array_equal(half.params, whole.params)
    with pytest.raises(ef.ConfigError):
        half.fit(x, epochs=5, checkpoint=tmp_path / "m.safetensors", resume=True,
                 **{**settings, "context": c[::-1].copy()})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_context_that_does_not_vary_is_ignored(known, dtype):
    """Its weights are random: no later number may reach them. The mean of equal numbers may be rounded."""
    x, c = known
    with pytest.warns(ef.DataWarning):
        flow = conditional(x, np.column_stack([c, np.full(len(c), 0.1)]), dtype=dtype)
    found = [flow.log_prob(x, context=np.column_stack([c, np.full(len(c), value)])) for value in (0.1, -1e6)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    by = np.empty((len(c), 3), dtype)
    flow.log_prob_and_grad(x, context=np.column_stack([c, np.full(len(c), -1e6)]), dcontext=by)
    assert np.abs(by[:, 2]).max() < 1e-20 < np.abs(by[:, :2]).max()


@pytest.mark.parametrize("constant", [False, True])
def test_fit_tells_of_a_context_that_does_not_vary(known, constant):
    x, c = known
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plain_table(3, couplings=1, hidden=(4,), context=2).fit(x, context=c * [1, not constant], steps=0)
    assert len(told) == constant


def of_one_number(numbers, dtype):
    flow = plain_table(2, couplings=2, hidden=(7,), context=1, preprocess="none", dtype=dtype)
    flow.init(np.random.default_rng(0).standard_normal((len(numbers), 2)), context=np.array(numbers)[:, None])
    return flow.named_parameters()["context.std"][0]


@pytest.mark.parametrize("dtype, scale", [("float32", 1e-24), ("float32", 1e20),
                                          ("float64", 1e-300), ("float64", 1e300)])
def test_a_context_of_any_unit(known, dtype, scale):
    """A type holds the deviation, if not the variance."""
    x, c = known
    flow = conditional(x, c, dtype=dtype)
    other = conditional(x, c * scale, dtype=dtype)
    np.testing.assert_allclose(other.named_parameters()["context.std"], scale * c.std(0), rtol=1e-4)
    np.testing.assert_allclose(other.log_prob(x, context=c * scale), flow.log_prob(x, context=c), rtol=1e-3)


def test_a_context_with_values_far_from_the_rest():
    numbers = np.random.default_rng(1).standard_normal(1000)
    numbers[17] = 1e4
    of_one_number(numbers, "float32")
    numbers[17] = 1e9
    with pytest.raises(ef.NumericError):
        of_one_number(numbers, "float32")
    of_one_number(numbers, "float64")
    numbers[np.arange(1000) != 17] = 0  # a rare mark among equal numbers is told apart
    of_one_number(numbers, "float32")
    of_one_number(1e5 + np.arange(1000) % 7, "float32")


def test_a_context_that_float32_does_not_resolve_is_refused(known):
    x, c = known
    flow = plain_table(3, context=2)
    with pytest.raises(ef.NumericError):
        flow.init(x, context=c + [0, 3e4])
    plain_table(3, context=2, dtype="float64").init(x, context=c + [0, 3e4])


def test_blocks(known, block_of):
    """Of a wide context, too, since memory must not grow with the number of rows."""
    flow = conditional(*known)
    whole = flow.log_prob(known[0], context=known[1]), flow.sample(120, seed=1, context=known[1])
    block_of(7 * 3)
    assert [rows.stop - rows.start for rows in blocks(flow, 15)] == [7, 7, 1]
    assert np.array_equal(flow.log_prob(known[0], context=known[1]), whole[0])
    assert np.array_equal(flow.sample(120, seed=1, context=known[1]), whole[1])
    wide = plain_table(2, context=21)
    assert [rows.stop - rows.start for rows in blocks(wide, 3)] == [1, 1, 1]


@pytest.mark.any_device
@pytest.mark.parametrize("numbers", [3, 300])
def test_a_wide_context(device, numbers):
    """A device takes its scratch arrays from elsewhere than the CPU: they must be as long there."""
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((157, 3)), rng.standard_normal((157, numbers)) + 5
    here, there = conditional(x, c), conditional(x, c, device)
    for n in (1, 17, 157):
        found = []
        for flow in (here, there):
            of = np.empty((n, numbers))
            density, dx = flow.log_prob_and_grad(x[:n], context=c[:n], dcontext=of)
            found.append((flow.log_prob(x[:n], context=c[:n]), density, dx, of))
        for mine, theirs in zip(*found):
            np.testing.assert_allclose(theirs, mine, rtol=1e-9, atol=1e-10)


@pytest.mark.any_device
def test_torch(known, device):
    torch = pytest.importorskip("torch")
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("torch has no GPU")
    bridge = pytest.importorskip("evenflow.torch")
    x, c = (torch.from_numpy(v[:6].copy()).to(device) for v in known)
    module = bridge.FlowModule(conditional(*known, device))
    x.requires_grad_()
    c.requires_grad_()
    scale = torch.tensor([300.0, 0.1], dtype=torch.float64, device=device)
    start = c.detach() / scale
    start.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: module.log_prob(x, context=c * scale), (x, start), atol=1e-6)
    assert torch.autograd.gradcheck(lambda z, c: module.inverse(z, context=c * scale), (x, start), atol=1e-6)
    assert torch.autograd.gradcheck(lambda c: module.loss(x.detach(), context=c * scale), (start,), atol=1e-6)
    net = torch.nn.Linear(4, 2).double().to(device)  # an embedding, trained along
    module.loss(x.detach(), context=net(torch.ones(6, 4, dtype=torch.float64, device=device))).backward()
    assert net.weight.grad.abs().sum() > 0
    one = c[0].detach()
    assert torch.equal(module.sample(4, context=one, seed=1), module.sample(4, context=one.repeat(4, 1), seed=1))
    score = torch.compile(lambda x, c: module.log_prob(x, context=c).mean(), backend="aot_eager", fullgraph=True)
    compiled, = torch.autograd.grad(score(x, c), c)
    plain, = torch.autograd.grad(module.log_prob(x, context=c).mean(), c)
    assert torch.equal(compiled, plain)
    for error, call in ((ef.ConfigError, lambda: module.loss(x.detach())),
                        (ef.ShapeError, lambda: module.log_prob(x, context=c[:2])),
                        (ef.ShapeError, lambda: module.sample(3, context=c[:3, 0])),
                        (ef.NumericError, lambda: module.log_prob(x, context=c * torch.nan)),
                        (TypeError, lambda: module.log_prob(x, seed=c)),
                        (TypeError, lambda: module.inverse(x, context=c > 0)),
                        (ef.ConfigError, lambda: module.log_prob(x, label=0, context=c))):
        with pytest.raises(error):
            call()


def test_a_place_that_can_not_be_written_to(table):
    flow = ef.CouplingFlow(3, couplings=2, hidden=(4,), context=2, dtype="float64")
    context = np.random.default_rng(0).standard_normal((200, 2))
    flow.init(table, context=context)
    fixed = np.zeros((200, 2))
    fixed.flags.writeable = False
    for place in (np.zeros((200, 4))[:, ::2], np.zeros((2, 200)).T, fixed):
        with raises(TypeError, argument="dcontext"):
            flow.log_prob_and_grad(table, context=context, dcontext=place)
        assert not place.any()
