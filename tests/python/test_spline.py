"""Spline couplings of tables, through the public surface."""

from __future__ import annotations


import numpy as np
import pytest

import evenflow as ef
from plain import plain_table


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
    with pytest.raises(ef.ConfigError, match="bins is a setting of law='spline', and law is 'affine'"):
        plain_table(3, bins=4)
    for wrong in (dict(bins=0), dict(bins=65), dict(bound=0), dict(bound=-1), dict(bound=np.inf)):
        with pytest.raises(ef.ConfigError, match=next(iter(wrong))):
            plain_table(3, law="spline", **wrong)
