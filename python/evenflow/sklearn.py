"""Flows as scikit-learn estimators: a density, and an outlier detector with calibrated p-values.

    density = FlowDensity(random_state=0).fit(X)
    density.score_samples(X_new)                   # log-density in nats, in the columns' own units
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from evenflow._border import arrays, checks
from evenflow._border import bounds as of_columns
from evenflow.clients.rows import log_prob
from evenflow.density import name_columns
from evenflow.errors import ConfigError, NumericError, wrong
from evenflow.training.settings import Settings
from evenflow._border.extras import need, outdated
from evenflow.flow import Flow
from evenflow.models import NICE, CouplingFlow
from evenflow.score import ranked
from evenflow._border.weights import check_weights, mean_one

_version = need("evenflow.sklearn", "sklearn", "scikit-learn", "sklearn").__version__
from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin, clone  # noqa: E402
from sklearn.utils import check_array, check_random_state  # noqa: E402

try:
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise outdated("evenflow.sklearn", "scikit-learn", "1.6", _version) from error

WHERE = "FlowDensity"


class FlowDensity(DensityMixin, BaseEstimator):
    """The density of a table, by a normalizing flow: a scikit-learn estimator with score_samples and sample.

    Parameters
    ----------
    model : str
        "coupling_flow", with a logistic base, whose tails forgive rows far from the others; or "nice" (Dinh, Krueger,
        Bengio 2014).
    couplings, hidden : int, sequence of int
        Number of couplings, and widths of their nets' hidden layers; of residual nets all equal.
    law : str
        Law of coupling_flow's couplings: "affine", "spline", ...; see `CouplingFlow`.
    preprocess : str
        "standardize", "zca", "whiten" or "none", fitted with the flow.
    bounds : sequence of (low, high), or dict of them, optional
        See `CouplingFlow`. A dict has the pairs by name or place of the column; other columns are open.
    epochs : int, optional
        Largest number of passes; None: as `Flow.fit`.
    batch_size : int, optional
        None: 32 ... 256, by the number of rows.
    lr : float
        Learning rate of Adam, after a warm-up of an epoch or 100 steps.
    validation_fraction : float
        Share of the rows that is held out to choose the epoch. If that rounds to no row, all rows are trained on for
        all epochs.
    patience : int
        Training ends after so many epochs without a better validation loss.
    dtype : str
        "float32" or "float64".
    device : str
        "cpu" or "cuda". An estimator that was unpickled computes on the CPU.
    threads : int
        0: `OMP_NUM_THREADS`, or all processors that the process may use.
    random_state : int, RandomState or None
        For initialisation, split and order. None: another one at every fit.
    verbose : bool
        Show a bar.
    net : str
        Of coupling_flow: "residual" or "mlp".

    Attributes
    ----------
    flow_ : Flow
        The model, ready to save.
    history_ : list of dict
        One record an epoch; see `Flow.fit`.
    n_iter_ : int
        Epochs run.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError
        X has fewer than 2 rows or columns, NaN, a constant column, a column that `dtype` can't resolve, values outside
        of `bounds`, or fewer than 2 rows left to train on.
    NumericError
        The training failed.

    See Also
    --------
    FlowOutlierDetector : Which rows are unlike the others.
    evenflow.CouplingFlow : The flow itself.

    Examples
    --------
    >>> x, _ = ef.data.two_moons(500, seed=0)
    >>> density = FlowDensity(epochs=2, verbose=False).fit(x)
    >>> density.score_samples(x).shape
    (500,)
    """

    def __init__(self, model: str = "coupling_flow", couplings: int = 8, hidden: tuple[int, ...] = (64, 64), *,
                 law: str = "spline", preprocess: str = "standardize", bounds: Any = None, epochs: int | None = None,
                 batch_size: int | None = None, lr: float = 3e-3, validation_fraction: float = 0.1,
                 patience: int = 20, dtype: str = "float32", device: str = "cpu", threads: int = 0,
                 random_state: Any = None, verbose: bool = False, net: str = "residual"):
        self.model = model
        self.couplings = couplings
        self.hidden = hidden
        self.law = law
        self.preprocess = preprocess
        self.bounds = bounds
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.device = device
        self.threads = threads
        self.random_state = random_state
        self.verbose = verbose
        self.net = net

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FlowDensity:
        """Trains on X by maximum likelihood.

        Parameters
        ----------
        X : array_like or data frame, (n_samples, n_features)
        y : ignored
        sample_weight : array_like, (n_samples,), optional
            How much a row counts, >= 0, in training and on the held-out part. Rows of weight 0 are left out, but must
            be finite.
        """
        arrays.refuse_masked(WHERE, X)
        _check_names(X)
        rows = check_array(X, dtype=np.float64, ensure_min_samples=2, estimator=self,
                           ensure_min_features=2 if self.model == "nice" else 1)
        fraction = checks.number(WHERE, "validation_fraction", self.validation_fraction, 0.0, 0.9)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # pyarrow's `columns` are the values.
        names = list(getattr(X, "column_names", getattr(X, "columns", ())))
        flow = self._model(rows.shape[1], seed, names)
        name_columns(flow, names if all(isinstance(name, str) for name in names) else None)
        weights, kept = _checked_weights(WHERE, sample_weight, len(rows)), np.arange(len(rows))
        if weights is not None:
            kept = np.flatnonzero(weights)
            rows, weights = rows[kept], weights[kept]
        held_out = round(fraction * len(rows))
        if len(rows) - held_out < 2:
            raise wrong(ConfigError, WHERE, "validation_fraction", f"expected at least 2 rows to train on, got "
                        f"{len(rows) - held_out} of {len(rows)}, since validation_fraction={fraction:g} holds out "
                        f"{held_out}")
        try:
            history = flow.fit(
                rows, valid=fraction if held_out else None, sample_weight=weights, lr=self.lr, seed=seed,
                epochs=None if self.epochs is None else checks.whole(WHERE, "epochs", self.epochs, low=1),
                patience=self.patience if held_out else None, verbose=self.verbose,
                batch_size="auto" if self.batch_size is None else self.batch_size,
                settings=Settings(on_nonfinite="rollback", init_batch=len(rows)))
        except NumericError as error:
            if flow.initialized:  # the columns were taken, and the training failed
                raise
            raise _refused(error, "X", kept) from error
        # Last, so that a fit that fails leaves an earlier one whole.
        validate_data(self, X, skip_check_array=True)
        self.flow_, self.history_, self.n_iter_ = flow, history, len(history)
        return self

    def _model(self, columns: int, seed: int, names: list[Any]) -> Flow:
        if self.hidden is None:  # a model takes None for its default
            raise wrong(TypeError, WHERE, "hidden", "expected a sequence of widths for hidden, got None")
        shared: dict[str, Any] = dict(
            couplings=checks.whole(WHERE, "couplings", self.couplings, low=1), hidden=self.hidden, seed=seed,
            preprocess=checks.choice(WHERE, "preprocess", self.preprocess, ("standardize", "zca", "whiten", "none")),
            bounds=of_columns.by_column(WHERE, self.bounds, names, columns), dtype=self.dtype, device=self.device,
            threads=self.threads)
        if checks.choice(WHERE, "model", self.model, ("coupling_flow", "nice")) == "coupling_flow":
            return CouplingFlow(columns, law=self.law, net=self.net, **shared)
        if self.law != "spline":
            raise wrong(ConfigError, WHERE, "law", "law is a setting of model='coupling_flow', and model is 'nice'")
        return NICE(columns, **shared)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row, (n_samples,), in nats, in the units of X.

        It is -inf for a row on or outside of a bound, and for one so far off that its density underflows or that
        `dtype` can't hold it.
        """
        check_is_fitted(self)
        arrays.refuse_masked("FlowDensity", X)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        try:
            scores: np.ndarray = self.flow_.log_prob(rows)
        except NumericError:
            if not np.isfinite(rows).all():  # which scikit-learn lets pass where it is told to
                raise
            scores = np.nan_to_num(log_prob(self.flow_, rows), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        return scores

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, weighted if they are: larger is better, as model selection wants it."""
        scores = self.score_samples(X)
        weights = _checked_weights("FlowDensity", sample_weight, len(scores))
        if weights is None:
            return float(np.mean(scores))
        return float(np.average(scores[weights > 0], weights=weights[weights > 0]))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws (n_samples, n_features) from the density; random_state None: other ones at every call."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        samples: np.ndarray = self.flow_.sample(n_samples, seed=seed)
        return samples.astype(np.float64)


def _refused(error: NumericError, argument: str, rows: np.ndarray) -> ConfigError:
    """The error of data as scikit-learn wants it, a ValueError; rows: the numbers of those of X that count."""
    text, row = str(error), error.row
    if row is not None:
        row = int(rows[row])
        text = re.sub(rf"(row|sample) {error.row}\b", rf"\1 {row}", text, count=1)
    return ConfigError(text, argument=argument, row=row, column=error.column)


def _checked_weights(where: str, sample_weight: Any, n: int) -> np.ndarray | None:
    """Of mean one. ConfigError, a ValueError, for one that is not finite too."""
    try:
        return mean_one(where, check_weights(where, sample_weight, n))
    except NumericError as error:
        raise _refused(error, "sample_weight", np.arange(n)) from error


def _check_names(X: Any) -> None:
    """scikit-learn's error for names of columns that it does not take, before the training and not after it."""
    validate_data(BaseEstimator(), X, skip_check_array=True)


def _is_frame(X: Any) -> bool:
    """Whether X is a data frame of pandas, or of a library that has its methods, or of polars."""
    return hasattr(X, "iloc") or type(X).__module__.partition(".")[0] == "polars"


def _checked_scores(scores: Any, order: np.ndarray | None = None) -> np.ndarray:
    """Scores of a density without NaN, which would count as those of the best inliers; `order` numbers the rows."""
    checked: np.ndarray = np.asarray(scores, np.float64)
    bad = np.flatnonzero(np.isnan(checked))
    if bad.size:
        row = int(bad[0] if order is None else order[bad[0]])
        raise wrong(NumericError, "FlowOutlierDetector", "density", "expected numbers as the density's scores, got nan "
                    f"for row {row}", row=row)
    return checked


class FlowOutlierDetector(OutlierMixin, BaseEstimator):
    """Outliers by a density, with p-values calibrated on rows that the density never saw.

    Parameters
    ----------
    density : estimator, optional
        With fit and score_samples; None: FlowDensity(). It gets data frames of pandas or polars as they are.
    contamination : float
        Rows with a p-value up to this are outliers. A new row from the distribution of `fit`'s is called one with at
        most this probability.
    calibration_fraction : float
        Share of the rows that is held out from the density.
    random_state : int, RandomState or None
        For the split, and for a density that has none of its own.

    Attributes
    ----------
    density_ : estimator
        Fitted.
    calibration_scores_ : ndarray, (n,)
        Ascending.
    offset_ : float
        The smallest score of an inlier.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError
        As FlowDensity; or there are too few calibration rows for any p-value to reach `contamination` (the defaults
        need 76 rows), or so many of them have a density of zero that no row could be an outlier.
    NumericError
        A score is NaN.

    Notes
    -----
    The p-value of a row with score s is (1 + #{calibration scores <= s}) / (n + 1) (conformal prediction; Vovk,
    Gammerman, Shafer 2005): for rows exchangeable with those of `fit`, P(p <= a) <= a for every a, however good the
    density is. With sample weights w it is (1 + sum of w_i over calibration scores <= s) / (1 + sum of w_i), with the
    largest w of `fit` as 1, and holds for rows drawn in proportion to weights up to that (weighted conformal
    prediction; Tibshirani et al. 2019).
    """

    def __init__(self, density: Any = None, *, contamination: float = 0.05,
                 calibration_fraction: float = 0.25, random_state: Any = None):
        self.density = density
        self.contamination = contamination
        self.calibration_fraction = calibration_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FlowOutlierDetector:
        """Fits the density on one part of X and calibrates on the other.

        Parameters
        ----------
        X : array_like or data frame, (n_samples, n_features)
            Rows, most of them inliers.
        y : ignored
        sample_weight : array_like, (n_samples,), optional
            How much a row counts in both parts, >= 0; the density's fit must take it. Rows of weight 0 are left out.
        """
        where = "FlowOutlierDetector"
        arrays.refuse_masked(where, X)
        _check_names(X)
        if _is_frame(X):
            rows = X
            if len(rows) < 3:
                raise wrong(ConfigError, where, "X", f"expected at least 3 rows, got {len(rows)}")
        else:
            rows = check_array(X, dtype=np.float64, ensure_min_samples=3, estimator=self)
        contamination = checks.number(where, "contamination", self.contamination, 0.0, 0.5)
        fraction = checks.number(where, "calibration_fraction", self.calibration_fraction, 0.0, 0.9)
        state = check_random_state(self.random_state)
        weights = _checked_weights(where, sample_weight, len(rows))
        order = state.permutation(len(rows) if weights is None else np.flatnonzero(weights))
        n = max(1, int(fraction * len(order)))
        counts = np.ones(n) if weights is None else weights[order[:n]] / weights.max()
        least = 1 / (1 + counts.sum())
        if least > contamination:
            more = ""
            if weights is None and contamination > 1e-9 and fraction > 0:  # else there is no end, or always one row
                more = f"at least {math.ceil(math.ceil(1 / contamination - 1 - 1e-9) / fraction - 1e-9)} rows, or "
            raise wrong(ConfigError, where, "contamination", f"expected contamination >= {least:.3g}, the smallest "
                        f"p-value of {n} calibration rows, got {contamination}; use {more}a larger "
                        "calibration_fraction")
        density = FlowDensity() if self.density is None else clone(self.density)
        seed = int(state.randint(2**31 - 1))
        density.set_params(**{name: seed for name, value in density.get_params().items()
                              if name.rpartition("__")[2] == "random_state" and value is None})
        at = getattr(rows, "iloc", rows)  # by number, in a frame of pandas too
        density = density.fit(at[order[n:]], **({} if weights is None else {"sample_weight": weights[order[n:]]}))
        scores = _checked_scores(density.score_samples(at[order[:n]]), order)
        scores, sums = ranked(scores, counts)
        below = max(1, int(np.sum(sums[:-1] / sums[-1] <= contamination)))  # up to the sums' rounding
        if scores[below - 1] == -np.inf:
            raise wrong(ConfigError, where, "density", f"expected fewer than {below} of {n} calibration rows with a "
                        f"density of zero, got {np.sum(scores == -np.inf)}, so that nothing could be an outlier; use a "
                        "density that is wider, or a larger contamination")
        validate_data(self, X, skip_check_array=True)
        self.density_, self.calibration_scores_, self.offset_ = density, scores, float(scores[below - 1])
        self._sums, self._has_frames = sums, _is_frame(X)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log-density (n_samples,) of every row, nats. NumericError for NaN."""
        check_is_fitted(self)
        arrays.refuse_masked("FlowOutlierDetector", X)
        if _is_frame(X) and self._has_frames:
            validate_data(self, X, reset=False, skip_check_array=True)
            return _checked_scores(self.density_.score_samples(X))
        return _checked_scores(self.density_.score_samples(validate_data(self, X, dtype=np.float64, reset=False)))

    def decision_function(self, X: Any) -> np.ndarray:
        """score_samples(X) - offset_ (n_samples,): negative for outliers, -inf where the density is zero."""
        scores = self.score_samples(X)
        with np.errstate(invalid="ignore"):  # infinities that are alike have no difference
            return np.where(scores == self.offset_, 0.0, scores - self.offset_)

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, p-value <= contamination, 1 for others."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-values (n_samples,), from the least of n calibration rows, 1 / (n + 1), or with weights w
        1 / (1 + sum of w), the largest w of `fit` being 1, up to 1; small for outliers.
        """
        scores = self.score_samples(X)
        below = np.searchsorted(self.calibration_scores_, scores, side="right")
        return np.asarray(self._sums[below] / self._sums[-1])
