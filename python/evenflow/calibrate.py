"""Calibration: whether the densities of a flow are where the data are, and as wide."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenflow._border import checks
from evenflow.density import Density, check, check_flow, floats
from evenflow.errors import ConfigError, ShapeError, wrong

LEAST_ROWS = 50
"""Of fewer, no test can tell a posterior from one of half its width."""
CHANCE = 1e-3
"""Probability that a calibrated flow fails, over all tests together."""
BLOCK_VALUES = 1 << 21
"""Values of draws that are in memory at once."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
SHOWN = 10
"""Columns that are printed, those with the largest distance."""


@dataclass(frozen=True, repr=False)
class Calibration:
    """What `evenflow.calibration` found of N rows, each beside draws from the flow's density given the row's context.

    If the rows come from the densities, `ranks`, `coverage` and `tarp` are uniform. A test compares their cumulative
    distribution with the uniform one: its largest distance is at most `band`, but for one calibrated flow in a thousand
    (Dvoretzky, Kiefer, Wolfowitz; Massart 1990; with Bonferroni's correction for the number of tests).

    See Also
    --------
    evenflow.calibration : Makes one.
    """

    ranks: NDArray[np.int64]
    """(N, D), how many of the draws are below the row's value; among equal ones, by chance."""
    coverage: NDArray[np.float64]
    """(N,), the probability of the smallest region that holds the row: the share of draws that are likelier."""
    tarp: NDArray[np.float64]
    """(N,), the share of draws that are nearer to `references` than the row."""
    references: NDArray[np.float64]
    """(N, D), a point for each row, another row of the data."""
    draws: int
    columns: list[str]

    @property
    def distances(self) -> dict[str, float]:
        """Of each test, the largest distance of the cumulative distribution from the uniform one."""
        tests = dict(zip((f"ranks of {name}" for name in self.columns), self.ranks.T))
        tests.update({"smallest regions": self.coverage * self.draws, "regions about points": self.tarp * self.draws})
        return {name: _distance(values, self.draws) for name, values in tests.items()}

    @property
    def band(self) -> float:
        """The largest distance that a calibrated flow has, but for one in a thousand."""
        return float(np.sqrt(np.log(2 * (len(self.columns) + 2) / CHANCE) / (2 * len(self.ranks))))

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words."""
        return [self._told(name) for name, distance in self.distances.items() if distance > self.band]

    @property
    def ok(self) -> bool:
        """Whether no test fails. With few rows it says little: `band` is then wide."""
        return not self.failures

    def _told(self, test: str) -> str:
        if not test.startswith("ranks of "):
            level, share = _furthest(self.coverage if test == "smallest regions" else self.tarp)
            told = f"{test} of {100 * level:.0f} % hold {100 * share:.0f} % of the rows"
            return told if test != "smallest regions" else (
                f"{told}: the densities are too {'narrow' if share < level else 'wide'}, or in the wrong place")
        u = (self.ranks[:, self.columns.index(test.removeprefix("ranks of "))] + 0.5) / (self.draws + 1)
        (level, share), below = _furthest(np.abs(2 * u - 1)), u.mean()
        if abs(2 * below - 1) > abs(share - level):
            return (f"{test}: the flow's values are too {'small' if below > 0.5 else 'large'}, "
                    f"{100 * max(below, 1 - below):.0f} % of them are {'below' if below > 0.5 else 'above'} the data's")
        return (f"{test}: the density is too {'narrow' if share < level else 'wide'}, its central {100 * level:.0f} % "
                f"hold {100 * share:.0f} % of the rows")

    def __str__(self) -> str:
        failures, distances = self.failures, self.distances
        *columns, smallest, about = sorted(distances, key=lambda name: (not name.startswith("ranks"), -distances[name]))
        lines = [f"{'NOT CALIBRATED' if failures else 'calibrated'}: {len(self.ranks):,} rows, {self.draws:,} draws of "
                 f"each; distances from uniform, of a calibrated flow at most {self.band:.3f}"]
        lines += [f"  {name:24} {distances[name]:.3f}" for name in [*columns[:SHOWN], smallest, about]]
        said, held = (", ".join(f"{100 * share:.0f}" for share in shares) for shares in (
            LEVELS, [np.mean(self.coverage <= level) for level in LEVELS]))
        lines.append(f"  smallest regions of {said} % hold {held} % of the rows")
        return "\n".join(lines + [f"  failed: {text}" for text in failures])

    __repr__ = __str__  # a notebook shows it

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the cumulative distributions beside the uniform one and its band, by matplotlib.

        Parameters
        ----------
        path : path, optional
            A picture to write, too.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        """
        from evenflow import plot
        return plot.calibration(self, path)


