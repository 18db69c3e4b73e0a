"""Flows of tables: what splines, masks, dropout, a single column and a uniform base are, beyond test_flows.py."""

from typing import Any

import numpy as np
import pytest
from plain import plain_table

import evenflow as ef

@pytest.mark.slow
def test_training_fits_what_an_affine_coupling_can_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) * 0.2 + rng.choice([-1.0, 1.0], size=(4000, 2))
    scores = {}
    for law in ("affine", "spline"):
        flow = plain_table(2, law=law, couplings=4, hidden=(32, 32))
        flow.fit(x[:3000].astype(np.float32), epochs=30, batch_size=250)
        scores[law] = float(np.mean(flow.log_prob(x[3000:].astype(np.float32))))
    assert scores["spline"] > scores["affine"] + 0.02
    truth = 2 * (-0.5 * np.log(2 * np.pi * np.e * 0.04) - np.log(2))
    assert scores["spline"] > truth - 0.1


def test_settings_of_splines() -> None:
    flow = plain_table(3, law="spline", bins=12, bound=5)
    assert flow.config["bins"] == 12 and flow.config["bound"] == 5
    assert "bins" not in plain_table(3).config
    with pytest.raises(ef.ConfigError):
        plain_table(3, bins=4)
    for wrong in (dict(bins=0), dict(bins=65), dict(bound=0), dict(bound=-1), dict(bound=np.inf)):
        with pytest.raises(ef.ConfigError):
            plain_table(3, law="spline", **wrong)


def test_without_a_context_numbers_are_parameters() -> None:
    flow = plain_table(1, law="spline", bins=5, couplings=2)
    assert {name: view.shape for name, view in flow.named_parameters().items() if name.endswith("numbers")} == {
        "coupling0.numbers": (14, 1), "coupling1.numbers": (14, 1)}
    assert flow.num_params == 28


def test_settings_for_several_columns_have_no_effect() -> None:
    x = np.linspace(-2, 2, 50)[:, None]
    plain, other = (plain_table(1, couplings=2, **settings) for settings in
                    ({}, dict(mask="log2", permutation="lu", hidden=(4, 4))))
    for flow in (plain, other):
        flow.fit(x, epochs=2, batch_size=10)
    assert plain.log_prob(x).tobytes() == other.log_prob(x).tobytes()
    assert plain_table(1, couplings=2, mask=np.ones((2, 1), bool)).num_params == plain.num_params


def test_fit_finds_two_peaks_whose_place_the_context_gives(tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    c = rng.uniform(1, 3, size=(4000, 1))
    x = rng.choice([-1.0, 1.0], size=(4000, 1)) * c + 0.2 * rng.normal(size=(4000, 1))
    flow = plain_table(1, context=1, law="spline", couplings=2, hidden=(32, 32))
    flow.fit(x[:3000], context=c[:3000], epochs=30, batch_size=100, lr=3e-3)
    truth = np.log(0.5 * sum(np.exp(-0.5 * ((x - s * c) / 0.2) ** 2) for s in (-1, 1)) / 0.2 / np.sqrt(2 * np.pi))
    assert np.mean(flow.log_prob(x[3000:], context=c[3000:])) > truth[3000:].mean() - 0.1
    flow.save(tmp_path / "one.safetensors")
    again = ef.load(tmp_path / "one.safetensors")
    assert again.sample(5, context=c[:5], seed=1).tobytes() == flow.sample(5, context=c[:5], seed=1).tobytes()


MASK = np.array([[True, False, True, False], [False, True, False, True], [True, True, True, False]])


def one_coupling(columns: int, **settings: Any) -> ef.CouplingFlow:
    """A flow of additive couplings that add 1 to what they change."""
    flow = plain_table(columns, law="additive", hidden=(), preprocess="none", dtype="float64", **settings)
    flow.init(np.zeros((2, columns)))
    for name, values in flow.named_parameters().items():
        if name.endswith("bias"):
            values[:] = 1
    return flow


def changes(flow: ef.CouplingFlow) -> list[float]:
    return [float(v) for v in flow.encode(np.zeros((1, flow.dims)))[0]]


def test_a_mask_says_which_columns_change() -> None:
    assert changes(one_coupling(4, couplings=3, mask=MASK)) == [2, 2, 2, 1]
    assert changes(one_coupling(4, couplings=3, mask=MASK.tolist())) == [2, 2, 2, 1]
    # Couplings of bits 0 and 1: columns 1, 3, then 0, 2, then 2, 3.
    assert changes(one_coupling(4, couplings=3, mask="log2")) == [1, 1, 2, 2]


@pytest.mark.parametrize("wrong", [
    MASK[:2], MASK[:, :3], MASK & [[True], [True], [False]], MASK | [[True], [False], [False]],
    MASK & [True, True, True, False], "quarters"])
def test_masks_that_no_model_has(wrong: Any) -> None:
    with pytest.raises(ef.ConfigError):
        plain_table(4, couplings=3, mask=wrong)


def test_with_a_context_a_coupling_may_change_every_column() -> None:
    mask = np.ones((2, 3), bool)
    flow = plain_table(3, couplings=2, context=1, mask=mask, hidden=(8,), seed=2)
    rng = np.random.default_rng(1)
    context = rng.normal(size=(400, 1))
    x = context + 0.1 * rng.normal(size=(400, 3))
    flow.fit(x, context=context, epochs=20, batch_size=50)
    alone = plain_table(3, couplings=2, hidden=(8,), seed=2)
    alone.fit(x, epochs=20, batch_size=50)
    assert flow.log_prob(x, context=context).mean() > alone.log_prob(x).mean()


SETTINGS: dict[str, Any] = dict(law="spline", base="uniform", preprocess="none")


def box(columns: int, **settings: Any) -> ef.CouplingFlow:
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
    flow = box(3)
    x = np.full((5, 3), 0.5)
    x[2, 1] = value
    for call in (flow.log_prob, flow.forward, flow.encode, flow.loss_and_grad, flow.init):
        with pytest.raises(ef.NumericError):
            call(x)
    with pytest.raises(ef.NumericError):
        flow.decode(x)
    with pytest.raises(ef.ConfigError):
        flow.sample(2, temperature=0.7)
    assert list(flow.base_log_prob(x.astype(np.float32))) == [0, 0, -np.inf, 0, 0]


@pytest.mark.parametrize("wrong", [
    dict(law="affine"), dict(bound=3.0), dict(preprocess="standardize"), dict(bounds=[(0, 1)] * 3),
    dict(permutation="lu"), dict(batch_norm=True), dict(actnorm=True)])
def test_what_leads_out_of_the_box_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ef.ConfigError):
        plain_table(3, **{**SETTINGS, **wrong})


