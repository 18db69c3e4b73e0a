"""The rules of the torch bridge: modules with more in them than the flow, copies, changes between calls."""

import copy
import io
import os
import pickle
import signal
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parameters import assert_same, values  # noqa: E402

from evenflow.torch import FlowModule  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def x(table):
    return torch.from_numpy(table[:20])


@pytest.fixture
def flow(table, real_nvp):
    flow = real_nvp(dtype="float64")
    flow.init(table)
    return flow


@pytest.fixture
def batch_norm(table, real_nvp):
    flow = real_nvp(dtype="float64", batch_norm=True)
    flow.init(table * [1, 2, 3] + 1)
    return FlowModule(flow)


class Extended(FlowModule):
    """A flow, and beside it a parameter, a buffer, a submodule and a second name of one of the flow's parameters."""

    def __init__(self, flow, rate=0.5):
        super().__init__(flow)
        self.rate = rate
        self.scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.alias = self.get_parameter("coupling0.dense2.bias")
        self.register_buffer("shift", torch.zeros(3, dtype=torch.float64))
        self.head = torch.nn.Linear(3, 2, dtype=torch.float64)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_module_may_have_more_than_the_flow(flow, x, backend):
    module, plain = Extended(flow), FlowModule(flow)

    def losses(m, x):
        z, _ = m(x)
        return m.loss(x) - m.log_prob(x).mean() + m.inverse(z)[0].mean()

    call = losses if backend is None else torch.compile(losses, backend=backend, fullgraph=True)
    wanted = torch.autograd.grad(losses(plain, x), list(plain.parameters()))
    (call(module, x) + module.head(x * module.scale + module.shift).mean()).backward()
    for (name, _), grad in zip(plain.named_parameters(), wanted):
        torch.testing.assert_close(module.get_parameter(name).grad, grad)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert module.sample(3).shape == (3, 3)


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def count_calls(module, *_):
    module.calls = getattr(module, "calls", 0) + 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved_and_loaded])
def test_copies_have_all_of_a_module(flow, x, duplicate):
    module = Extended(flow, rate=0.1).eval()
    module.alias.requires_grad_(False)
    module.register_forward_hook(count_calls)
    with torch.no_grad():
        module.shift += 3
        module.scale *= 2
    twin = duplicate(module)
    assert (type(twin), twin.rate, twin.training) == (Extended, 0.1, False)
    assert list(twin.state_dict()) == list(module.state_dict())
    for name, value in module.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in module.parameters()]
    assert torch.equal(twin(x)[0], module(x)[0]) and twin.calls == 1
    before = module.log_prob(x)
    with torch.no_grad():
        twin.alias += 0.1  # one of the flow's, still
    assert torch.equal(torch.from_numpy(twin.flow.named_parameters()["coupling0.dense2.bias"]), twin.alias)
    assert torch.equal(module.log_prob(x), before) and not torch.equal(twin.log_prob(x), before)


def test_compiled_losses_update_running_statistics(batch_norm, x):
    eager, unused = copy.deepcopy(batch_norm), copy.deepcopy(batch_norm)

    def step(module, x):
        with torch.no_grad():
            before = module.log_prob(x).mean()
        return before, module.loss(x)

    def drop(module, x):
        module.loss(x)
        return x

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    start = batch_norm.state_dict()["batch_norm0.var"].clone()
    for n in (20, 10, 5):
        wanted, got = step(eager, x[:n]), compiled(batch_norm, x[:n])
        assert torch.equal(wanted[0], got[0]) and torch.equal(wanted[1], got[1])
        torch.compile(drop, backend="aot_eager", fullgraph=True)(unused, x[:n])
    for module in (batch_norm, unused):
        assert not torch.equal(module.state_dict()["batch_norm0.var"], start)
        for name, value in eager.state_dict().items():
            assert torch.equal(module.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["flow", "batch_norm"])
def test_a_loss_has_its_gradient_at_once(request, x, name):
    made = request.getfixturevalue(name)
    module = made if name == "batch_norm" else FlowModule(made)
    parameters = list(module.parameters())
    twin = copy.deepcopy(module)
    wanted = torch.autograd.grad(twin.loss(x), list(twin.parameters()))
    loss = module.loss(x)
    module.loss(x).backward()
    torch.optim.SGD(parameters, lr=1e-3).step()
    module.zero_grad()
    loss.backward()
    for parameter, grad in zip(parameters, wanted):
        assert torch.equal(parameter.grad, grad)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")  # of torch itself
