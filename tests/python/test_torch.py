"""The torch bridge: shared memory, derivatives, training beside the native loop, torch.compile."""

import copy
import io

import numpy as np
import pytest
from raised import raises

torch = pytest.importorskip("torch")

from plain import plain_table  # noqa: E402

import evenflow as ef  # noqa: E402
from evenflow.torch import FlowModule  # noqa: E402

torch.set_num_threads(1)

MODELS = {
    "nice": lambda **s: ef.NICE(5, couplings=3, hidden=(6,), preprocess="whiten", **s),
    "real_nvp_table": lambda **s: plain_table(5, couplings=3, hidden=(6,), permutation="lu", **s),
    "real_nvp_odd_even": lambda **s: plain_table(5, couplings=2, hidden=(6,), mask="odd-even", actnorm=True,
                                                batch_norm=True, **s),
    "real_nvp_image": lambda **s: ef.RealNVP((4, 4, 1), levels=2, base_dim=2, residual_blocks=1, **s),
    "glow": lambda **s: ef.Glow((4, 4, 1), levels=2, steps=1, hidden=3, classes=3, **s),
}


def make(name, noise=0.1, **settings):
    """An initialised model whose tensors are all away from their special initial values, 3 rows, labels."""
    flow = MODELS[name](seed=1, **{"dtype": "float64", **settings})
    rng = np.random.default_rng(4)
    x = rng.uniform(10, 240, (40, *flow.shape)) if flow.is_image else rng.standard_normal((40, 5)) * 3 + 1
    flow.init(x)
    for _, _, group, offset, size in flow.entries():
        if group in ("decay", "no_decay"):
            flow.params[offset:offset + size] += noise * rng.uniform(-1, 1, size)
    label = torch.tensor([0, 2, 1]) if flow.classes else None
    return flow, torch.from_numpy(x[:3].astype(flow.dtype)), label


@pytest.fixture
def table_module(table, real_nvp):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    return FlowModule(flow), torch.from_numpy(table[:20])


def test_shares_memory(table_module):
    module, x = table_module
    flow, before = module.flow, module.flow.params.copy()
    assert set(module.state_dict()) == set(flow.named_parameters())
    assert {name for name, _ in module.named_parameters()} == set(flow.named_grads())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    assert np.isclose(flow.params, before + 1).sum() == flow.num_params
    assert sum(p.numel() for p in module.parameters()) == flow.num_params
    flow.params[:] = before
    np.testing.assert_allclose(module.log_prob(x).detach(), flow.log_prob(x.numpy()), rtol=1e-12)


def test_state_dict_carries_the_model(table, real_nvp, table_module):
    module, x = table_module
    other = FlowModule(real_nvp(dtype="float64", seed=9))
    assert not other.flow.initialized
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.flow.initialized
    assert np.array_equal(other.flow.log_prob(table), module.flow.log_prob(table))


@pytest.mark.parametrize("name", MODELS)
def test_values(name):
    flow, x, label = make(name)
    module, labels = FlowModule(flow), None if label is None else label.numpy()
    z, logdet = module(x, label=label)
    wanted = flow.forward(x.numpy(), label=labels)
    assert np.array_equal(z.detach().numpy(), wanted[0])
    assert np.array_equal(logdet.detach().numpy(), wanted[1]) and logdet.dtype == torch.float64
    np.testing.assert_allclose(module.log_prob(x, label=label).detach(),
                               flow.log_prob(x.numpy(), label=labels), rtol=1e-12)
    back, det = module.inverse(z, label=label)
    np.testing.assert_allclose(back.detach(), x, atol=1e-8)
    np.testing.assert_allclose(det.detach(), -logdet.detach(), atol=1e-8)
    sample = module.sample(3, temperature=0.7, seed=5, label=label)
    assert np.array_equal(sample, flow.sample(3, temperature=0.7, seed=5, label=labels)) and not sample.requires_grad


