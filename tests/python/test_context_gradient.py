"""The gradient of a density by its context: where a call writes it."""

import numpy as np
import pytest

import evenflow as ef


def test_a_place_that_can_not_be_written_to(table):
    flow = ef.CouplingFlow(3, couplings=2, hidden=(4,), context=2, dtype="float64")
    context = np.random.default_rng(0).standard_normal((200, 2))
    flow.init(table, context=context)
    fixed = np.zeros((200, 2))
    fixed.flags.writeable = False
    for place in (np.zeros((200, 4))[:, ::2], np.zeros((2, 200)).T, fixed):
        with pytest.raises(TypeError, match=r"expected dcontext to be a writable, C-contiguous array \(200, 2\)"):
            flow.log_prob_and_grad(table, context=context, dcontext=place)
        assert not place.any()
