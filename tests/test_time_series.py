"""Classifiers of time series: scikit-learn's conventions, and scikit-learn's own on one point."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from diffopt import (
    TimeSeriesCentroidClassifier,
    TimeSeriesNeighborClassifier,
    soft_dtw_barycenter,
    soft_dtw_pairwise,
)

rng = np.random.default_rng(0)
Y = np.array(["up", "down"] * 10)
X = np.cumsum(rng.normal(size=(20, 8)) + np.where(Y == "up", 0.5, -0.5)[:, None], axis=1)
RAGGED = [x[: 4 + i % 4, None] for i, x in enumerate(X)]


@parametrize_with_checks([TimeSeriesNeighborClassifier(loss="mean_cost_divergence")])
def test_conventions(estimator, check):
    check(estimator)


def test_conventions_hold_for_centroids():
    wanted = ("check_estimators_unfitted", "check_n_features_in_after_fitting")
    wanted += ("check_parameters_default_constructible", "check_estimators_nan_inf")
    model = TimeSeriesCentroidClassifier(max_iter=2)
    checks = [c for _, c in estimator_checks_generator(model) if c.func.__name__ in wanted]
    assert len(checks) == len(wanted)
    for check in checks:
        check(model)


@pytest.mark.parametrize("k", [1, 3])
def test_series_of_one_point_are_points(k):
    points = rng.normal(size=(30, 1, 3))
    labels = rng.integers(0, 3, 30)
    ours = TimeSeriesNeighborClassifier(k).fit(points, labels)
    theirs = KNeighborsClassifier(k).fit(points[:, 0], labels)
    fresh = rng.normal(size=(40, 1, 3))
    assert_allclose(ours.predict_proba(fresh), theirs.predict_proba(fresh[:, 0]))
    ours = TimeSeriesCentroidClassifier(tol=1e-10).fit(points, labels)
    theirs = NearestCentroid().fit(points[:, 0], labels)
    assert_allclose(np.concatenate(ours.centroids_), theirs.centroids_, atol=1e-6)
    assert_array_equal(ours.predict(fresh), theirs.predict(fresh[:, 0]))


def test_unequal_lengths():
    model = TimeSeriesNeighborClassifier(gamma=0.1).fit(RAGGED, Y)
    assert_array_equal(model.predict(RAGGED), Y)
    nearest = np.asarray(soft_dtw_pairwise(RAGGED[:5], RAGGED[5:], gamma=0.1)).argmin(1)
    model.fit(RAGGED[5:], Y[5:])
    assert_array_equal(model.predict(RAGGED[:5]), Y[5:][nearest])
    model = TimeSeriesCentroidClassifier(max_iter=20).fit(RAGGED, Y)
    ups = [x for x, y in zip(RAGGED, Y, strict=True) if y == "up"]
    assert list(model.classes_) == ["down", "up"] and 1 <= model.n_iter_ <= 20
    assert_allclose(model.centroids_[1], soft_dtw_barycenter(ups, max_iter=20).value, atol=1e-6)
    assert model.score(RAGGED, Y) > 0.8


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: TimeSeriesNeighborClassifier(30).fit(X, Y), "n_neighbors must lie"),
        (lambda: TimeSeriesNeighborClassifier("3").fit(X, Y), "integer, got '3'"),
        (lambda: TimeSeriesNeighborClassifier(loss="l2").fit(X, Y), "loss must be one of"),
        (lambda: TimeSeriesNeighborClassifier(gamma=-1.0).fit(X, Y), "gamma must lie"),
        (lambda: TimeSeriesNeighborClassifier().fit(RAGGED, Y[:3]), "inconsistent numbers"),
        (lambda: TimeSeriesNeighborClassifier().fit(X[:, :, None] * np.nan, Y), "finite"),
        (lambda: TimeSeriesCentroidClassifier(loss="l2").fit(X, Y), "loss must be one of"),
    ],
)
def test_wrong_use_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("model", [TimeSeriesNeighborClassifier, TimeSeriesCentroidClassifier])
def test_a_string_is_no_temperature(model):
    with pytest.raises(TypeError, match="gamma must be a number in .*, got 'auto'"):
        model(gamma="auto").fit(X, Y)


def test_import_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import diffopt\n"
        "try: diffopt.TimeSeriesNeighborClassifier\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install scikit-learn" in done.stdout, done.stderr
