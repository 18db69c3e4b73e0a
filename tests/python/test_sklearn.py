"""The scikit-learn estimators: its own checks, densities in the data's units, calibrated p-values."""

import pickle

import numpy as np
import pytest
from raised import raises

pytest.importorskip("sklearn")

from sklearn import config_context  # noqa: E402
from sklearn.base import BaseEstimator, clone  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import evenflow as ef  # noqa: E402
from evenflow.sklearn import FlowDensity, FlowOutlierDetector  # noqa: E402

SMALL = dict(couplings=4, hidden=(16,), epochs=30, batch_size=64, lr=5e-3)
TINY = FlowDensity(couplings=2, hidden=(8,), epochs=3, batch_size=32)

HELD_OUT = ("expects contamination * 300 training rows to be flagged; here the threshold comes from held-out "
            "rows, so that it holds for new rows, and the share of training rows is only near it")
OF_SPLITS = "a row that counts twice is in one part of the split, two rows may be in both"
LARGEST = "one weight of ten among sixteen rows leaves no p-value up to 0.5, since a new row may count as much"
EXPECTED_FAILURES = {"FlowOutlierDetector": {"check_outliers_fit_predict": HELD_OUT,
                                             "check_outliers_train": HELD_OUT,
                                             "check_sample_weight_equivalence_on_dense_data": OF_SPLITS,
                                             "check_sample_weights_not_overwritten": LARGEST}}


