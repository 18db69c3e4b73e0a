"""Flows of other libraries as models of evenflow: the same log-densities, samples that the source scores alike."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from raised import raises

torch = pytest.importorskip("torch")

import evenflow as ef  # noqa: E402

D, N = 5, 300

# nflows calls what torch gives up, normflows what numpy does.
pytestmark = [pytest.mark.filterwarnings("ignore:torch.(lu|triangular_solve) is deprecated"),
              pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context")]



@pytest.fixture(autouse=True)
def same_modules() -> None:
    """Modules draw permutations and weights from torch's and numpy's own generators."""
    torch.manual_seed(0)
    np.random.seed(0)


def shaken(module: Any, scale: float = 0.1) -> Any:
    """With weights that a training might have left."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter += scale * torch.randn_like(parameter)
        for name, buffer in module.named_buffers():  # of batch norm
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
            if name.endswith("running_mean"):
                buffer.copy_(0.5 * torch.randn_like(buffer))
    return module.eval()


def check(module: Any, log_prob: Any, context: int = 0, dims: int = D, exactness: float = 0, **settings: Any) -> ef.Flow:
    """The converted flow, whose densities are those of the module in float32 and float64.

    exactness: of the module itself, where that is less.
    """
    exact = ef.convert(module, dtype="float64")
    c = np.random.default_rng(1).normal(size=(N, context)) + 0.5
    x = exact.sample(N, seed=1, context=c if context else None)
    for dtype, bound in (("float64", 1e-10), ("float32", 1e-5)):
        source = copy.deepcopy(module).double() if dtype == "float64" else copy.deepcopy(module)
        flow = ef.convert(source)
        assert flow.dtype.name == dtype and flow.context == context
        values, given = x.astype(dtype), c.astype(dtype)
        with torch.no_grad():
            theirs = log_prob(copy.deepcopy(module).double(), *(torch.from_numpy(part) for part in (
                values.astype(float), *((given.astype(float),) if context else ())))).numpy()
        ours = flow.log_prob(values, context=given if context else None)
        error = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
        assert error.max() < max(bound, exactness), (dtype, error.max())
        assert {name: flow.config.get(name, "mlp") for name in settings} == settings
    return flow


def of_nflows(flow: Any, x: Any, c: Any = None) -> Any:
    return flow.log_prob(x, c)


def nflows_flow(couplings: list[Any], between: Any, dims: int = D, base: Any = None, embedding: Any = None) -> Any:
    """Couplings with what `between` makes in front of each, and after the last."""
    flows, transforms = pytest.importorskip("nflows.flows"), pytest.importorskip("nflows.transforms")
    from nflows.distributions.normal import StandardNormal
    steps: list[Any] = []
    for coupling in couplings:
        steps += [*between(transforms), coupling]
    return shaken(flows.Flow(transforms.CompositeTransform([*steps, *between(transforms)]),
                             base or StandardNormal([dims]), embedding))


def residual(context: int | None = None, **more: Any) -> Any:
    from nflows.nn.nets import ResidualNet
    return lambda inputs, outputs: ResidualNet(inputs, outputs, 7, context, **more)


def masks(dims: int = D) -> list[list[int]]:
    return [([1, -1] * dims)[:dims], ([-1, 1] * dims)[:dims], [1] + [-1] * (dims - 1)]


@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize("kind", ["affine", "additive", "spline", "unconditional"])
def test_couplings_of_nflows(kind: str, context: int | None) -> None:
    transforms = pytest.importorskip("nflows.transforms")
    spline = dict(num_bins=4, tails="linear", tail_bound=2.5, apply_unconditional_transform=kind == "unconditional")
    make, more = {"affine": (transforms.AffineCouplingTransform, {}),
                  "additive": (transforms.AdditiveCouplingTransform, {})}.get(
        kind, (transforms.PiecewiseRationalQuadraticCouplingTransform, spline))
    couplings = [make(mask, residual(context, activation=torch.tanh, dropout_probability=0.1), **more)
                 for mask in masks()]

    def between(t: Any) -> list[Any]:
        return [t.RandomPermutation(D), t.LULinear(D), t.BatchNorm(D)]

    flow = check(nflows_flow(couplings, between), of_nflows, context or 0, net="residual", activation="tanh",
                 dropout=0.1, permutation="lu", mix_last=True, actnorm=True, preprocess="whiten")
    if kind == "unconditional":
        assert flow.config["unconditional"]


