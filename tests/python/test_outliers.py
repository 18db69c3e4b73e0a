"""The outlier detector around a density of another kind."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.mixture import GaussianMixture  # noqa: E402

from evenflow.sklearn import FlowOutlierDetector  # noqa: E402


def test_a_density_keeps_its_own_random_state():
    """The detector's goes to one that has none."""
    x = np.random.default_rng(0).standard_normal((60, 2))
    for own, wanted in ((5, lambda state: state == 5), (None, lambda state: state not in (5, None))):
        detector = FlowOutlierDetector(GaussianMixture(random_state=own), contamination=0.1, random_state=0).fit(x)
        assert wanted(detector.density_.random_state)