CHECKS = parametrize_with_checks(
    [TINY, clone(TINY).set_params(model="nice"),
     FlowOutlierDetector(TINY, contamination=0.5, calibration_fraction=0.5)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES.get(type(estimator).__name__, {}))


# A list: scikit-learn 1.7, the last for Python 3.10, has a generator here, of which pytest 9 warns.
@pytest.mark.filterwarnings("ignore::evenflow.DataWarning")  # of data that the checks round
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def crescent():
    """(1200, 2): a crescent in columns of sizes 100 and 0.01."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1200, 2))
    return np.stack([500 + 100 * a[:, 0], 0.01 * (a[:, 0]**2 + 0.3 * a[:, 1])], axis=1)


def true_score(x):
    """Log-density of `crescent`."""
    a, b = (x[:, 0] - 500) / 100, x[:, 1] / 0.01
    return -0.5 * a**2 - 0.5 * ((b - a**2) / 0.3)**2 - np.log(2 * np.pi * 0.3) - np.log(100 * 0.01)


@pytest.fixture(scope="module")
def fitted(crescent):
    return FlowDensity(**SMALL, random_state=0).fit(crescent[:1000])


def test_density(crescent, fitted):
    """Nats in the columns' units: near the truth, above a Gaussian."""
    x = crescent[1000:]
    scores = fitted.score_samples(x)
    assert scores.shape == (200,) and scores.dtype == np.float64
    assert fitted.score(x) == pytest.approx(scores.mean())
    scale = crescent[:1000].std(0)
    gaussian = GaussianMixture(1).fit(crescent[:1000] / scale).score(x / scale) - np.log(scale).sum()
    assert gaussian + 0.5 < fitted.score(x) < true_score(x).mean() + 0.05
    assert np.array_equal(scores, fitted.flow_.log_prob(x))


def test_a_share_of_the_rows_is_held_out(crescent):
    history = clone(TINY).fit(crescent).history_
    assert (history.rows, history.valid_rows) == (1080, 120)


def test_early_stopping(crescent):
    settings = {**SMALL, "epochs": 500, "lr": 0.03}
    density = FlowDensity(**settings, patience=3, random_state=0).fit(crescent[:200])
    losses = [record["valid_loss"] for record in density.history_]
    assert density.n_iter_ == len(losses) == np.argmin(losses) + 4 < 500
    density = FlowDensity(**SMALL, validation_fraction=0.0).fit(crescent[:100])
    assert density.n_iter_ == 30 and "valid_loss" not in density.history_[0]


def test_columns_that_hold_nothing(crescent):
    x = crescent.copy()
    x[:, 1] = 3
    with pytest.raises(ef.ConfigError):
        FlowDensity().fit(x)
    x = crescent + [0, 1e6]
    with pytest.raises(ef.ConfigError):
        FlowDensity().fit(x)
    exact = FlowDensity(**SMALL, dtype="float64", random_state=0).fit(x[:1000]).score(x[1000:])
    assert exact == pytest.approx(true_score(crescent[1000:]).mean(), abs=0.3)


def test_a_value_is_named_by_its_row(crescent):
    """By that of the caller, with advice where it helps."""
    x = crescent.copy()
    x[3, 1] = 1e39
    with raises(ef.ConfigError, row=3, column=1):
        TINY.fit(x)
    x[3, 1] = np.nan
    with config_context(assume_finite=True), raises(ef.ConfigError, row=3, column=1):
        TINY.fit(x)
    twice = np.column_stack([crescent, crescent[:, 0]])
    with pytest.raises(ef.ConfigError):
        clone(TINY).set_params(preprocess="whiten").fit(twice)


@pytest.mark.parametrize("far", [3e38, 1e39])
def test_a_far_row_fails_no_other(crescent, fitted, detector, far):
    """It has no density that its dtype holds."""
    x = np.insert(crescent[:40], [7, 20], [500, far], axis=0)
    for estimator in (fitted, detector):
        scores = estimator.score_samples(x)
        assert np.flatnonzero(scores == -np.inf).tolist() == [7, 21]
        assert np.array_equal(np.delete(scores, [7, 21]), estimator.score_samples(crescent[:40]))
    assert detector.predict(x)[[7, 21]].tolist() == [-1, -1] and detector.p_values(x)[7] == 1 / 151
    assert detector.decision_function(x)[7] == -np.inf
    x[0, 0] = np.nan
    with config_context(assume_finite=True), raises(ef.NumericError, row=0, column=0):
        fitted.score_samples(x)


def test_a_failed_fit_leaves_the_earlier_one(crescent, detector, monkeypatch):
    def fail(*_, **__):
        raise ef.NumericError("no")

    x, wide = crescent[:100], np.hstack([crescent, crescent])
    density, detector = clone(TINY).fit(crescent), pickle.loads(pickle.dumps(detector))
    before = density.score_samples(x), detector.p_values(x)
    monkeypatch.setattr(ef.Flow, "fit", fail)
    for estimator in (density, detector):
        with pytest.raises(ef.ConfigError):
            estimator.fit(wide)
    assert np.array_equal(before, (density.score_samples(x), detector.p_values(x)))
    assert density.n_iter_ == 3 and density.n_features_in_ == 2


def heaps(n):
    """(n, 2), half around 0 and half around 8, and weights of 1 and 3."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    return rng.standard_normal((n, 2)) + 8.0 * side[:, None], 1.0 + 2 * side


@pytest.mark.slow
def test_sample_weight():
    x, w = heaps(3000)
    density = FlowDensity(random_state=0, epochs=20, patience=20).fit(x, sample_weight=1e-3 * w)
    assert (density.sample(4000, random_state=1)[:, 0] > 4).mean() == pytest.approx(0.75, abs=0.03)
    search = GridSearchCV(FlowDensity(**{**SMALL, "epochs": 5}, random_state=0), {"couplings": [2, 4]}, cv=2)
    search.fit(x[:600], sample_weight=w[:600])
    scores = density.score_samples(x)
    assert density.score(x, sample_weight=w) == pytest.approx(np.average(scores, weights=w))
    assert density.score([x[0], [1e300, 0]], sample_weight=[1, 0]) == pytest.approx(scores[0])  # not -inf
    assert search.best_estimator_.sample(2000, random_state=1)[:, 0].mean() > 4.5


@pytest.mark.parametrize("estimator", [TINY, FlowOutlierDetector(TINY, contamination=0.3)])
def test_rows_of_weight_zero_are_left_out(crescent, estimator):
    """Also those that are no data of this unit."""
    x, w = crescent[:300].copy(), np.random.default_rng(0).uniform(0.5, 1, 300)
    w[::3], x[::3] = 0, 1e6
    one, other = (clone(estimator).set_params(random_state=1) for _ in range(2))
    one.fit(x, sample_weight=w), other.fit(x[w > 0], sample_weight=w[w > 0])
    assert np.array_equal(one.score_samples(x), other.score_samples(x))
    plain = clone(one).fit(x[w > 0])
    assert not np.array_equal(plain.score_samples(x[:9]), one.score_samples(x[:9]))
    even = clone(one).fit(x[w > 0], sample_weight=np.full(200, 0.3))
    assert np.array_equal(plain.score_samples(x), even.score_samples(x))


def test_bounds_are_of_rows_with_a_weight(crescent):
    """And so is what float32 holds; rows that are refused go by their numbers in X."""
    x, w = np.abs(crescent[:300]), np.ones(300)
    density = clone(TINY).set_params(bounds=[(0, None), (0, None)], random_state=0)
    wanted = clone(density).fit(x[2:]).score_samples(x)
    w[:2], x[0], x[1] = 0, -1, 1e300
    assert np.array_equal(density.fit(x, sample_weight=w).score_samples(x[2:]), wanted[2:])
    x[20, 1], x[21, 0] = -1, 1e300
    with raises(ValueError, row=21, column=0):
        density.fit(x, sample_weight=w)
    x[21] = 1
    with raises(ValueError, row=20, column=1):
        density.fit(x, sample_weight=w)


def test_pipeline_and_search(crescent):
    pipeline = make_pipeline(StandardScaler(), FlowDensity(**SMALL, random_state=0))
    pipeline.fit(crescent[:600])
    units = np.log(crescent[:600].std(0)).sum()
    x = crescent[1000:]
    assert pipeline.score(x) - units == pytest.approx(true_score(x).mean(), abs=0.3)
    search = GridSearchCV(FlowDensity(**{**SMALL, "epochs": 10}, random_state=0),
                          {"couplings": [1, 4]}, cv=2).fit(crescent[:600])
    assert search.best_params_ == {"couplings": 4}  # one coupling leaves a column Gaussian


@pytest.fixture(scope="module")
def detector(crescent):
    return FlowOutlierDetector(FlowDensity(**SMALL, law="affine", random_state=0), contamination=0.1,
                               random_state=0).fit(crescent[:600])


def test_p_values(crescent, detector):
    """(1 + #{calibration scores <= s}) / (n + 1), counted one by one."""
    assert detector.calibration_scores_.shape == (150,)
    x = np.vstack([crescent[600:], crescent[:600], [[500, -0.05], [1500, 0.5]]])
    p, scores = detector.p_values(x), detector.score_samples(x)
    wanted = [(1 + sum(c <= s for c in detector.calibration_scores_)) / 151 for s in scores]
    assert np.array_equal(p, wanted)
    assert (p[-2:] == 1 / 151).all()
    assert np.array_equal(detector.predict(x) == -1, p <= 0.1)
    assert np.array_equal(detector.predict(x) == -1, detector.decision_function(x) < 0)


class Known(BaseEstimator):
    """The first column is the score; keeps the rows that it was fitted on, and their weights."""

    def fit(self, X, y=None, sample_weight=None):
        self.seen_ = X[:, 0], sample_weight
        return self

    def score_samples(self, X):
        return X[:, 0]


def test_weighted_p_values():
    """(1 + sum of w over calibration scores <= s) / (1 + sum of w), counted one by one, the largest w being 1."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((200, 2)), rng.uniform(0, 3, 200)
    detector = FlowOutlierDetector(Known(), contamination=0.1, random_state=0).fit(x, sample_weight=w)
    trained = np.isin(x[:, 0], detector.density_.seen_[0])
    assert trained.sum() == 150 and np.array_equal(np.sort(x[~trained, 0]), detector.calibration_scores_)
    by_score = dict(zip(*detector.density_.seen_))
    assert all(by_score[s] == pytest.approx(own / w.mean()) for s, own in zip(x[trained, 0], w[trained]))
    new, share = rng.standard_normal((300, 2)), w[~trained] / w.max()
    wanted = [(1 + share[x[~trained, 0] <= s].sum()) / (1 + share.sum()) for s in new[:, 0]]
    np.testing.assert_allclose(detector.p_values(new), wanted, rtol=1e-12)
    assert np.array_equal(detector.predict(new) == -1, detector.p_values(new) <= 0.1)
    with pytest.raises(ValueError):
        clone(detector).set_params(contamination=0.02).fit(x, sample_weight=w)


@pytest.mark.slow
def test_p_values_are_calibrated(crescent):
    """Over many splits, a new row is an outlier with probability `contamination`, even by a poor density."""
    rng, flagged, n = np.random.default_rng(0), [], 39
    poor = GaussianMixture(1)
    for _ in range(150):
        rows = rng.permutation(len(crescent))
        detector = FlowOutlierDetector(poor, contamination=0.1, calibration_fraction=0.5,
                                       random_state=int(rng.integers(2**31))).fit(crescent[rows[:2 * n]])
        assert len(detector.calibration_scores_) == n
        flagged.append(np.mean(detector.predict(crescent[rows[2 * n:]]) == -1))
    assert np.mean(flagged) == pytest.approx(4 / 40, abs=3 * np.std(flagged) / np.sqrt(150))


def test_a_density_warns_of_a_column_by_its_name(crescent):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"b": crescent[:600, 1], "flux": np.exp(crescent[:600, 0] / 100 - 5)})
    with pytest.warns(ef.DataWarning, match="column 'flux' is positive with a long tail"):
        clone(TINY).fit(frame)


def test_a_density_that_selects_columns_by_name(crescent):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["x"] * 600, "b": crescent[:600, 1], "a": crescent[:600, 0]})
    frame.index = frame.index[::-1]  # rows are taken by number
    columns = ColumnTransformer([("numbers", StandardScaler(), ["a", "b"])])
    pipeline = make_pipeline(columns, GaussianMixture(1, random_state=0))
    detector = FlowOutlierDetector(pipeline, random_state=0).fit(frame)
    assert detector.feature_names_in_.tolist() == ["text", "b", "a"]
    plain = FlowOutlierDetector(make_pipeline(StandardScaler(), GaussianMixture(1, random_state=0)), random_state=0)
    assert np.array_equal(detector.p_values(frame), plain.fit(crescent[:600]).p_values(crescent[:600]))
    with pytest.raises(ValueError):
        detector.predict(frame.rename(columns={"a": "c"}))
    with pytest.raises(ValueError):
        FlowOutlierDetector(pipeline).fit(frame[:2])
    numbered = frame.set_axis([0, 1, 2], axis=1)  # which scikit-learn takes for no names
    columns.set_params(transformers=[("numbers", StandardScaler(), [2, 1])])
    again = FlowOutlierDetector(pipeline, random_state=0).fit(numbered)
    assert np.array_equal(again.p_values(numbered), detector.p_values(frame))
    names = FlowOutlierDetector(TINY, random_state=0).fit(frame[["a", "b"]])
    assert names.density_.feature_names_in_.tolist() == ["a", "b"]
    assert np.array_equal(names.p_values(frame[["a", "b"]]), FlowOutlierDetector(TINY, random_state=0).fit(
        crescent[:600]).p_values(crescent[:600]))


def test_detector_settings(crescent, detector):
    assert clone(detector).get_params()["density__couplings"] == 4
    default = FlowOutlierDetector(random_state=0).set_params(density=None)
    assert isinstance(default.fit(crescent[:100]).density_, FlowDensity)
    with raises(ef.ConfigError, argument="contamination"):
        FlowOutlierDetector(TINY, contamination=0.05).fit(crescent[:40])
    FlowOutlierDetector(GaussianMixture(1)).fit(crescent[:76])
    with pytest.raises(ef.ConfigError):
        FlowOutlierDetector(GaussianMixture(1)).fit(crescent[:75])
    with pytest.raises(ef.ConfigError):
        FlowOutlierDetector(TINY, calibration_fraction=0.0).fit(crescent)
    with raises(ef.ConfigError, argument="contamination"):
        FlowOutlierDetector(TINY, contamination=0.6).fit(crescent)


def test_a_density_keeps_its_own_random_state():
    """The detector's goes to one that has none."""
    x = np.random.default_rng(0).standard_normal((60, 2))
    for own, wanted in ((5, lambda state: state == 5), (None, lambda state: state not in (5, None))):
        detector = FlowOutlierDetector(GaussianMixture(random_state=own), contamination=0.1, random_state=0).fit(x)
        assert wanted(detector.density_.random_state)
