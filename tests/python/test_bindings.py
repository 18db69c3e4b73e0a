"""What the bindings refuse: the package hands them arrays that fit, and nothing else stands before the memory."""

import numpy as np
import pytest

import evenflow as ef
from evenflow import _core
from evenflow._border.arrays import to_floats

X = np.zeros((4, 4), np.float32)


def nice():
    return ef.NICE(4, couplings=2, hidden=(4,), seed=0)


@pytest.mark.parametrize("x, out, error", [
    (np.zeros((4, 8), np.float32)[:, ::2], np.zeros(4), TypeError),
    (np.asfortranarray(np.arange(16, dtype=np.float32).reshape(4, 4)), np.zeros(4), TypeError),
    (X.astype(np.float64), np.zeros(4), TypeError), (X.astype(">f4"), np.zeros(4), TypeError),
    (np.zeros((), np.float32), np.zeros(4), ef.ShapeError), (np.zeros((4, 3), np.float32), np.zeros(4), ef.ShapeError),
    (np.zeros((0, 3), np.float32)[None], np.zeros(1), ef.ShapeError), (X, np.zeros(3), ef.ShapeError),
    (X, np.zeros(8)[::2], TypeError), (X, np.zeros(4, np.float32), TypeError)])
def test_arrays_that_do_not_fit(x, out, error):
    with pytest.raises(error):
        nice()._core.log_prob(x, out)


def test_labels_that_do_not_fit(glow):
    core = glow(classes=3, class_weight=0.1, seed=2)._core
    x, out = np.zeros((5, 4, 4, 2), np.float32), np.zeros(5)
    core.init(x + np.arange(160, dtype=np.float32).reshape(x.shape))
    core.log_prob(x, out, np.zeros(5, np.int32))
    with pytest.raises(ef.ShapeError):
        core.log_prob(x, out, np.zeros(4, np.int32))
    with pytest.raises(ef.ShapeError):
        core.log_prob(x, out, np.zeros((5, 1), np.int32))
    for wrong in (np.zeros(5, np.int64), np.zeros(10, np.int32)[::2]):
        with pytest.raises(TypeError):
            core.log_prob(x, out, wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 4096, 4097, 10_000])
def test_first_value_that_is_not_finite(dtype, count):
    x = np.resize(np.array([np.finfo(dtype).max, -np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, -0.0],
                           dtype), count)
    assert _core.first_not_finite(x) == -1
    for value in (np.nan, np.inf, -np.inf):
        for place in {0, count // 2, count - 1} & set(range(count)):
            bad = x.copy()
            bad[place:] = value
            assert _core.first_not_finite(bad) == place
            if count % 7 == 0:
                assert _core.first_not_finite(bad.reshape(-1, 7)) == place


def test_odd_addresses():
    """The core reads whole numbers where they belong."""
    x = np.frombuffer(b"-" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(3, 2)
    assert not x.flags.aligned
    taken = to_floats("log_prob", x, x.dtype)
    assert taken.flags.aligned and np.array_equal(taken, x)


def test_log_probabilities_of_classes_that_are_not_finite(images, glow):
    flow = glow(classes=3, class_weight=0.1)
    x = images[0][:5].astype(np.float32)
    flow.init(x)
    out = np.zeros((5, 3))
    flow._core.class_log_prob(x, out, 7)
    assert np.array_equal(out, flow.class_log_prob(x)) and np.isfinite(out).all()
    logs = flow.named_parameters()["level0.step1.actnorm.logs"]
    logs[2] = 80
    with pytest.raises(ef.NumericError):
        flow.class_log_prob(x)
    logs[2] = 0
    flow.named_parameters()["class_head.bias"][0] = np.inf
    with pytest.raises(ef.NumericError):
        flow.class_log_prob(x)
