"""The library against a re-statement of its models in plain torch (see oracle/), in float64."""


import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracle  # noqa: E402
from oracle import optim  # noqa: E402
from oracle.cases import CASES  # noqa: E402

import evenflow as ef  # noqa: E402

torch.set_num_threads(1)  # the models are tiny: waking threads would be nearly all of the time

TOLERANCE = 1e-10
FIXED = {"permutation", "sign", "mean", "var", "std", "matrix"}  # ends of the names of untrained tensors
NOISE = {"Glow": 0.03, "NICE": 0.1, "RealNVP": 0.1, "CouplingFlow": 0.1}  # moves every tensor, keeps the models well conditioned

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def trained(name):
    return name.rpartition(".")[2] not in FIXED


def make_data(case, n=12, seed=3):
    """(x, given): images in levels 0 ... 2^bits, tables with correlated columns; labels, a context or None."""
    rng = np.random.default_rng(seed)
    if len(case.shape) == 3:
        x = rng.uniform(0, 2.0 ** case.config["bits"], (n, *case.shape))
    elif case.base == "uniform":
        x = rng.uniform(size=(n, *case.shape))
    else:
        d = case.shape[0]
        x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + 0.5
    if case.context:
        return x, rng.normal(size=(n, case.context)) * 3 + 5
    return x, rng.integers(0, case.classes, n).astype(np.int32) if case.classes else None


def to_torch(given):
    return None if given is None else torch.from_numpy(given)


def draw_params(case, seed=0, scale=0.2):
    """Parameters of a case without the library."""
    x, given = make_data(case)
    params = oracle.RandomParams(seed, scale)
    oracle_loss(case, params, torch.from_numpy(x), to_torch(given))
    return dict(params)


def oracle_loss(case, params, x, given):
    """The training loss: mean NLL, plus the weighted classification loss."""
    if case.family == "Glow":
        nll, class_nll = oracle.glow.loss(params, x, case.config, given)
        return nll + case.config["class_weight"] * class_nll
    z, logdet = case.forward(params, x, case.config, given, training=True)
    return oracle.mean_nll(z, logdet, case.base)


# The oracle by itself.


@every_case
def test_logdet_of_the_oracle_is_that_of_its_jacobian(case):
    params = draw_params(case)
    x, given = (torch.from_numpy(a[:1]) if a is not None else None for a in make_data(case))

    def latent(flat):
        return case.forward(params, flat.reshape(x.shape), case.config, given, training=False)[0][0]

    jacobian = torch.autograd.functional.jacobian(latent, x.flatten())
    expected = torch.linalg.slogdet(jacobian).logabsdet
    logdet = case.forward(params, x, case.config, given, training=False)[1]
    assert logdet.shape == (1,)
    assert abs(logdet[0] - expected) < 1e-9 * max(1, abs(expected))


# The library against the oracle.


def make_flow(case, data, seed=5):
    """A float64 flow, initialised on the data, with every trained tensor moved by noise."""
    settings = dict(case.config)
    if len(case.shape) == 1:
        settings.pop("bits", None)
    shape = case.shape[0] if len(case.shape) == 1 else case.shape
    flow = getattr(ef, case.family)(shape, **settings, seed=1, dtype="float64")
    x, given = data
    flow.init(x, context=given if case.context else None)
    rng = np.random.default_rng(seed)
    values = flow.named_parameters()
    for name in sorted(flow.named_grads()):
        values[name] += NOISE[case.family] * rng.normal(size=values[name].shape)
    return flow


def read_params(flow):
    """(trained, all): leaf tensors with gradients, and these with the rest, by name."""
    values = {name: torch.from_numpy(np.array(view)) for name, view in flow.named_parameters().items()}
    return {name: values[name].requires_grad_() for name in flow.named_grads()}, values


def error(got, expected):
    """max |got - expected| relative to max(1, max |expected|)."""
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / max(1.0, np.abs(expected).max())


def assert_close(got, expected):
    """Compares dicts of arrays; says which one is worst."""
    assert got.keys() == expected.keys()
    errors = {name: error(got[name], expected[name]) for name in expected}
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    assert errors[worst] <= TOLERANCE, f"worst is {worst}: {errors[worst]:.3e}"


def by_name(case, given):
    return {} if given is None else {"context" if case.context else "label": given}


@every_case
def test_latent_and_logdet(case):
    data = x, given = make_data(case)
    flow = make_flow(case, data)
    with torch.no_grad():
        z, logdet = case.forward(read_params(flow)[1], torch.from_numpy(x), case.config, to_torch(given),
                                 training=False)
    got_z, got_logdet = flow.forward(x, **by_name(case, given))
    log_prob = oracle.base_log_prob(z, case.base) + logdet
    assert_close({"z": got_z, "logdet": got_logdet, "log_prob": flow.log_prob(x, **by_name(case, given))},
                 {"z": z, "logdet": logdet, "log_prob": log_prob})


