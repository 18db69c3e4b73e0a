"""Tables of one column, with and without a context."""

from __future__ import annotations

from typing import Any

import numpy as np

import evenflow as ef
from plain import plain_table


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