def test_a_standardising_embedding_net() -> None:
    transforms = pytest.importorskip("nflows.transforms")

    class Standardize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([1.0, -2.0]))
            self.register_buffer("std", torch.tensor([0.5, 3.0]))

        def forward(self, x: Any) -> Any:
            return (x - self.mean) / self.std

    couplings = [transforms.AffineCouplingTransform(mask, residual(2)) for mask in masks()]
    embedding = torch.nn.Sequential(Standardize(), torch.nn.Identity())
    flow = check(nflows_flow(couplings, lambda t: [], embedding=embedding), of_nflows, 2)
    np.testing.assert_allclose(flow.named_parameters()["context.std"], [0.5, 3])
    embedding = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    with raises(ef.ConfigError, argument="module"):
        ef.convert(nflows_flow(couplings, lambda t: [], embedding=embedding))


@pytest.mark.parametrize("dims, condition", [(5, 3), (2, 2), (1, 2)])
def test_estimators_of_sbi(dims: int, condition: int) -> None:
    flow_builders = pytest.importorskip("sbi.neural_nets.net_builders")
    x, y = torch.randn(100, dims) * 3 + 1, torch.randn(100, condition) * 2 - 1
    estimator = flow_builders.build_nsf(x, y, hidden_features=11, num_transforms=3)
    shaken(estimator)

    def log_prob(module: Any, x: Any, c: Any) -> Any:
        return module.log_prob(x[None], c)[0]

    # sbi rounds the constant of its base to float32.
    flow = check(estimator, log_prob, condition, dims, 1e-7, law="spline", bins=10, preprocess="standardize")
    assert flow.shape == (dims,)


@pytest.mark.parametrize("scale_map", ["exp", "sigmoid", None])
@pytest.mark.parametrize("dims", [4, 5])
def test_affine_couplings_of_normflows(scale_map: str | None, dims: int) -> None:
    nf = pytest.importorskip("normflows")
    layers: list[Any] = []
    for k in range(3):
        first, numbers = (dims + 1) // 2, 2 if scale_map else 1
        inputs = first if k < 2 else dims - first
        net = nf.nets.MLP([inputs, 9, 8, numbers * (dims - inputs)], dropout=0.2)
        layers += [nf.flows.AffineCouplingBlock(net, scale=scale_map is not None, scale_map=scale_map or "exp",
                                                split_mode="channel" if k < 2 else "channel_inv"),
                   nf.flows.Permute(dims, mode="swap" if k == 0 else "shuffle"), nf.flows.ActNorm(dims)]
    module = nf.NormalizingFlow(nf.distributions.DiagGaussian(dims), layers)
    for layer in layers[2::3]:
        layer.data_dep_init_done = torch.tensor(1.0)
    law = {"exp": "exp", "sigmoid": "glow", None: "additive"}[scale_map]
    check(shaken(module), lambda m, x: m.log_prob(x), dims=dims, law=law, net="mlp", dropout=0.2)


def test_splines_of_normflows() -> None:
    nf = pytest.importorskip("normflows")
    layers = [layer for k in range(3) for layer in (
        nf.flows.CoupledRationalQuadraticSpline(D, 2, 8, num_bins=6, reverse_mask=k % 2 == 1), nf.flows.LULinearPermute(D))]
    module = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), layers)
    check(shaken(module), lambda m, x: m.log_prob(x), law="spline", bins=6, unconditional=True)


def test_splines_of_normflows_on_the_box() -> None:
    nf = pytest.importorskip("normflows")
    layers = [nf.flows.CoupledRationalQuadraticSpline(D, 2, 8, num_bins=6, reverse_mask=k % 2 == 1, tails=None,
                                                      tail_bound=1.0) for k in range(4)]
    layers.insert(2, nf.flows.Permute(D))
    module = nf.NormalizingFlow(nf.distributions.base.Uniform(D, 0.0, 1.0), layers)
    check(shaken(module), lambda m, x: m.log_prob(x), base="uniform")