@pytest.mark.parametrize("budget", [0, None])
@every_case
def test_loss_and_every_gradient(case, budget):
    data = x, given = make_data(case)
    flow = make_flow(case, data)
    leaves, values = read_params(flow)
    expected_loss = oracle_loss(case, values, torch.from_numpy(x), to_torch(given))
    expected = dict(zip(leaves, torch.autograd.grad(expected_loss, list(leaves.values()))))

    flow.zero_grad()
    loss = flow.loss_and_grad(x, activation_budget=budget, **by_name(case, given))
    assert abs(loss - expected_loss.item()) <= TOLERANCE * max(1, abs(expected_loss.item()))
    assert not flow.last_step["fallback"]
    assert_close(flow.named_grads(), expected)


@every_case
def test_gradient_of_log_prob_by_x(case):
    x, given = data = make_data(case)
    flow = make_flow(case, data)
    flow.grads[...] = 0.5
    at = torch.from_numpy(x).requires_grad_()
    z, logdet = case.forward(read_params(flow)[1], at, case.config, to_torch(given), training=False)
    log_prob = oracle.base_log_prob(z, case.base) + logdet
    got, grad = flow.log_prob_and_grad(x, **by_name(case, given))
    assert_close({"log_prob": got, "grad": grad},
                 {"log_prob": log_prob.detach(), "grad": torch.autograd.grad(log_prob.sum(), at)[0]})
    assert (flow.grads == 0.5).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.config.get("batch_norm")], ids=lambda case: case.name)
def test_running_statistics_move_by_a_tenth(case):
    data = x, given = make_data(case)
    flow = make_flow(case, data)
    before = read_params(flow)[1]
    batch = {}
    with torch.no_grad():
        case.forward(before, torch.from_numpy(x), case.config, to_torch(given), training=True, batch_stats=batch)
    flow.loss_and_grad(x, **by_name(case, given))
    after = flow.named_parameters()
    assert_close({name: after[name] for name in batch},
                 {name: before[name] - 0.1 * (before[name] - value) for name, value in batch.items()})


@pytest.mark.parametrize("kind", ["standardize", "zca", "whiten"])
def test_init_fits_the_preprocessing(kind):
    case = next(c for c in CASES if c.name == "nice-" + kind)
    x, _ = make_data(case)
    values = make_flow(case, (x, None)).named_parameters()
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    expected = {"preprocess.mean": mean}
    if kind == "standardize":
        expected["preprocess.std"] = x.std(0)
    elif kind == "zca":
        variances, axes = np.linalg.eigh(covariance)
        expected["preprocess.matrix"] = axes / np.sqrt(variances + 1e-3) @ axes.T
    else:
        expected["preprocess.matrix"] = np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert_close({name: values[name] for name in expected}, expected)


def decay_group(flow):
    """Names of the tensors that L2 acts on."""
    return {name for name, _, group, _, _ in flow.entries() if group == "decay"}


# eps is large enough that gradients that are zero but for rounding (biases before a batch norm) move nothing.
OPTIMIZERS = {
    "adam": (lambda flow, **s: ef.Adam(flow, **s), dict(lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-4)),
    "adamax": (lambda flow, **s: ef.Adamax(flow, **s),
               dict(lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-4, shrink=0.999)),
    "sgd": (lambda flow, **s: ef.SGD(flow, **s), dict(lr=1e-5, momentum=0.9)),
    "rmsprop": (lambda flow, **s: ef.RMSProp(flow, **s), dict(lr=1e-3, momentum=0.5, decay=0.95, eps=1e-2)),
}
TRAINED_CASES = ["glow-class-head", "nice-image", "table-all", "image-rgb", "image-no-batch-norm",
                 "glow-context", "table-context", "image-context"]


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("case", [c for c in CASES if c.name in TRAINED_CASES], ids=lambda case: case.name)
def test_ten_optimizer_steps(case, rule):
    data = x, given = make_data(case)
    flow = make_flow(case, data)
    make, settings = OPTIMIZERS[rule]
    decayed = decay_group(flow)
    optimizer = make(flow, weight_decay=0.01, **settings)
    leaves, values = read_params(flow)
    mine = optim.Optimizer(leaves, rule, decayed=decayed, weight_decay=0.01, **settings)
    losses, expected = [], []
    for _ in range(10):
        flow.zero_grad()
        losses.append(flow.loss_and_grad(x, **by_name(case, given)))
        optimizer.step()
        loss = oracle_loss(case, values, torch.from_numpy(x), to_torch(given))
        mine.step(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())))))
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)
    assert_close({name: flow.named_parameters()[name] for name in leaves},
                 {name: value.detach() for name, value in leaves.items()})
