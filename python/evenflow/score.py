"""Scores of single rows: log-likelihood, and p-values against rows that the model never saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from evenflow._border import arrays
from evenflow._border.batch import Batch
from evenflow.density import Density, check_flow, for_flow, limits_of
from evenflow.errors import ConfigError, NumericError, ShapeError, wrong
from evenflow.training.feed import as_taken
from evenflow._border.files import blocks, check_any, write_rows
from evenflow.distributed.ranks import Ranks
from evenflow._border.rows import stays_outside
from evenflow.data.rows import Picked, origin
from evenflow._border.weights import check_weights, mean_one

NAMES = ("log_prob", "conformal_p", "typicality_p")
SCORED_VALUES = 1 << 22
"""Values of data that are read at once."""


def p_values(log_prob: Any, reference: Any, reference_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """p-values of rows against reference rows that the model was not trained on.

    Parameters
    ----------
    log_prob : array_like, (N,)
        Log densities of the rows.
    reference : array_like, (M,)
        Log densities of the reference rows.
    reference_weight : array_like, (M,), optional
        Weights >= 0 of the reference rows. Conformal p-values then hold for rows drawn in proportion to weights up to
        the largest one (weighted conformal prediction; Tibshirani et al. 2019).

    Returns
    -------
    conformal : ndarray of float64, (N,)
        (1 + number of reference rows at most as likely) / (M + 1). If a row comes from the distribution of the
        reference, P(p <= a) <= a for every a, whatever the model (Vovk et al. 2005).
    typicality : ndarray of float64, (N,)
        Twice the smaller of both sides' p-values, at most 1. It is also small for a row that is far too likely, as flat
        images are to image models (Nalisnick et al. 2019).

    Raises
    ------
    ShapeError, NumericError, ConfigError
        A shape is wrong or an array is empty, a value is NaN, a weight is negative or all are zero.

    See Also
    --------
    evenflow.sklearn.FlowOutlierDetector : The same for scikit-learn.

    Examples
    --------
    >>> from evenflow.score import p_values
    >>> x, _ = ef.data.two_moons(1000, seed=0)
    >>> flow = ef.CouplingFlow(2)
    >>> flow.init(x)
    >>> conformal, typicality = p_values(flow.log_prob([[0.5, 0.5], [9.0, 9.0]]), flow.log_prob(x))
    >>> bool(conformal[1] < 0.01)  # so far off is less than one row of a hundred
    True
    """
    return _p_values(_scores("log_prob", log_prob), *_reference(reference, reference_weight))


def ranked(scores: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reference scores (M,) in ascending order, and (M + 1,) the sums of 1 and the counts of the first 0 ... M of them.

    counts: of each score; None: 1.
    """
    order = np.argsort(scores, kind="stable")
    return scores[order], np.cumsum(np.concatenate([[1.0], np.ones(len(scores)) if counts is None else counts[order]]))


def score_rows(flow: Density, rows: Any, out: str | os.PathLike[str], reference: Any = None,
               seed: int = 0, reference_weight: Any = None) -> dict[str, Any]:
    """Writes the log density of each row to a .npy or .csv file, in memory that doesn't grow with N.

    Parameters
    ----------
    flow : Flow
        The model.
    rows : array_like or iterable
        An array x, or batches of consecutive rows, such as `evenflow.runs.stream.read_rows` returns.
    out : path
        The file. It appears complete or not at all.
    reference : array_like, (M,), optional
        Log densities of reference rows. The file then has three columns: log_prob, conformal_p, typicality_p; see
        `p_values`.
    seed : int
        For the noise of uint8 images.
    reference_weight : array_like, (M,), optional
        See `p_values`.

    Returns
    -------
    dict
        n, mean, min and max of log_prob in nats, and weighted: whether the mean is over weighted rows.
    """
    n, low, high, total, count, weighted = 0, np.inf, -np.inf, 0.0, 0.0, set()
    known = None if reference is None else _reference(reference, reference_weight)
    with write_rows("score", out, NAMES if known is not None else NAMES[:1]) as write:
        for scores, weight in log_probs(flow, rows, seed):
            write(scores if known is None else np.stack([scores, *_p_values(scores, *known)], axis=1))
            weights = check_weights("score", weight, len(scores), first=n)
            counts = np.ones(len(scores)) if weights is None else weights
            n, low, high = n + len(scores), min(low, float(scores.min())), max(high, float(scores.max()))
            total, count = total + float(counts @ scores), count + float(counts.sum())
            weighted.add(weights is not None)
        check_any("score", n)
        if len(weighted) > 1 or count == 0:
            raise wrong(ConfigError, "score", "rows", "expected weights of all rows or of none, and not zeros alone")
    return {"n": n, "mean": total / count, "min": low, "max": high, "weighted": True in weighted}


def log_probs(flow: Density, rows: Any, seed: int = 0) -> Iterator[tuple[np.ndarray, Any]]:
    """log_prob of consecutive rows, or of an array, piece by piece, and the weights of these rows or None.

    The numbers are the same as in one piece.
    """
    check_flow("score", flow)
    n = 0
    for block in blocks("score", rows):
        scores = flow.log_prob(block.x, seed=seed, first=n, **for_flow(flow, block).conditions)
        yield scores, block.weight
        n += len(scores)


def log_prob_on_ranks(flow: Density, data: Batch, ranks: Ranks) -> np.ndarray:
    """log p of all rows, of which each rank computes its share; the numbers do not depend on how many.

    Rows of weight 0, which may have no density, are not looked at and get 0.
    """
    if data.weight is not None and not data.weight.all():
        full, kept = np.zeros(len(data)), np.flatnonzero(data.weight)
        full[kept] = log_prob_on_ranks(flow, Batch(Picked(data.x, kept), *(
            None if part is None else part[kept] for part in (data.label, data.context))), ranks)
        return full
    share, step = ranks.share(len(data)), max(1, SCORED_VALUES // flow.dims)
    ends = limits_of(flow) if stays_outside(data.x) else None

    def scores() -> list[Any]:
        parts = [slice(a, min(a + step, share.stop)) for a in range(share.start, share.stop, step)]
        return [flow.log_prob(as_taken("log_prob", rows.x, origin(data.x, np.arange(part.start, part.stop)), flow.dtype,
                                       ends), first=part.start, **rows.conditions)
                for part in parts for rows in [data[part]]]

    return np.concatenate([part for rank in ranks.collect(ranks.try_on_all(scores)) for part in rank])


def _reference(scores: Any, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """`ranked`, the largest weight being 1."""
    checked = _scores("reference", scores)
    name = "reference_weight"
    weights = mean_one("p_values", check_weights("p_values", weight, len(checked), name=name), name)
    return ranked(checked, None if weights is None else weights / weights.max())


def _p_values(scores: np.ndarray, ascending: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = sums[np.searchsorted(ascending, scores, side="right")]
    above = 1 + sums[-1] - sums[np.searchsorted(ascending, scores, side="left")]
    return below / sums[-1], np.minimum(1.0, 2.0 * np.minimum(below, above) / sums[-1])


def _scores(name: str, values: Any) -> np.ndarray:
    scores = arrays.as_numbers("p_values", name, values).astype(np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise wrong(ShapeError, "p_values", name, f"expected {name} as (N,), got {scores.shape}")
    for row in np.flatnonzero(np.isnan(scores))[:1]:
        raise wrong(NumericError, "p_values", name, f"expected numbers in {name}, got nan at {row}", row=int(row))
    return scores
