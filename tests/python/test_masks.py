"""Masks of couplings of tables: the setting, files, and which columns a coupling changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import evenflow as ef
from plain import plain_table

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


@pytest.mark.parametrize("wrong, message", [
    (MASK[:2], r"expected a mask of shape \(couplings, columns\), \(3, 4\), got \(2, 4\)"),
    (MASK[:, :3], r"got \(3, 3\)"),
    (MASK & [[True], [True], [False]], "a column that changes in every coupling, got none in coupling 2"),
    (MASK | [[True], [False], [False]], "a column that passes, for the net to read, in every coupling, got none in "
                                        "coupling 0"),
    (MASK & [True, True, True, False], "a coupling changes every column, got none for column 3"),
    ("quarters", "expected mask to be one of 'halves', 'odd-even', 'log2', got 'quarters'"),
])
def test_masks_that_no_model_has(wrong: Any, message: str) -> None:
    with pytest.raises(ef.ConfigError, match=message):
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
