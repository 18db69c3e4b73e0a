"""The residual nets of coupling flows against nflows' own, with the same weights, in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nets = pytest.importorskip("nflows.nn.nets")

import torch.nn.functional as F  # noqa: E402

from plain import plain_table  # noqa: E402

import evenflow as ef  # noqa: E402

ACTIVATIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu, "tanh": torch.tanh, "silu": F.silu, "elu": F.elu}
TOLERANCE = 1e-10
ROWS, DIMS, PASS, WIDTH, BLOCKS = 33, 5, 3, 14, 2


def layers_of(net):
    """Pairs of a linear layer of nflows' net, and the name of ours."""
    yield net.initial_layer, "coupling0.dense_in"
    for i, block in enumerate(net.blocks):
        yield from zip(block.linear_layers, (f"coupling0.block{i}.dense0", f"coupling0.block{i}.dense1"))
        if net.context_features:
            yield block.context_layer, f"coupling0.block{i}.gate"
    yield net.final_layer, "coupling0.dense_out"


def close(ours, theirs, name=""):
    np.testing.assert_allclose(ours, theirs.detach(), rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_and_gradients_are_those_of_nflows(activation, context):
    rng = np.random.default_rng(1)
    flow = plain_table(DIMS, context=context, couplings=1, law="additive", net="residual", hidden=(WIDTH,) * BLOCKS,
                           activation=activation, preprocess="none", dtype="float64")
    x = rng.normal(size=(ROWS, DIMS))
    given = {"context": rng.normal(size=(ROWS, context)) * 2 + 1} if context else {}
    flow.init(x, **given)
    flow.params[:] = 0.3 * rng.normal(size=flow.params.shape)
    values = flow.named_parameters()

    net = nets.ResidualNet(PASS, DIMS - PASS, WIDTH, context or None, BLOCKS, ACTIVATIONS[activation]).double()
    layers = list(layers_of(net))
    assert 2 * len(layers) == len([name for name in values if name.startswith("coupling0.")])
    for layer, name in layers:
        layer.weight.data = torch.from_numpy(values[f"{name}.weight"].T.copy())
        layer.bias.data = torch.from_numpy(values[f"{name}.bias"].copy())

    z, _ = flow.forward(x, **given)
    dz = rng.normal(size=z.shape)
    flow.zero_grad()
    _, dx = flow.backward(z, dz, np.zeros(ROWS), **given)[:2]

    passing = torch.tensor(x[:, :PASS], requires_grad=True)
    seen = None
    if context:
        seen = torch.from_numpy((given["context"] - values["context.mean"]) / values["context.std"])
    shift = net(passing, seen)
    shift.backward(torch.from_numpy(dz[:, PASS:]))
    close(z[:, PASS:] - x[:, PASS:], shift)
    close(dx[:, :PASS] - dz[:, :PASS], passing.grad)
    gradients = flow.named_grads()
    for layer, name in layers:
        close(gradients[f"{name}.weight"], layer.weight.grad.T, name)
        close(gradients[f"{name}.bias"], layer.bias.grad, name)


def test_parameters_start_as_in_nflows():
    """But for the last layer, which is zero, so that a coupling starts as the identity."""
    torch.manual_seed(0)
    values = plain_table(DIMS, context=2, couplings=1, net="residual", hidden=(200,)).named_parameters()
    net = nets.ResidualNet(PASS, DIMS - PASS, 200, 2, 1)
    for layer, name in list(layers_of(net))[:-1]:
        for kind in ("weight", "bias"):
            bound = getattr(layer, kind).detach().abs().max().item()
            assert np.abs(values[f"{name}.{kind}"]).max() == pytest.approx(bound, rel=0.1), (name, kind)
    assert not any(np.any(values[f"coupling0.dense_out.{kind}"]) for kind in ("weight", "bias"))


@pytest.mark.parametrize("hidden, text", [((), "got none"), ((8, 9), "got 8 and 9")])
def test_blocks_have_one_width(hidden, text):
    with pytest.raises(ef.ConfigError, match=text):
        plain_table(3, net="residual", hidden=hidden)


@pytest.mark.parametrize("settings", [dict(net="residual"), dict(activation="silu"),
                                      dict(net="residual", activation="tanh", conditioner_dtype="bfloat16")])
def test_a_model_file_comes_back(tmp_path, settings):
    flow = plain_table(4, couplings=2, hidden=(8, 8), context=1, **settings)
    rng = np.random.default_rng(2)
    x, context = rng.normal(size=(50, 4)).astype("float32"), rng.normal(size=(50, 1))
    flow.init(x, context=context)
    flow.params[:] += (0.1 * rng.normal(size=flow.params.shape)).astype("float32")
    flow.save(tmp_path / "model.safetensors")
    again = ef.load(tmp_path / "model.safetensors")
    assert again.config == flow.config
    assert {name: again.config[name] for name in settings} == settings
    np.testing.assert_array_equal(again.log_prob(x, context=context), flow.log_prob(x, context=context))


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("net", ["mlp", "residual"])
def test_a_row_has_its_bits_alone_and_among_others(net, activation, context):
    rng = np.random.default_rng(3)
    flow = plain_table(5, couplings=2, net=net, hidden=(21, 21), activation=activation, context=context, threads=2)
    x = rng.normal(size=(700, 5)).astype("float32")
    given = rng.normal(size=(700, context)).astype("float32")

    def log_prob(n):
        return flow.log_prob(x[:n], context=given[:n] if context else None)

    flow.init(x, context=given if context else None)
    flow.params[:] += (0.2 * rng.normal(size=flow.params.shape)).astype("float32")
    together = log_prob(700)
    for n in (1, 2, 5, 16, 33, 129):
        np.testing.assert_array_equal(log_prob(n), together[:n])
