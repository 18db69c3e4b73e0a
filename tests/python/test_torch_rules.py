"""The rules of the torch bridge: modules with more in them than the flow, copies, changes between calls."""

import pytest

torch = pytest.importorskip("torch")

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


class Extended(FlowModule):
    """A flow, and beside it a parameter, a buffer, a submodule and a second name of one of the flow's parameters."""

    def __init__(self, flow, rate=0.5):
        super().__init__(flow)
        self.rate = rate
        self.scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.alias = self.get_parameter("coupling0.dense0.weight")
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
