"""Importance sampling with a flow as the proposal, and the diagnostics of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenflow._border import arrays, checks
from evenflow.density import Density
from evenflow.errors import ConfigError, NumericError, ShapeError, warn, wrong

LEAST = 100
"""Fewest samples: below, a tail of 20 values tells nothing."""
LEAST_TAIL = 5
"""Fewest weights that a tail is fitted to."""


@dataclass(frozen=True, repr=False)
class ImportanceSamples:
    """Samples x of a flow with weights w = exp(log_density(x)) / exp(log_prob(x)), as `Flow.importance` makes them.

    With these weights samples of the flow stand for samples of the target. Where the flow has too little density, a few
    samples have most of the weight, and means are those of a few samples: `ok` says whether they can be trusted.

    See Also
    --------
    evenflow.Flow.importance : Makes them.

    Examples
    --------
    >>> flow = ef.CouplingFlow(2, base="gaussian")
    >>> flow.init(np.random.default_rng(0).standard_normal((1000, 2)))
    >>> found = flow.importance(lambda x: -(x**2).sum(axis=1) / 2, 4000, seed=0)
    >>> mean = np.average(found.x, axis=0, weights=found.weights)
    >>> bool(np.abs(mean).max() < 0.1)
    True
    >>> round(found.log_evidence, 1), round(float(np.log(2 * np.pi)), 1)
    (1.8, 1.8)
    """

    x: NDArray[Any]
    """(n, *shape)"""
    log_weights: NDArray[np.float64]
    """(n,); -inf where the target has no density."""
    pareto_k: float
    """Shape of a generalised Pareto distribution fitted to the largest weights (Vehtari et al. 2024, section 2.4):
    1 / k is how many of their moments are finite. -inf: all that are not 0 are equal; inf: too few are not 0."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n,) of sum one. A mean m of f(x) under them has the standard error sqrt(sum(weights^2 (f(x) - m)^2))."""
        w = _relative(self.log_weights)
        return np.asarray(w / w.sum())

    @property
    def ess(self) -> float:
        """Effective sample size, (sum w)^2 / sum w^2 (Kong 1992)."""
        return float(1 / np.square(self.weights).sum())

    @property
    def efficiency(self) -> float:
        """ess / n, from 1 / n to 1."""
        return self.ess / len(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """log of the mean weight, which estimates log of the integral of exp(log_density) [nats]."""
        return float(self.log_weights.max() + math.log(_relative(self.log_weights).mean()))

    @property
    def log_evidence_error(self) -> float:
        """Its standard error [nats], as the spread of the weights gives it; too small if `pareto_k` is above 0.5."""
        return math.sqrt(max(1 / self.efficiency - 1, 0.0) / len(self.log_weights))

    @property
    def limit(self) -> float:
        """The largest `pareto_k` with which n weights give reliable means: min(1 - 1 / log10(n), 0.7)."""
        return min(1 - 1 / math.log10(len(self.log_weights)), 0.7)

    @property
    def ok(self) -> bool:
        """Whether `pareto_k` is at most `limit`."""
        return self.pareto_k <= self.limit

    def __str__(self) -> str:
        n = len(self.log_weights)
        lines = [f"{'ok' if self.ok else 'UNRELIABLE'}: {n} weights",
                 f"  effective sample size {self.ess:.1f} ({100 * self.efficiency:.3g} %)",
                 f"  Pareto k              {self.pareto_k:.2f} (reliable up to {self.limit:.2f})",
                 f"  log evidence          {self.log_evidence:.4f} +- {self.log_evidence_error:.4f} nats"]
        return "\n".join(lines)

    __repr__ = __str__  # a notebook shows it


def importance(flow: Density, log_density: Callable[[Any], Any], n: int, *, label: Any = None,
               context: Any = None, seed: int | None = None) -> ImportanceSamples:
    """See Flow.importance."""
    where, argument = "importance", "log_density"
    if not callable(log_density):
        raise wrong(TypeError, where, argument, f"expected a function of samples as log_density, got {log_density!r}")
    n = checks.whole(where, "n", n, low=LEAST)
    x, log_prob = flow.sample_and_log_prob(n, label=label, context=context, seed=seed)
    target = arrays.as_numbers(where, "log_density(x)", log_density(x.copy())).astype(np.float64)
    if target.shape != (n,):
        raise wrong(ShapeError, where, argument,
                    f"expected log_density to return ({n},), one number a sample, got {target.shape}")
    for row in np.flatnonzero(np.isnan(target) | (target == np.inf))[:1]:
        raise wrong(NumericError, where, argument,
                    f"expected a finite log-density or -inf, got {target[row]} for sample {row}", row=int(row))
    if not np.isfinite(target).any():
        raise wrong(ConfigError, where, argument,
                    f"log_density is -inf for all {n} samples: the flow does not overlap with it")
    log_weights = target - log_prob
    found = ImportanceSamples(x, log_weights, pareto_k(log_weights))
    if not found.ok:
        warn(
            f"[{where}] the weights have too heavy a tail: Pareto k is {found.pareto_k:.2f}, and means are reliable "
            f"up to {found.limit:.2f}. A few samples decide them (effective sample size {found.ess:.0f}): the flow is "
            "too narrow somewhere. Train it on more samples of the target, or draw more")
    return found


def pareto_k(log_weights: NDArray[np.float64]) -> float:
    """Shape of a generalised Pareto distribution fitted to the largest min(n / 5, 3 sqrt(n)) of the n weights that are
    not 0, by the method of Zhang and Stephens (2009), and drawn towards 1/2 as if by ten more observations (Vehtari et
    al. 2024, appendix G).
    """
    weights = np.sort(_relative(log_weights))
    positive = weights[weights > 0]
    count = math.ceil(min(len(positive) / 5, 3 * math.sqrt(len(positive))))
    if count < LEAST_TAIL:
        return math.inf
    tail = positive[-count:] - positive[-count - 1]
    count = int((tail > 0).sum())
    if tail[-1] < 1e-12 or count < LEAST_TAIL:  # the largest are equal
        return -math.inf
    tail = tail[-count:]
    grid = 30 + int(math.sqrt(count))
    quartile = tail[int(count / 4 + 0.5) - 1]
    theta = 1 / tail[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-theta[:, None] * tail).mean(axis=1)
    profile = count * (np.log(-theta / shapes) - shapes - 1)
    share = np.exp(profile - profile.max())
    best = float((theta * share).sum() / share.sum())
    k = float(np.log1p(-best * tail).mean())
    return (count * k + 5) / (count + 10)


def _relative(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights, the largest of them 1."""
    return np.asarray(np.exp(log_weights - log_weights.max()))
