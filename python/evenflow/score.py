"""Scores of single rows: log-likelihood, and p-values against rows that the model never saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from evenflow import arrays
from evenflow.data.feed import as_taken
from evenflow.errors import NumericError, ShapeError
from evenflow.files import Rows, blocks, check_any, write_rows
from evenflow.flow import Flow, check_flow
from evenflow.ranks import Ranks
from evenflow.rows import Picked, origin, stays_outside

NAMES = ("log_prob", "conformal_p", "typicality_p")
SCORED_VALUES = 1 << 22
"""Values of data that are read at once."""


def p_values(log_prob: Any, reference: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of log-likelihoods (N,) against those of reference rows (M,): conformal and typicality p-values, (N,).

    conformal: (1 + number of reference rows at most as likely) / (M + 1), one-sided. If a row comes from the
    distribution of the reference, P(p <= a) <= a for every a (Vovk et al. 2005), whatever the model. The
    reference must be rows that the model was not trained on.
    typicality: twice the smaller one of both sides' p-values, at most 1. Small also for a row that is far
    too likely, as flat images are to image models (Nalisnick et al. 2019).
    ShapeError for other shapes or no reference, NumericError for NaN.
    """
    scores, ranked = _scores("log_prob", log_prob), np.sort(_scores("reference", reference))
    below = 1 + np.searchsorted(ranked, scores, side="right")
    above = 1 + len(ranked) - np.searchsorted(ranked, scores, side="left")
    return below / (len(ranked) + 1), np.minimum(1.0, 2.0 * np.minimum(below, above) / (len(ranked) + 1))


def score_rows(flow: Flow, rows: Rows, out: str | os.PathLike[str], reference: Any = None,
               seed: int = 0) -> dict[str, Any]:
    """Writes one log-likelihood a row [nats] to a .npy or .csv file, in memory that does not grow with it.

    rows: (x, given) of consecutive rows, of `evenflow.stream.read_rows`, or an array x. With log-likelihoods of
    reference rows (M,) the file has three columns: log_prob, conformal_p, typicality_p, see `p_values`;
    without, a .npy file is (N,). seed: of uint8 images' noise, which does not depend on the pieces.
    Returns n, and mean, min and max of log_prob. Errors leave no file behind.
    """
    check_flow("score", flow)
    n, total, low, high = 0, 0.0, np.inf, -np.inf
    ranked = None if reference is None else np.sort(_scores("reference", reference))
    with write_rows("score", out, NAMES if ranked is not None else NAMES[:1]) as writer:
        for scores in log_probs(flow, rows, seed):
            writer.write(scores if ranked is None
                         else np.stack([scores, *p_values(scores, ranked)], axis=1))
            n, total = n + len(scores), total + float(scores.sum())
            low, high = min(low, float(scores.min())), max(high, float(scores.max()))
        check_any("score", n)
    return {"n": n, "mean": total / n, "min": low, "max": high}


def log_probs(flow: Flow, rows: Rows, seed: int = 0) -> Iterator[np.ndarray]:
    """log_prob of consecutive rows, or of an array, piece by piece; the same numbers as in one piece."""
    check_flow("score", flow)
    n = 0
    for x, given in blocks("score", rows):
        scores = flow.log_prob(x, seed, first=n, **flow._conditions(given))
        yield scores
        n += len(scores)


def log_prob_on_ranks(flow: Flow, x: Any, given: np.ndarray | None, ranks: Ranks,
                      weights: np.ndarray | None = None) -> np.ndarray:
    """log p of all rows, of which each rank computes its share; the numbers do not depend on how many.

    Rows of weight 0, which may have no density, are not looked at and get 0.
    """
    if weights is not None and not weights.all():
        full, kept = np.zeros(len(x)), np.flatnonzero(weights)
        full[kept] = log_prob_on_ranks(flow, Picked(x, kept), None if given is None else given[kept], ranks)
        return full
    share, step = ranks.share(len(x)), max(1, SCORED_VALUES // flow.dims)
    starts = range(share.start, share.stop, step)
    parts = [slice(a, min(a + step, share.stop)) for a in starts]

    def of(part: slice) -> Any:
        rows, ends = origin(x, np.arange(part.start, part.stop)), flow._bounds if stays_outside(x) else None
        return flow.log_prob(as_taken("log_prob", x[part], rows, flow.dtype, ends), first=part.start,
                             **flow._by_name(None if given is None else given[part]))

    scores = ranks.try_on_all(lambda: [of(part) for part in parts])
    return ranks.gather(np.concatenate([np.empty(0), *scores]))


def _scores(name: str, values: Any) -> np.ndarray:
    scores = arrays.as_numbers("p_values", name, values).astype(np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ShapeError(f"[p_values] expected {name} as (N,), got {scores.shape}")
    if np.isnan(scores).any():
        raise NumericError(f"[p_values] expected numbers in {name}, "
                           f"got nan at {int(np.flatnonzero(np.isnan(scores))[0])}")
    return scores