def calibration(flow: Density, x: ArrayLike, context: ArrayLike | None = None, *, draws: int = 1000,
                seed: int = 0) -> Calibration:
    """Tests whether a flow's densities are calibrated, on rows that it was not trained on.

    A posterior p(x | context) that was learned from simulations may be too narrow, too wide or beside the truth, and
    its likelihood does not say which. Draws from it do: among them, the row that the context came with is one like the
    others. Three tests use this: by column, the rank of the row's value (simulation-based calibration; Talts et al.
    2018); the probability of the smallest region that holds the row (expected coverage; Hermans et al. 2022); and that
    of the region about a random point (TARP; Lemos et al. 2023), which sees wrong dependence of columns, too.

    Parameters
    ----------
    flow : Flow
        Of a table.
    x : array_like, (N, D)
        Held-out rows, at least 50; 1,000 tell a width that is wrong by a fifth.
    context : array_like, (N, C), optional
        For a flow with a context: of each row.
    draws : int
        From the density of each row.
    seed : int
        For the draws and the points.

    Returns
    -------
    Calibration
        `print` it for a verdict in words; `ok`, `ranks`, `coverage`, `tarp`; `plot()` draws them.

    Raises
    ------
    ConfigError, ShapeError, NumericError, TypeError
        An argument does not fit the flow, there are too few rows, or a draw is not finite.

    See Also
    --------
    evenflow.Flow.verify : Whether the flow computes what it should.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> context = rng.standard_normal((3000, 1))
    >>> x = context + rng.standard_normal((3000, 2))
    >>> flow = ef.CouplingFlow(2, context=1)
    >>> history = flow.fit(x[500:], context=context[500:], epochs=5, verbose=False)
    >>> report = ef.calibration(flow, x[:500], context[:500])
    >>> report.ok, report.ranks.shape
    (True, (500, 2))
    """
    where = "calibration"
    if check_flow(where, flow).is_image:
        raise wrong(ConfigError, where, "flow", "expected a flow of a table, got one of images")
    draws, seed = checks.whole(where, "draws", draws, low=1), checks.whole(where, "seed", seed, low=0)
    batch = check(flow, where, x, None, context)
    n, d = batch.x.shape
    if n < LEAST_ROWS:
        raise wrong(ShapeError, where, "x", f"expected at least {LEAST_ROWS} rows, got {n}")
    rows, rng = floats(flow, where, batch.x), np.random.default_rng(seed)
    own = flow.log_prob(rows, **batch.conditions)
    order = rng.permutation(n)
    references = np.empty((n, d))
    references[order] = rows[np.roll(order, 1)]  # independent of the row, as a test of it needs
    scale = rows.std(0, dtype=np.float64) + np.finfo(np.float32).tiny  # of a column that is constant here
    ranks, nearer, likelier = np.empty((n, d), np.int64), np.empty(n), np.empty(n)
    for a in range(0, n, step := max(1, BLOCK_VALUES // (draws * d))):
        part, size = slice(a, a + step), min(step, n - a)
        given: dict[str, Any] = {} if batch.context is None else {"context": np.repeat(batch.context[part], draws, 0)}
        drawn, log_prob = flow.sample_and_log_prob(size * draws, seed=seed, first=a * draws, **given)
        drawn, value = drawn.reshape(size, draws, d), rows[part, None]
        ranks[part] = (drawn < value).sum(1) + rng.integers(0, (drawn == value).sum(1) + 1)
        likelier[part] = (log_prob.reshape(size, draws) > own[part, None]).mean(1)
        far = [np.square((points - references[part, None]) / scale).sum(2) for points in (drawn, value)]
        nearer[part] = (far[0] < far[1]).mean(1)
    return Calibration(ranks, likelier, nearer, references, draws, flow.columns or [f"x{i}" for i in range(d)])


def _furthest(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of numbers that should be uniform in 0 ... 1: a level, and the share below it, where they differ most."""
    levels = np.arange(5, 100, 5) / 100
    shares = (values[:, None] <= levels).mean(0)
    worst = np.abs(shares - levels).argmax()
    return float(levels[worst]), float(shares[worst])


def _distance(ranks: NDArray[Any], draws: int) -> float:
    """Of whole numbers 0 ... draws: their cumulative distribution's largest distance from the uniform one."""
    counts = np.bincount(np.rint(ranks).astype(np.int64), minlength=draws + 1)
    return float(np.abs(np.cumsum(counts) / len(ranks) - np.arange(1, draws + 2) / (draws + 1)).max())
