"""Small models and data for the tests of the public surface."""

import numpy as np
import pytest

import evenflow as ef


@pytest.fixture
def images():
    """(64, 4, 4, 2) uint8, smooth enough to be learned, with labels (64,) in 0 ... 2."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 64)
    base = np.linspace(20, 160, 16).reshape(4, 4, 1) + 30 * labels[:, None, None, None]
    return np.clip(base + rng.normal(0, 8, (64, 4, 4, 2)), 0, 255).astype(np.uint8), labels


@pytest.fixture
def table():
    """(200, 3) float64 with correlated columns of different sizes."""
    rng = np.random.default_rng(2)
    a = rng.standard_normal((200, 3))
    return np.stack([100 + 5 * a[:, 0], a[:, 0]**2 + 0.3 * a[:, 1], 0.01 * a[:, 2]], axis=1)


@pytest.fixture
def glow():
    """Makes a Glow for `images`."""
    def make(**settings):
        return ef.Glow((4, 4, 2), **{"levels": 1, "steps": 2, "hidden": 8, **settings})
    return make


@pytest.fixture
def real_nvp():
    """Makes a Real NVP for `table`."""
    def make(**settings):
        return ef.RealNVP(3, **{"couplings": 4, "hidden": (8, 8), **settings})
    return make