@pytest.mark.parametrize("call", ["log_prob", "forward", "inverse"])
@pytest.mark.parametrize("name", MODELS)
def test_gradcheck(name, call):
    flow, x, label = make(name)
    module = FlowModule(flow)
    if call == "inverse":
        x = torch.from_numpy(flow.encode(x.numpy(), label=None if label is None else label.numpy()))
    x.requires_grad_()

    def function(x, *_):
        return getattr(module, call)(x, label=label)

    assert torch.autograd.gradcheck(function, (x, *module.parameters()), fast_mode=True)
    assert torch.autograd.gradcheck(lambda *p: function(x, *p), tuple(module.parameters())[:4])
    assert torch.autograd.gradcheck(function, x)


ON_META = torch.zeros((), dtype=torch.int64, device="meta")


@pytest.mark.parametrize("error, call", [
    (TypeError, lambda m, x, z: m.sample(ON_META, label=0)),
    (TypeError, lambda m, x, z: m.sample(2, temperature="x", label=0)),
    (ef.ConfigError, lambda m, x, z: m.sample(2**70, label=0)),
    (TypeError, lambda m, x, z: m.loss(x, seed="a", label=0)),
    (TypeError, lambda m, x, z: m.log_prob(x, seed=torch.tensor([0, 2, 1]))),
    (ef.ConfigError, lambda m, x, z: m.log_prob(x, label=[0, 1, 9])),
    (TypeError, lambda m, x, z: m(x, label=torch.zeros(3).bfloat16())),
    (TypeError, lambda m, x, z: m.loss(x, label=ON_META)),
    (TypeError, lambda m, x, z: m.inverse(z, label="a")),
    (TypeError, lambda m, x, z: m.sample(2, label=torch.arange(2).to_sparse())),
    (TypeError, lambda m, x, z: m.log_prob(x.to_sparse(), label=0)),
    (TypeError, lambda m, x, z: m.base_log_prob(torch.nested.nested_tensor([*z], layout=torch.jagged))),
    (TypeError, lambda m, x, z: m.base_log_prob(z.long())),
    (ef.ShapeError, lambda m, x, z: m.loss(x[:0], label=0)),
    (ef.NumericError, lambda m, x, z: m(x * torch.nan, label=0)),
])
def test_wrong_kinds(error, call):
    flow, x, label = make("glow")
    with pytest.raises(error):
        call(FlowModule(flow), x, torch.from_numpy(flow.encode(x.numpy(), label=label.numpy())))


def test_accumulation_and_native_gradients(table_module):
    """Torch's gradients add up by torch's rules; the flow's own are left alone."""
    module, x = table_module
    flow, parameters = module.flow, list(module.parameters())
    flow.grads[:] = 7
    once = torch.autograd.grad(module.log_prob(x).sum(), parameters)
    loss = module.log_prob(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    for parameter, grad in zip(parameters, once):
        assert torch.equal(parameter.grad, 2 * grad)
    module.zero_grad()
    z, logdet = module(x)
    (module.log_prob(x[:10]).sum() + logdet[10:].sum() + module.base_log_prob(z[10:]).sum()).backward()
    for parameter, grad in zip(parameters, once):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-12)
    assert (flow.grads == 7).all()


def test_a_step_between_forward_and_backward_is_refused(table_module):
    module, x = table_module
    loss = -module.log_prob(x).mean()
    loss.backward(retain_graph=True)
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    with pytest.raises(ef.ConfigError):
        loss.backward()


