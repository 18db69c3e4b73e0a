"""Densities in the plane that are easy to look at, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evenflow._border import checks
from evenflow.data.dataset import Dataset

Labelled = tuple[NDArray[np.float64], NDArray[np.int32]]


def two_moons(n: int, noise: float = 0.1, seed: int = 0) -> Labelled:
    """Draw points from two half circles of radius 1 that reach into each other.

    Parameters
    ----------
    n : int
        Number of points.
    noise : float
        Standard deviation of the noise added to each coordinate.
    seed : int
        Seed of the generator.

    Returns
    -------
    points : ndarray (n, 2) of float64
    labels : ndarray (n,) of int32
        The half circle of each point, 0 or 1.

    Examples
    --------
    >>> points, labels = two_moons(1000)
    >>> points.shape, labels.shape
    ((1000, 2), (1000,))
    """
    n, noise, rng = _checked(n, noise, seed)
    labels = rng.integers(0, 2, n, dtype=np.int32)
    angle, sign = rng.uniform(0, np.pi, n), 1 - 2 * labels
    points = np.stack([sign * np.cos(angle) + labels, sign * np.sin(angle) + 0.5 * labels], axis=1)
    return points + rng.normal(0, noise, (n, 2)), labels


def rings(n: int, noise: float = 0.08, seed: int = 0) -> Labelled:
    """Draw points from circles of radius 1, 2, 3 and 4 about the origin.

    Parameters
    ----------
    n, noise, seed
        As in `two_moons`.

    Returns
    -------
    points : ndarray (n, 2) of float64
    labels : ndarray (n,) of int32
        The circle of each point, 0 ... 3.
    """
    n, noise, rng = _checked(n, noise, seed)
    labels = rng.integers(0, 4, n, dtype=np.int32)
    angle = rng.uniform(0, 2 * np.pi, n)
    points = (1 + labels)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + rng.normal(0, noise, (n, 2)), labels


def checkerboard(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw points uniformly from the eight dark squares of a board of 4 x 4 on [-4, 4]^2.

    Parameters
    ----------
    n, seed
        As in `two_moons`.

    Returns
    -------
    ndarray (n, 2) of float64
    """
    n, _, rng = _checked(n, 0.0, seed)
    row, half = rng.integers(0, 4, n), rng.integers(0, 2, n)
    corner = np.stack([2 * half + row % 2, row], axis=1)
    return 2 * (corner + rng.uniform(0, 1, (n, 2))) - 4


def _checked(n: int, noise: float, seed: int) -> tuple[int, float, np.random.Generator]:
    rng = np.random.default_rng(checks.whole("data", "seed", seed, low=0))
    noise = abs(checks.number("data", "noise", noise, 0.0))  # numpy refuses -0.0
    return checks.whole("data", "n", n, low=1), noise, rng


LABELLED: dict[str, Callable[..., Labelled]] = {"two-moons": two_moons, "rings": rings}
NAMES = (*LABELLED, "checkerboard")


def toy(name: str, train: int = 10_000) -> Dataset:
    """A data set of one of NAMES, with 2,000 points to test on."""
    n = train + 2_000
    x, y = LABELLED[name](n) if name in LABELLED else (checkerboard(n), None)
    data = Dataset(x[:train], x[train:], "table", columns=["x", "y"])
    if y is None:
        return data
    return Dataset(data.train, data.test, "table", y[:train], y[train:], ["x", "y"],
                   [str(i) for i in range(int(y.max()) + 1)])
