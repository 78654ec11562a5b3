"""The classifier against scikit-learn, its dual against its primal, its gap against the excess."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.spatial.distance import jensenshannon
from scipy.special import logsumexp, softmax, xlogy
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from diffopt.classifier import (
    FenchelYoungClassifier,
    _balance,
    jensen_shannon,
    solve_dual,
    solve_lbfgs,
)
from diffopt.kernels.ascent import NO_ENTROPY, proximity
from diffopt.regularizers import FermiDirac, Norm, Tsallis

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
REGULARIZERS = ["shannon", "gini", "tsallis15", Tsallis(1.3)]
IDS = ["shannon", "gini", "tsallis15", "tsallis13"]


def proportions(rng, n, k, sparse=0.4):
    y = rng.dirichlet(np.ones(k), n) * (rng.random((n, k)) > sparse)
    y[y.sum(1) == 0, 0] = 1
    return y / y.sum(1, keepdims=True)


# --- scikit-learn's conventions -------------------------------------------------------------------


@parametrize_with_checks([FenchelYoungClassifier()])
def test_conventions(estimator, check):
    check(estimator)


def test_conventions_hold_for_the_dual_solver():
    wanted = ("check_estimators_unfitted", "check_classifiers_classes", "check_fit_idempotent")
    wanted += ("check_estimator_sparse_matrix",)
    model = FenchelYoungClassifier(solver="dual", lam=0.1, random_state=0)
    checks = [c for _, c in estimator_checks_generator(model) if c.func.__name__ in wanted]
    assert len(checks) == len(wanted)
    for check in checks:
        check(clone(model))


def test_a_model_is_cloned_and_pickled():
    model = FenchelYoungClassifier(Tsallis(1.3), lam=0.1).fit(X, Y)
    assert clone(model).regularizer == Tsallis(1.3)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_import_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['scipy'] = None\n"
        "import diffopt\n"
        "try: diffopt.FenchelYoungClassifier\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install scikit-learn" in done.stdout, done.stderr


# --- against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lbfgs", "dual"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_shannon_is_logistic_regression(solver, fit_intercept):
    lam = 0.02
    expected = LogisticRegression(
        C=1 / (lam * len(X)), fit_intercept=fit_intercept, tol=1e-12, max_iter=10_000
    ).fit(X, Y)
    for features in (X, csr_matrix(X)):
        model = FenchelYoungClassifier(
            "shannon", lam=lam, solver=solver, fit_intercept=fit_intercept, tol=1e-14
        ).fit(features, Y)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-6)
        np.testing.assert_allclose(
            model.predict_proba(features), expected.predict_proba(X), atol=1e-6
        )
    theta = X @ expected.coef_.T + expected.intercept_
    loss = np.mean(logsumexp(theta, axis=1) - theta[np.arange(len(Y)), Y])
    assert model.objective_ == pytest.approx(loss + lam / 2 * np.sum(expected.coef_**2), abs=1e-10)


def test_hinge_is_the_machine_of_crammer_and_singer():
    lam = 0.05
    expected = LinearSVC(
        C=1 / (lam * len(X)),
        multi_class="crammer_singer",
        fit_intercept=False,
        tol=1e-9,
        max_iter=100_000,
        random_state=0,
    ).fit(X, Y)
    model = FenchelYoungClassifier(
        "hinge", lam=lam, solver="dual", fit_intercept=False, tol=1e-9, max_iter=20_000
    ).fit(X, Y)

    def objective(table):
        theta = X @ table.T
        margins = theta - theta[np.arange(len(Y)), Y][:, None] + (np.arange(3) != Y[:, None])
        return margins.max(1).mean() + lam / 2 * np.sum(table**2)

    assert model.objective_ == pytest.approx(objective(model.coef_), abs=1e-12)
    assert model.objective_ <= objective(expected.coef_) + 1e-8
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-3)


def oracle(regularizer, theta):
    """The map and the conjugate in NumPy, by bisection for the threshold."""
    if regularizer == "shannon":
        return softmax(theta, axis=1), logsumexp(theta, axis=1)
    alpha = {"gini": 2.0, "tsallis15": 1.5}.get(regularizer) or regularizer.alpha
    low = theta.max(1, keepdims=True) - 1 / (alpha - 1)
    high = theta.max(1, keepdims=True)
    for _ in range(100):
        middle = (low + high) / 2
        p = np.maximum((alpha - 1) * (theta - middle), 0) ** (1 / (alpha - 1))
        above = p.sum(1, keepdims=True) >= 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return p, np.sum(p * theta, 1) - (np.sum(p**alpha, 1) - 1) / (alpha * (alpha - 1))


def value(regularizer, p):
    if regularizer == "shannon":
        return xlogy(p, p).sum(1)
    alpha = {"gini": 2.0, "tsallis15": 1.5}.get(regularizer) or regularizer.alpha
    return (np.sum(p**alpha, 1) - 1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("solver", ["lbfgs", "dual"])
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=IDS)
def test_proportions_against_scipy(regularizer, solver):
    rng = np.random.default_rng(0)
    features, y, weights = rng.normal(size=(30, 4)), proportions(rng, 30, 3), rng.random(30)
    lam, shares = 0.05, weights / weights.sum()

    def objective(point):
        table, intercept = point[:12].reshape(3, 4), point[12:]
        theta = features @ table.T + intercept
        p, conjugate = oracle(regularizer, theta)
        loss = conjugate + value(regularizer, y) - np.sum(theta * y, 1)
        residual = shares[:, None] * (p - y)
        gradient = [(residual.T @ features + lam * table).ravel(), residual.sum(0)]
        return shares @ loss + lam / 2 * np.sum(table**2), np.concatenate(gradient)

    expected = minimize(objective, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-10})
    model = FenchelYoungClassifier(regularizer, lam=lam, solver=solver, tol=1e-13, max_iter=5000)
    model.fit(features, y, weights)
    assert model.objective_ == pytest.approx(expected.fun, abs=1e-10)
    np.testing.assert_allclose(model.coef_, expected.x[:12].reshape(3, 4), atol=1e-5)
    table = np.concatenate([model.coef_.ravel(), model.intercept_])
    assert model.objective_ == pytest.approx(objective(table)[0], abs=1e-12)
    assert 0 <= model.dual_gap_ <= 1e-13


# --- the dual -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 7),
    st.sampled_from([NO_ENTROPY, 1.0, 1.2, 1.5, 2.0, 3.0]),
    st.floats(-5, 4),
    st.floats(-2, 2),
    st.integers(0, 2**31),
)
def test_proximity_satisfies_the_conditions_of_optimality(k, alpha, log_sigma, log_scale, seed):
    z = np.random.default_rng(seed).normal(size=k) * 10**log_scale
    sigma, p = 10**log_sigma, np.empty(k)
    proximity(z, sigma, alpha, p)
    assert (p >= 0).all() and p.sum() == pytest.approx(1, abs=1e-14)
    with np.errstate(divide="ignore"):
        entropy = 0 if alpha == 0 else np.log(p) if alpha == 1 else p ** (alpha - 1) / (alpha - 1)
    slope = entropy + sigma * p - z
    tau, tolerance = slope[p.argmax()], 1e-12 * max(1, sigma, np.abs(z).max())
    used = p > 1e-300
    np.testing.assert_allclose(slope[used], tau, rtol=0, atol=tolerance)
    assert alpha == 1 or (slope[~used] >= tau - tolerance).all()


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=IDS)
def test_the_gap_bounds_the_excess_of_every_iterate(regularizer, fit_intercept):
    rng = np.random.default_rng(1)
    features, y = rng.normal(size=(40, 3)), proportions(rng, 40, 4)
    model = FenchelYoungClassifier(regularizer, lam=0.02, fit_intercept=fit_intercept, tol=1e-13)
    best = model.fit(features, y).objective_
    problem, _ = model._problem(features, y, None)
    for solve in (solve_lbfgs, solve_dual):
        found = []
        solve(problem, tol=1e-9, max_iter=500, callback=found.append)
        excess = np.array([solution.value for solution in found]) - best
        gap = np.array([solution.gap for solution in found])
        assert (excess >= -1e-12).all() and (gap >= excess - 1e-12).all()
        assert gap[-1] <= 1e-9 and gap[0] > 1e-4


@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_balancing_moves_the_means_and_keeps_distributions(n, k, seed):
    rng = np.random.default_rng(seed)
    p, y, weights = proportions(rng, n, k), proportions(rng, n, k), rng.dirichlet(np.ones(n))
    balanced = _balance(p, y, weights)
    assert (balanced >= 0).all()
    np.testing.assert_allclose(balanced.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(weights @ balanced, weights @ y, atol=1e-12)
    np.testing.assert_array_equal(_balance(y, y, weights), y)


def test_rows_of_zeros_and_weights_of_zero_do_no_harm():
    features = np.vstack([X[::10], np.zeros((2, 4))])
    labels = np.append(Y[::10], [0, 1])
    weights = np.ones(len(labels))
    weights[3] = 0
    kept = weights > 0
    for regularizer, intercept in (("gini", True), ("shannon", False), ("hinge", False)):
        model = FenchelYoungClassifier(
            regularizer, lam=0.5, solver="dual", fit_intercept=intercept, tol=1e-8, max_iter=5000
        )
        a = model.fit(features, labels, weights).coef_
        assert model.dual_gap_ <= 1e-8
        b = model.fit(features[kept], labels[kept]).coef_
        np.testing.assert_allclose(a, b, atol=5e-4)


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularizer", ["shannon", "gini", Norm(2.0)], ids=str)
def test_proportions_are_weighted_labels(regularizer):
    rng = np.random.default_rng(2)
    features, y = rng.normal(size=(25, 3)), proportions(rng, 25, 3)
    model = FenchelYoungClassifier(regularizer, lam=0.1, tol=1e-12)
    soft = model.fit(features, y).coef_
    rows, labels = np.nonzero(y)
    hard = model.fit(features[rows], labels, y[rows, labels]).coef_
    np.testing.assert_allclose(soft, hard, atol=1e-5)


def test_the_intercept_is_free():
    for solver in ("lbfgs", "dual"):
        model = FenchelYoungClassifier("gini", lam=0.1, solver=solver, tol=1e-10, max_iter=20_000)
        here, there = model.fit(X, Y).predict_proba(X), model.fit(X + 3, Y).predict_proba(X + 3)
        np.testing.assert_allclose(here, there, atol=1e-4)


def test_two_classes_and_names_of_classes():
    features, y = make_classification(60, 4, random_state=0)
    names = np.array(["no", "yes"])[y]
    model = FenchelYoungClassifier("shannon", lam=0.1, tol=1e-12).fit(features, names)
    theta = model.decision_function(features)
    assert theta.shape == (60,) and model.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(model.predict(features) == "yes", theta > 0)
    # two rows of half the size each carry half the penalty of one
    single = LogisticRegression(C=2 / (0.1 * 60), tol=1e-12).fit(features, names)
    np.testing.assert_allclose(theta, single.decision_function(features), atol=1e-5)


def test_scores_of_labels_and_of_proportions():
    model = FenchelYoungClassifier("gini").fit(X, Y)
    assert model.score(X, Y) == np.mean(model.predict(X) == Y) > 0.9
    y = proportions(np.random.default_rng(3), len(X), 3)
    p = model.predict_proba(X)
    expected = jensenshannon(y, p, axis=1) ** 2
    np.testing.assert_allclose(jensen_shannon(y, p), expected, atol=1e-12)
    assert model.score(X, y) == pytest.approx(-expected.mean())


@pytest.mark.parametrize("enabled", [True, False], ids=["x64", "x32"])
def test_double_precision_whatever_the_setting(enabled):
    with jax.enable_x64(enabled):
        model = FenchelYoungClassifier("gini", tol=1e-9).fit(X.astype(np.float32), Y)
        assert model.predict_proba(X).dtype == np.float64 and model.dual_gap_ <= 1e-9
        assert jnp.zeros(1).dtype == (jnp.float64 if enabled else jnp.float32)


# --- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"regularizer": "softmax"}, Y, "regularizer must be one of 'gini'.*got 'softmax'"),
        ({"regularizer": FermiDirac()}, Y, "predicts distributions; got FermiDirac"),
        ({"regularizer": "hinge"}, Y, "solver must be 'dual' for the hinge loss"),
        ({"regularizer": Norm(2.0), "solver": "dual"}, Y, "solver='lbfgs' takes any"),
        ({"solver": "newton"}, Y, "solver must be one of 'lbfgs', 'dual', got 'newton'"),
        ({"lam": 0}, Y, "lam must be positive, got 0"),
        ({"max_iter": 0}, Y, "max_iter must be positive, got 0"),
        ({}, np.zeros(len(Y)), "at least two classes"),
        ({}, np.full((len(Y), 3), 0.5), "rows that are distributions"),
    ],
)
def test_wrong_use_is_named(options, y, message):
    with pytest.raises(ValueError, match=message):
        FenchelYoungClassifier(**options).fit(X, y)


def test_weights_must_not_vanish():
    with pytest.raises(ValueError, match="non-zero number|a positive sum"):
        FenchelYoungClassifier().fit(X, Y, np.zeros(len(Y)))


@pytest.mark.parametrize("solver", ["lbfgs", "dual"])
def test_a_run_that_stops_early_says_so(solver):
    model = FenchelYoungClassifier(lam=1e-3, solver=solver, max_iter=2, tol=1e-12)
    with pytest.warns(ConvergenceWarning, match=f"{solver} stopped after 2 iterations"):
        model.fit(X, Y)
    assert model.n_iter_ == 2 and model.dual_gap_ > 1e-12