@pytest.mark.parametrize("way", ["log_prob", "loss"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["table", "glow"])
def test_training_follows_the_native_loop(images, table, glow, real_nvp, name, dtype, way):
    native, flow = (glow(dtype=dtype) if name == "glow" else real_nvp(dtype=dtype) for _ in range(2))
    data = images[0] if name == "glow" else table.astype(dtype)
    native.init(data)
    flow.init(data)
    module, optimizer = FlowModule(flow), ef.Adam(native, lr=1e-3)
    theirs, start = torch.optim.Adam(module.parameters(), lr=1e-3), flow.params.copy()
    for step in range(20):
        batch = data[step % 2::2]
        native.zero_grad()
        wanted = native.loss_and_grad(batch, seed=step)
        optimizer.step()
        theirs.zero_grad()
        x = torch.from_numpy(batch)
        loss = module.loss(x, seed=step) if way == "loss" else -module.log_prob(x, seed=step).mean()
        loss.backward()
        theirs.step()
        assert abs(loss.item() - wanted) <= 1e-6 * max(1, abs(wanted)), step
    assert np.abs(flow.params - start).max() > 1e-3


@pytest.mark.parametrize("name", ["real_nvp_odd_even", "glow"])
def test_loss_is_the_native_step(name):
    """Running statistics, class loss and gradients of loss_and_grad."""
    flow, x, label = make(name, dtype="float32")
    native = copy.deepcopy(flow)
    labels = None if label is None else label.numpy()
    module = FlowModule(flow)
    loss = 3 * module.loss(x, label=label)
    loss.backward()
    wanted = native.loss_and_grad(x.numpy(), label=labels)
    assert loss.item() == pytest.approx(3 * wanted)
    for key, value in native.named_parameters().items():
        assert np.array_equal(flow.named_parameters()[key], value), key
    for key, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.grad, 3 * native.named_grads()[key], rtol=1e-6, atol=1e-7)
    with raises(ef.ConfigError, argument="x"):
        module.loss(x.clone().requires_grad_(), label=label)


@pytest.mark.parametrize("name", ["real_nvp_odd_even", "glow"])
def test_a_flat_module_is_the_same_with_one_parameter(name):
    flow, x, label = make(name)
    module, flat = FlowModule(copy.deepcopy(flow)), FlowModule(flow, flat=True)
    assert [key for key, _ in flat.named_parameters()] == ["params"]
    assert set(flat.state_dict()) == {"params", "fixed", *(["stats"] if "stats" in flat.state_dict() else [])}
    for call in ("loss", "log_prob"):
        for one in (module, flat):
            one.zero_grad()
            getattr(one, call)(x, label=label).mean().backward()
        for key, parameter in module.named_parameters():
            offset = next(offset for name, _, _, offset, _ in flow.entries() if name == key)
            assert torch.equal(flat.params.grad[offset:offset + parameter.numel()], parameter.grad.reshape(-1)), key
    for key, value in module.flow.named_parameters().items():
        assert np.array_equal(flow.named_parameters()[key], value), key
    before = flat.log_prob(x, label=label)
    state = copy.deepcopy(flat.state_dict())
    torch.optim.AdamW(flat.parameters(), lr=0.1).step()
    assert not torch.equal(flat.log_prob(x, label=label), before)
    flat.load_state_dict(state)
    assert torch.equal(copy.deepcopy(flat).log_prob(x, label=label), before)


def test_channels_first_is_the_same(images, glow):
    flow = glow(dtype="float64")
    flow.init(images[0])
    last, first = FlowModule(flow), FlowModule(flow, channels="first")
    nhwc = torch.from_numpy(images[0].astype(float)).requires_grad_()
    nchw = torch.from_numpy(images[0].astype(float)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    z, _ = last(nhwc)
    assert torch.equal(first(nchw)[0], z)
    last.log_prob(nhwc).sum().backward()
    first.log_prob(nchw).sum().backward()
    assert torch.equal(nchw.grad, nhwc.grad.permute(0, 3, 1, 2))
    for out in (first.inverse(z.detach())[0], first.sample(4, seed=1)):
        assert out.shape[1:] == (2, 4, 4) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first.sample(4, seed=1), last.sample(4, seed=1).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", MODELS)
def test_compile(name):
    """One graph, the same values and gradients, also for another batch size."""
    flow, x, label = make(name)
    module = FlowModule(flow)

    def step(x, z, label):
        y, logdet = module.inverse(z, label=label)
        return (module.log_prob(x * 1.01, label=label) - logdet).mean() + (y * y).mean() + module.sample(
            2, seed=0, label=None if label is None else label[:2]).sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for n in (3, 2):
        a, z = x[:n].clone().requires_grad_(), torch.ones(n, flow.dims, dtype=x.dtype, requires_grad=True)
        labels = None if label is None else label[:n]
        inputs = (a, z, *module.parameters())
        got, wanted = compiled(a, z, labels), step(a, z, labels)
        assert torch.equal(got, wanted)
        for one, two in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(wanted, inputs)):
            assert torch.equal(one, two)
    loss = torch.compile(module.loss, backend="aot_eager", fullgraph=True)(x, label=label)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert loss.item() == module.loss(x, label=label).item()