@pytest.mark.parametrize("classes", [None, 4])
def test_glow_of_normflows(classes: int | None) -> None:
    nf = pytest.importorskip("normflows")
    levels = [[nf.flows.GlowBlock(channels, 16, split_mode="channel", scale=True) for _ in range(2)]
              + [nf.flows.Squeeze()] for channels in (8, 4)]
    bases = [nf.distributions.GlowBase((8, 2, 2), num_classes=classes), nf.distributions.GlowBase((2, 4, 4))]
    module = nf.MultiscaleFlow(bases, levels, [nf.flows.Merge()], class_cond=classes is not None)
    images = torch.randint(0, 256, (64, 1, 8, 8)).float() / 256
    label = torch.arange(64) % 4
    module.log_prob(images, label)  # ActNorm's start
    shaken(module, 0.03).double()
    flow = ef.convert(module)
    assert isinstance(flow, ef.Glow) and flow.classes == (classes or 0)
    x = images.double()
    with torch.no_grad():
        theirs = module.log_prob(x, label).numpy()
    ours = flow.log_prob(256 * x.numpy().transpose(0, 2, 3, 1), label=label.numpy() if classes else None)
    np.testing.assert_allclose(ours + 64 * np.log(256), theirs, rtol=1e-10)


def of_freia(inn: Any, x: Any, c: Any = None) -> Any:
    z, logdet = inn(x) if c is None else inn(x, c=[c])
    return -0.5 * (z**2).sum(1) - 0.5 * math.log(2 * math.pi) * z.shape[1] + logdet


@pytest.mark.parametrize("options", [{}, dict(permute_soft=True), dict(learned_householder_permutation=2),
                                     dict(reverse_permutation=True), dict(global_affine_type="SIGMOID")])
@pytest.mark.parametrize("context", [0, 2])
def test_blocks_of_freia(options: dict[str, Any], context: int) -> None:
    pytest.importorskip("FrEIA")
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import AllInOneBlock

    def subnet(inputs: int, outputs: int) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(inputs, 12), torch.nn.SiLU(), torch.nn.Linear(12, outputs))

    inn = SequenceINN(D)
    for _ in range(3):
        condition = dict(cond=0, cond_shape=(context,)) if context else {}
        inn.append(AllInOneBlock, subnet_constructor=subnet, **condition, **options)
    # Its soft permutations are orthogonal to float32, and their log-determinant counts as 0.
    check(shaken(inn), of_freia, context, law="affine", activation="silu",
          exactness=1e-7 if "permute_soft" in options else 0)


@pytest.mark.parametrize("clamp", ["TANH", "SIGMOID"])
def test_glow_blocks_of_freia(clamp: str) -> None:
    pytest.importorskip("FrEIA")
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
    inn = SequenceINN(D)
    for k in range(2):
        inn.append(GLOWCouplingBlock, clamp=2.0, clamp_activation=clamp, subnet_constructor=lambda n, m: torch.nn.Sequential(
            torch.nn.Linear(n, 12), torch.nn.ReLU(), torch.nn.Linear(12, m)))
        inn.append(PermuteRandom, seed=k)
    check(shaken(inn), of_freia, law="affine", permutation="none", couplings=4)
    inn.append(GLOWCouplingBlock, clamp=2.0, subnet_constructor=torch.nn.Linear)
    with raises(ef.ConfigError, argument="module"):
        ef.convert(inn)


def test_a_module_that_has_been_used() -> None:
    """nflows caches matrices, FrEIA its permutation, both with the graph of the last call."""
    transforms = pytest.importorskip("nflows.transforms")
    couplings = [transforms.AffineCouplingTransform(mask, residual()) for mask in masks()]
    module = nflows_flow(couplings, lambda t: [t.LULinear(D, using_cache=True)])
    x = torch.linspace(-1, 1, 2 * D).reshape(2, D)
    wanted = module.log_prob(x)
    for flow in (ef.convert(module), ef.convert(module, dtype="float64")):
        np.testing.assert_allclose(flow.log_prob(x.numpy()), wanted.detach(), rtol=1e-5)
    framework, modules = pytest.importorskip("FrEIA.framework"), pytest.importorskip("FrEIA.modules")
    inn = framework.SequenceINN(D)
    inn.append(modules.AllInOneBlock, learned_householder_permutation=2, subnet_constructor=torch.nn.Linear)
    before = inn(x)
    np.testing.assert_allclose(ef.convert(inn).log_prob(x), of_freia(inn, x).detach(), rtol=1e-5)
    assert torch.equal(inn(x)[0], before[0])


def test_a_converted_model_is_an_ordinary_one(tmp_path: Any) -> None:
    transforms = pytest.importorskip("nflows.transforms")
    couplings = [transforms.AffineCouplingTransform(mask, residual()) for mask in masks()]
    module = nflows_flow(couplings, lambda t: [t.LULinear(D)]).float()
    flow = ef.convert(module)
    assert flow.dtype == np.float32 and ef.convert(module, dtype="float64").dtype == np.float64
    x = flow.sample(200, seed=0)
    assert flow.verify(x).ok
    flow.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(ef.load(tmp_path / "model.safetensors").log_prob(x), flow.log_prob(x))
    before = flow.log_prob(x).mean()
    flow.fit(x, steps=20, lr=1e-3)
    assert flow.log_prob(x).mean() > before


