"""Arrays and numbers of other libraries at the border: what is taken, and what an error says of the rest."""

import numpy as np
import pytest

import evenflow as ef


class Array:
    """An array that DLPack does not export: spread over devices, as JAX has them."""

    def __init__(self, values, dtype="float64"):
        self.values, self.dtype, self.shape = values, dtype, np.shape(values)

    def __dlpack__(self, **_):
        raise BufferError("not this one")

    def __dlpack_device__(self):
        return 1, 0

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class Tracer(Array):
    """Of JAX, without values."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("no values")


def test_what_dlpack_does_not_export(table_model, table):
    assert np.array_equal(table_model.log_prob(Array(table)), table_model.log_prob(table))
    with pytest.raises(TypeError):
        table_model.log_prob(Tracer(table))


def test_tensors(table_model, table):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(table)
    with pytest.raises(TypeError):
        table_model.log_prob(x.bfloat16())
    with pytest.raises(TypeError):
        table_model.log_prob(x.requires_grad_())


@pytest.mark.parametrize("value", [np.array(0.5), np.array(0.5, "f4"), np.float16(0.5)])
def test_numbers_without_axes(table_model, value):
    assert np.array_equal(*(table_model.sample(3, seed=0, temperature=t) for t in (value, 0.5)))
    for wrong in (np.array(True), np.array(3, "m8[s]"), np.array([0.5]), np.array("0.5")):
        with pytest.raises(TypeError):
            table_model.sample(3, temperature=wrong)


@pytest.fixture
def known():
    """x (40, 2), a context (40, 2) of which float32 loses a column, and its flow."""
    rng = np.random.default_rng(0)
    c = rng.standard_normal((40, 2))
    return rng.standard_normal((40, 2)), c, lambda **more: ef.CouplingFlow(2, couplings=2, hidden=(4,), context=2, **more)


@pytest.mark.parametrize("lose", [lambda v: 1.7e9 + v, lambda v: 1e-47 * v], ids=["offset", "underflow"])
def test_who_gives_a_context_that_is_lost_is_told(known, lose):
    """By init and by fit, in whatever it comes."""
    x, c, flow = known
    c = np.column_stack([np.round(c[:, 0], 3), lose(c[:, 1])])
    for given in (c, c.tolist(), Array(c)):
        with pytest.warns(ef.DataWarning):
            flow().init(x, context=given)
        with pytest.warns(ef.DataWarning):
            flow().fit(x, context=given, epochs=1)
