"""Weights of a flow's samples towards another density."""

import math

import numpy as np
import pytest

import evenflow as ef
from evenflow.importance import pareto_k
from plain import plain_table


@pytest.fixture
def normal():
    """A flow that is the standard normal distribution: couplings start as the identity."""
    flow = plain_table(2, couplings=2, hidden=(8,), preprocess="none", dtype="float64")
    flow.init(np.random.default_rng(0).standard_normal((50, 2)))
    return flow


def gaussian(scale):
    """log density of a centred normal distribution in the plane, times e^3."""
    return lambda x: 3 - (x**2).sum(axis=1) / (2 * scale**2) - math.log(2 * math.pi * scale**2)


def test_the_same_density(normal):
    found = normal.importance(gaussian(1.0), 500, seed=0)
    assert found.ok and found.pareto_k == -math.inf
    assert found.ess == pytest.approx(500) and found.log_evidence == pytest.approx(3) and found.x.shape == (500, 2)
    assert found.log_evidence_error == pytest.approx(0, abs=1e-6) and found.weights == pytest.approx(1 / 500)
    assert str(found).startswith("ok: 500 weights") and repr(found) == str(found)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.2, 1.3])
def test_weights_with_a_known_spread(normal, scale):
    """E w = e^3; (E w)^2 / E w^2 is a Gaussian integral, for each of the two columns."""
    a = 2 / scale**2 - 1  # w^2 p has the precision a
    efficiency = (scale**2 * math.sqrt(a)) ** 2
    found = normal.importance(gaussian(scale), 200_000, seed=1)
    assert found.ok and found.efficiency == pytest.approx(efficiency, rel=0.05)
    assert abs(found.log_evidence - 3) < 4 * found.log_evidence_error < 0.02


@pytest.mark.parametrize("scale, reliable", [(1.2, True), (3.0, False)])
def test_the_tail_of_the_weights(normal, scale, reliable):
    """Weights exp(a r^2 / 2) of r^2 ~ chi^2 with two degrees have exactly the tail P(w > t) = t^(-1/a)."""
    k = 1 - 1 / scale**2
    if reliable:
        found = normal.importance(gaussian(scale), 50_000, seed=2)
    else:
        with pytest.warns(ef.DataWarning):
            found = normal.importance(gaussian(scale), 50_000, seed=2)
        assert str(found).startswith("UNRELIABLE")
    assert found.ok == reliable and found.pareto_k == pytest.approx(k, abs=0.12)


def test_the_fit_finds_the_shape_of_a_pareto_distribution():
    rng = np.random.default_rng(3)
    for k in (0.2, 0.5, 0.9):
        assert pareto_k(-k * np.log(rng.random(100_000))) == pytest.approx(k, abs=0.08)
    assert pareto_k(np.log(rng.random(100_000))) < 0  # bounded weights


def test_a_target_on_part_of_the_plane(normal):
    inside = normal.importance(lambda x: np.where(x[:, 0] > 0, 0.0, -np.inf) + gaussian(1.0)(x), 4000, seed=4)
    assert inside.ess == pytest.approx(2000, rel=0.05)
    assert inside.log_evidence == pytest.approx(3 - math.log(2), abs=0.05)


@pytest.mark.parametrize("log_density", [
    gaussian(0.001), lambda x: np.where((np.abs(x) < 0.1).all(axis=1), 0.0, -np.inf)], ids=["narrow", "a small box"])
def test_weights_of_which_hardly_any_count_are_not_trusted(normal, log_density):
    """Where most underflow, or are 0, the rest are no tail, and not equal either."""
    with pytest.warns(ef.DataWarning):
        assert not normal.importance(log_density, 2000, seed=5).ok


def test_a_function_may_write_to_its_samples(normal):
    def log_density(x):
        x -= 1
        return gaussian(1.0)(x + 1)

    found = normal.importance(log_density, 200, seed=7)
    assert np.array_equal(found.x, normal.sample(200, seed=7)) and found.ok


@pytest.mark.parametrize("log_density, error", [
    (3.0, TypeError), (lambda x: x, ef.ShapeError), (lambda x: np.full(len(x), np.nan), ef.NumericError),
    (lambda x: np.full(len(x), -np.inf), ef.ConfigError), (lambda x: ["a"] * len(x), TypeError)])
def test_bad_targets(normal, log_density, error):
    with pytest.raises(error):
        normal.importance(log_density, 200)
