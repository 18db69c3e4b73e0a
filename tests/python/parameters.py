"""Parameters of models, to compare and to break."""

import numpy as np


def values(flow):
    return {name: value.copy() for name, value in flow.named_parameters().items()}


def assert_same(a, b):
    a, b = (x if isinstance(x, dict) else values(x) for x in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def broken_after(flow, step):
    """A callback of `fit` that spoils the parameters after a step, so that the next one fails."""
    def watch(record):
        if record["event"] == "step" and record["step"] == step:
            flow.params[:] = np.nan
    return watch