RATE, UNITS, ROWS = 0.3, 400, 7


def dropping(**settings):
    flow = plain_table(3, couplings=2, dropout=RATE, dtype="float64", **settings)
    rng = np.random.default_rng(0)
    given = {"context": rng.normal(size=(ROWS, flow.context))} if flow.context else {}
    x = rng.normal(size=(ROWS, 3))
    flow.init(x, **given)
    flow.params[:] = 0.3 * rng.normal(size=flow.params.shape)
    return flow, x, given


def gradient(flow, x, given, **options):
    flow.zero_grad()
    return flow.loss_and_grad(x, **given, **options), flow.grads.copy()


def test_a_loss_is_that_of_the_units_that_are_left():
    """With the masks that a row's gradient shows: a dropped unit gets none for the weights that read it."""
    flow, x, _ = dropping(net="mlp", hidden=(UNITS,), activation="tanh", law="additive")
    x = x[:1]
    loss, _ = gradient(flow, x, {}, seed=5)
    grads, values = flow.named_grads(), flow.named_parameters()
    z, shares = x[0] * 1.0, []
    standard = values["preprocess.mean"], values["preprocess.std"]
    z = (z - standard[0]) / standard[1]
    for i, (passed, changed) in enumerate([(slice(0, 2), slice(2, 3)), (slice(2, 3), slice(0, 2))]):
        of = f"coupling{i}.dense"
        mask = np.any(grads[f"{of}1.weight"] != 0, axis=1)
        shares.append(1 - mask.mean())
        hidden = np.tanh(z[passed] @ values[f"{of}0.weight"] + values[f"{of}0.bias"]) * mask / (1 - RATE)
        z[changed] += hidden @ values[f"{of}1.weight"] + values[f"{of}1.bias"]
    want = 0.5 * (z**2).sum() + 1.5 * np.log(2 * np.pi) + np.log(standard[1]).sum()
    assert loss == pytest.approx(want, rel=1e-5)  # the rate is rounded to 16 bits
    deviation = np.sqrt(RATE * (1 - RATE) / UNITS)
    assert all(abs(share - RATE) < 4 * deviation for share in shares), shares


def test_steps_have_masks_of_their_own_and_rows_too():
    flow, x, given = dropping(net="residual", hidden=(9, 9))
    losses = {flow.loss_and_grad(x) for _ in range(5)}
    assert len(losses) == 5
    alone = [flow.loss_and_grad(np.repeat(x[:1], n, axis=0), seed=3) for n in (1, 2, 3)]
    assert len(set(alone)) == 3


def test_nothing_else_drops_units():
    flow, x, _ = dropping(net="residual", hidden=(9, 9))
    whole = plain_table(3, couplings=2, dtype="float64", net="residual", hidden=(9, 9))
    whole.load_state_dict(flow.state_dict())
    np.testing.assert_allclose(flow.log_prob(x), whole.log_prob(x), rtol=1e-13)
    np.testing.assert_allclose(flow.sample(5, seed=1), whole.sample(5, seed=1), rtol=1e-12)
    for ours, theirs in zip(flow.log_prob_and_grad(x), whole.log_prob_and_grad(x)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    report = flow.verify(x)
    assert report.ok, report