def test_copies(table_module):
    module, x = table_module
    twin = copy.deepcopy(module)
    assert twin.flow is not module.flow
    before = module.log_prob(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    assert torch.equal(module.log_prob(x), before) and not torch.equal(twin.log_prob(x), before)
    average = torch.optim.swa_utils.AveragedModel(module)
    average.update_parameters(module)
    assert torch.equal(average.module.log_prob(x), before)


def test_second_derivatives_are_refused(table_module):
    module, x = table_module
    x.requires_grad_()
    grad, = torch.autograd.grad(module.log_prob(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_moves_are_refused(table_module):
    module, x = table_module
    assert module.to("cpu").double() is module
    for move in (module.float, module.half, lambda: module.to("meta"), module.share_memory):
        with pytest.raises(TypeError):
            move()
    np.testing.assert_allclose(module.log_prob(x).detach(), module.flow.log_prob(x.numpy()), rtol=1e-12)
    next(module.children()).float()
    with pytest.raises(ef.ConfigError):
        module.log_prob(x)


def test_replaced_parameters_are_refused(table_module):
    module, x = table_module
    others = {name: parameter.clone() for name, parameter in module.named_parameters()}
    with pytest.raises(ef.ConfigError):
        torch.func.functional_call(module, others, (x,))
    module.log_prob(x)
    module.load_state_dict(module.state_dict() | others, assign=True)
    with pytest.raises(ef.ConfigError):
        module.log_prob(x)


@pytest.mark.parametrize("call", [
    lambda module, x: module.log_prob(x).sum(), lambda module, x: module.inverse(module(x)[0].detach())[0].sum(),
    lambda module, x: (module.loss(x, reduction="none") * torch.arange(20)).sum()])
def test_a_native_change_between_forward_and_backward(table_module, call):
    """However small it is: the gradients would be wrong by as much."""
    module, x = table_module
    flow = module.flow
    for change in (lambda: flow.params.__setitem__(5, flow.params[5] * (1 + 1e-15)),
                   lambda: flow.train_step(x.numpy(), ef.SGD(flow, lr=1e-6))):
        result = call(module, x)
        change()
        with pytest.raises(ef.ConfigError):
            result.backward()


def test_bad_input(table, real_nvp, table_module, images, glow):
    module, x = table_module
    fresh = FlowModule(real_nvp(dtype="float64"))
    for call in (fresh, fresh.log_prob, fresh.loss, fresh.inverse, lambda x: fresh.sample(2)):
        with pytest.raises(ef.ConfigError):
            call(x)
    for call in (module, module.log_prob, module.loss, module.inverse):
        for error, bad in ((TypeError, table), (ef.ShapeError, x[:, :2]), (TypeError, x.long()),
                           (ef.DeviceError, x.to("meta"))):
            with pytest.raises(error):
                call(bad)
        with raises(ef.NumericError, row=3, column=1):
            call(torch.where((torch.arange(20) == 3)[:, None] & (torch.arange(3) == 1), torch.nan, x))
    with pytest.raises(ef.ShapeError):
        FlowModule(glow(), channels="first")(torch.from_numpy(images[0]))
    for error, make in ((ef.ConfigError, lambda: FlowModule(glow(), channels="nchw")), (TypeError, lambda: FlowModule({})),
                        (ef.ConfigError, lambda: module(x, label=1))):
        with pytest.raises(error):
            make()