class Gated(torch.nn.Module):
    """Lists all that it has, but multiplies the outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(inputs, 6), torch.nn.ReLU(), torch.nn.Linear(6, outputs))

    def forward(self, x: Any, context: Any = None) -> Any:
        return 1.5 * self.layers(x)


def test_what_has_no_counterpart_is_refused_by_name() -> None:
    transforms = pytest.importorskip("nflows.transforms")

    def affine(net: Any = None, mask: Any = None) -> Any:
        return transforms.AffineCouplingTransform(masks()[0] if mask is None else mask, net or residual())

    def refused(module: Any) -> None:
        with raises(ef.ConfigError, argument="module"):
            ef.convert(module)

    quadratic = transforms.PiecewiseQuadraticCouplingTransform(masks()[0], residual(), tails="linear", tail_bound=2.0)
    refused(nflows_flow([affine(), quadratic], lambda t: []))
    refused(nflows_flow([affine()], lambda t: [t.Sigmoid()]))
    refused(nflows_flow([affine(residual(use_batch_norm=True))], lambda t: []))
    refused(nflows_flow([affine(residual(activation=lambda x: x**3))], lambda t: []))
    refused(nflows_flow([affine()], lambda t: [t.MaskedAffineAutoregressiveTransform(D, 8)]))
    refused(nflows_flow([affine(Gated)], lambda t: []))
    refused(nflows_flow([affine(), transforms.AdditiveCouplingTransform(masks()[1], residual())], lambda t: []))
    module = nflows_flow([affine()], lambda t: [])
    refused(module.state_dict())
    refused("flow")
    refused(torch.nn.Linear(2, 2))
    with raises(ef.ConfigError, argument="dtype"):
        ef.convert(module, dtype="float16")


def damaged_modules() -> list[Any]:
    transforms, nf = pytest.importorskip("nflows.transforms"), pytest.importorskip("normflows")
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import AllInOneBlock

    def couplings() -> list[Any]:
        return [transforms.AffineCouplingTransform(mask, residual()) for mask in masks()]

    def changed(module: Any, change: Any) -> Any:
        with torch.no_grad():
            change(module)
        return module

    def of_nflows(change: Any) -> Any:
        return changed(nflows_flow(couplings(), lambda t: [t.NaiveLinear(D, False)]), lambda m: change(
            dict(m.named_children())["_transform"]))

    def linear(net: Any) -> Any:
        return dict(net.named_modules())["_transforms.1.transform_net.final_layer"]

    inn = SequenceINN(D)
    inn.append(AllInOneBlock, subnet_constructor=torch.nn.Linear)
    spline = nf.NormalizingFlow(nf.distributions.DiagGaussian(D), [nf.flows.CoupledRationalQuadraticSpline(D, 2, 8)])
    glow = nf.MultiscaleFlow([nf.distributions.GlowBase((4, 2, 2))], [[nf.flows.GlowBlock(4, 8), nf.flows.Squeeze()]], [])
    return [
        of_nflows(lambda m: next(m.children())[0]._weight.zero_()),
        of_nflows(lambda m: next(m.children())[0]._weight.fill_(torch.nan)),
        of_nflows(lambda m: linear(m).weight.fill_(torch.inf)),
        of_nflows(lambda m: setattr(linear(m), "weight", torch.nn.Parameter(torch.ones(2, 2)))),
        of_nflows(lambda m: setattr(next(m.children())[1], "transform_features", torch.tensor([9]))),
        of_nflows(lambda m: delattr(next(m.children())[1], "transform_net")),
        changed(inn, lambda m: setattr(m.module_list[0], "splits", [1, 9])),
        changed(inn, lambda m: m.module_list[0].w_perm.zero_()),
        changed(spline, lambda m: delattr(m.flows[0].prqct, "num_bins")),
        changed(spline, lambda m: setattr(m.q0, "loc", torch.nn.Parameter(torch.zeros(1, 2)))),
        changed(glow, lambda m: delattr(m.flows[0][0].flows[0].flows[1], "param_map")),
    ]


def test_damaged_modules_are_refused_by_the_layers_name() -> None:
    pytest.importorskip("FrEIA")
    for module in damaged_modules():
        with raises(ef.ConfigError, argument="module"):
            ef.convert(module)