@pytest.mark.parametrize("name", ["forward", "log_prob", "inverse", "loss"])
def test_forward_mode_is_refused(flow, x, name):
    """Torch itself would give zeros."""
    module, refused = FlowModule(flow), pytest.raises(RuntimeError)
    call, tangent = getattr(module, name), torch.ones_like(x)
    with refused:
        torch.func.jvp(call, (x,), (tangent,))
    with refused, torch.autograd.forward_ad.dual_level(), torch.no_grad():
        call(torch.autograd.forward_ad.make_dual(x, tangent))
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    with refused:
        torch.func.jvp(lambda p: torch.func.functional_call(module, p, (x,)), (parameters,), (parameters,))

    def inner(outer):
        return torch.func.jvp(lambda factor: call(outer) * factor, (torch.ones(()),), (torch.ones(()),))[1]
    with refused:
        torch.func.jvp(inner, (x,), (tangent,))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_beside_a_gradient(flow, x):
    """The thread that holds the lock at the fork stays in the parent; the child must not wait for it."""
    module, code = FlowModule(flow), 1
    module.loss(x)
    inside, done = threading.Event(), threading.Event()

    def hold(*_, **__):
        inside.set()
        done.wait(60)
        return 0.0

    busy = FlowModule(copy.deepcopy(flow))
    busy.flow.loss_and_grad = hold
    thread = threading.Thread(target=busy.loss, args=(x,))
    thread.start()
    inside.wait(60)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            module.loss(x).backward()
            code = 0
        finally:
            os._exit(code)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_weighted_losses(flow, batch_norm, x, backend):
    weights = np.random.default_rng(0).exponential(size=20)

    def loss(module, w):
        return module.loss(x, sample_weight=w)

    call = torch.compile(loss, backend=backend) if backend else loss
    for module in (FlowModule(flow), batch_norm):
        own = copy.deepcopy(module.flow)
        own.zero_grad()
        wanted = own.loss_and_grad(x.numpy(), sample_weight=weights)
        for w in (torch.from_numpy(weights), weights.tolist() if backend is None else torch.from_numpy(weights)):
            again = copy.deepcopy(module)
            value = call(again, w)
            (2 * value).backward()
            assert value.item() == wanted
            for name, parameter in again.named_parameters():
                np.testing.assert_allclose(parameter.grad, 2 * own.named_grads()[name], rtol=1e-12, atol=1e-14)
    plain = -(torch.from_numpy(weights) * FlowModule(flow).log_prob(x)).mean()
    assert FlowModule(flow).loss(x, sample_weight=weights).item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_losses_of_rows(flow, batch_norm, x, backend):
    """Their gradients are those of log_prob, whether rows count alike or not."""
    def losses(module):
        return module.loss(x, reduction="none")

    weights = torch.from_numpy(np.random.default_rng(0).exponential(size=20))
    call = torch.compile(losses, backend=backend) if backend else losses
    for weigh in (torch.mean, torch.sum, lambda rows: (weights * rows).mean()):
        module, twin = FlowModule(copy.deepcopy(flow)), FlowModule(copy.deepcopy(flow))
        rows, wanted = call(module), -twin.log_prob(x)
        np.testing.assert_allclose(rows.detach(), wanted.detach(), rtol=1e-12)
        weigh(rows).backward()
        weigh(wanted).backward()
        for (name, parameter), other in zip(module.named_parameters(), twin.parameters()):
            np.testing.assert_allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-12, err_msg=name)
        again, moments = copy.deepcopy(batch_norm), copy.deepcopy(batch_norm)
        weigh(call(again)).backward()
        if weigh is torch.mean:
            moments.loss(x).backward()
        else:
            moments.loss(x, sample_weight=20 * torch.ones(20) if weigh is torch.sum else weights).backward()
        assert_same(again.flow, values(moments.flow))
        for parameter, other in zip(again.parameters(), moments.parameters()):
            np.testing.assert_allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_a_module_sent_to_a_process_stays_the_flows(flow, x):
    """Torch moves what it sends into shared memory, out of the flow's."""
    for module in (FlowModule(flow), Extended(flow), torch.nn.Sequential(FlowModule(flow))):
        wanted = module(x)[0]
        copied = pickle.loads(ForkingPickler.dumps(module))
        assert torch.equal(copied(x)[0], wanted)
        before = flow.params.copy()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1)
        assert torch.equal(copied(x)[0], wanted) and not np.array_equal(flow.params, before)
        assert not torch.equal(module(x)[0], wanted)


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="torch has no such tag")
def test_operators_stay_out_of_cuda_graphs():
    for name in ("transform", "transform_vjp", "loss", "losses_vjp", "sample"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.evenflow, name).default.tags
