"""Tables with a uniform base: densities on [0, 1]^D, as integrators want them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import evenflow as ef
from plain import plain_table

SETTINGS: dict[str, Any] = dict(law="spline", base="uniform", preprocess="none")


def make(columns: int, **settings: Any) -> ef.CouplingFlow:
    rng = np.random.default_rng(0)
    flow = plain_table(columns, couplings=4, hidden=(16,), **{**SETTINGS, **settings})
    flow.init(rng.uniform(size=(10, columns)))
    flow.params[:] += (0.3 * rng.normal(size=flow.params.shape)).astype(flow.dtype)
    return flow


@pytest.mark.slow
def test_importance_sampling_of_a_trained_flow_has_a_small_variance() -> None:
    """The integral of a peak and a ridge over the square: training by samples of the flow itself."""
    def integrand(x: np.ndarray) -> np.ndarray:
        value: np.ndarray = np.exp(-((x[:, 0] - 0.3) ** 2 + (x[:, 1] - 0.6) ** 2) / 0.02) + 0.1 * x.prod(1)
        return value

    flow = plain_table(2, couplings=4, hidden=(32,), bins=8, mask="log2", **SETTINGS)
    rng = np.random.default_rng(3)
    flow.init(rng.uniform(size=(100, 2)))
    optimizer = ef.Adam(flow, lr=5e-3)
    before = None
    for step in range(300):
        x, log_prob = flow.sample_and_log_prob(1000, seed=step)
        weight = integrand(x) / np.exp(log_prob)
        if before is None:
            before = weight.std() / weight.mean()
        flow.train_step(x, optimizer, sample_weight=weight / weight.mean())
    x, log_prob = flow.sample_and_log_prob(20000, seed=10**6)
    weight = integrand(x) / np.exp(log_prob)
    assert weight.std() / weight.mean() < before / 3
    at = (np.arange(500) + 0.5) / 500
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    assert weight.mean() == pytest.approx(integrand(grid).mean(), abs=4 * weight.std() / np.sqrt(20000))


@pytest.mark.parametrize("value", [-0.01, 1.25])
def test_a_value_outside_is_named(value: float) -> None:
    flow = make(3)
    x = np.full((5, 3), 0.5)
    x[2, 1] = value
    for call in (flow.log_prob, flow.forward, flow.encode, flow.loss_and_grad, flow.init):
        with pytest.raises(ef.NumericError, match=rf"expected values in \[0, 1\] for column 1, got {value:g} for sample 2"):
            call(x)
    with pytest.raises(ef.NumericError):
        flow.decode(x)
    with pytest.raises(ef.ConfigError, match="a uniform base has no temperature but 1, got 0.7"):
        flow.sample(2, temperature=0.7)
    assert list(flow.base_log_prob(x.astype(np.float32))) == [0, 0, -np.inf, 0, 0]


@pytest.mark.parametrize("wrong, text", [
    (dict(law="affine"), "law spline"), (dict(bound=3.0), "no bound"), (dict(preprocess="standardize"), "preprocess none"),
    (dict(bounds=[(0, 1)] * 3), "no bounds"), (dict(permutation="lu"), "permutation none, reverse or shuffle"),
    (dict(batch_norm=True), "no batch_norm and no actnorm"), (dict(actnorm=True), "no batch_norm and no actnorm"),
])
def test_what_leads_out_of_the_box_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ef.ConfigError, match=f"base uniform takes {text}: "):
        plain_table(3, **{**SETTINGS, **wrong})


def test_a_module_of_torch_has_the_same_base() -> None:
    torch = pytest.importorskip("torch")
    flow = make(3)
    module = ef.torch.FlowModule(flow) if hasattr(ef, "torch") else __import__("evenflow.torch").torch.FlowModule(flow)
    z = module.base_sample(1000)
    assert z.min() >= 0 and z.max() <= 1
    assert module.base_log_prob(z).tolist() == [0.0] * 1000
    z[1, 2] = 1.5
    assert module.base_log_prob(z)[:3].tolist() == [0.0, -torch.inf, 0.0]
