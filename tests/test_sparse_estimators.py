"""Penalties against grids of scikit-learn's, coefficients against its solvers, and conventions."""

import copy
import itertools
import pickle
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LassoCV, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, PredefinedSplit, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from diffopt import SVMHO, ElasticNetHO, LassoHO, SparseLogisticHO

rng = np.random.default_rng(0)
BETA = np.array([2.0, -1.0, 0.5, 0, 0, 0, 0, 0])
X = rng.normal(size=(60, 8)) + 0.5
Y = X @ BETA + 3 + rng.normal(size=60)
LABELS = np.where(Y > np.median(Y) + rng.normal(size=60), "up", "down")
MODELS = {
    "lasso": (LassoHO(cv=3), Y),
    "elastic_net": (ElasticNetHO(cv=3), Y),
    "logistic": (SparseLogisticHO(cv=3), LABELS),
    "svm": (SVMHO(cv=3), LABELS),
}
EXACT = {"tol": 1e-12, "max_iter": 1_000_000}
models = pytest.mark.parametrize("name", MODELS)


def fitted(name, **options):
    model, y = MODELS[name]
    return clone(model).set_params(**options).fit(X, y)


def peer(name, model):
    """The estimator of scikit-learn with the penalties that were chosen."""
    if name == "lasso":
        return Lasso(model.lam_, **EXACT)
    if name == "elastic_net":
        alpha = model.lam_ + model.ridge_
        return ElasticNet(alpha, l1_ratio=model.lam_ / alpha, **EXACT)
    if name == "logistic":
        C = 1 / (model.lam_ * len(X))
        return LogisticRegression(C=C, l1_ratio=1, solver="saga", tol=1e-9, max_iter=100_000)
    return LinearSVC(C=model.C_, loss="hinge", tol=1e-10, max_iter=1_000_000)


# --- scikit-learn's conventions -------------------------------------------------------------------


@parametrize_with_checks([SparseLogisticHO(cv=3, start=0.05, max_iter=5)])
def test_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ["lasso", "elastic_net", "svm"])
def test_conventions_hold_for_the_others(name):
    wanted = ("check_estimators_unfitted", "check_no_attributes_set_in_init")
    wanted += ("check_parameters_default_constructible", "check_get_params_invariance")
    if name != "elastic_net":  # two are two rows
        wanted += ("check_sample_weight_equivalence_on_dense_data",)
    checks = [c for _, c in estimator_checks_generator(MODELS[name][0])]
    checks = [check for check in checks if check.func.__name__ in wanted]
    assert len(checks) == len(wanted)
    for check in checks:
        check(clone(MODELS[name][0]))


def test_a_model_is_cloned_and_pickled():
    model = fitted("lasso")
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), model.predict(X))
    assert clone(model).get_params() == model.get_params()


def test_import_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['scipy'] = None\n"
        "import diffopt\n"
        "try: diffopt.LassoHO\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install scikit-learn" in done.stdout, done.stderr


# --- against scikit-learn -------------------------------------------------------------------------


@models
def test_coefficients_are_those_of_scikit_learn_at_the_penalty(name):
    model = fitted(name)
    other = peer(name, model).fit(X, MODELS[name][1])
    assert model.coef_.shape == other.coef_.shape and np.abs(model.coef_).max() > 0.1
    assert_allclose(model.coef_, other.coef_, atol=1e-4)
    assert_allclose(model.intercept_, other.intercept_, atol=1e-4)
    scores = "predict" if name in ("lasso", "elastic_net") else "decision_function"
    assert_allclose(getattr(model, scores)(X), getattr(other, scores)(X), atol=1e-3)


def held_out_loss(name, estimator, split):
    """Mean over splits of the loss of what is held out, by refitting."""
    losses, y = [], MODELS[name][1]
    for train, test in split:
        other = clone(estimator)
        if name == "logistic":
            other.set_params(C=estimator.C * len(X) / len(train))
        scores = other.fit(X[train], y[train])
        if name == "logistic":
            losses.append(log_loss(y[test], scores.predict_proba(X[test])))
        elif name == "svm":
            slack = 1 - np.where(y[test] == "up", 1, -1) * scores.decision_function(X[test])
            losses.append(np.where(slack > 1, slack - 0.5, np.maximum(slack, 0) ** 2 / 2).mean())
        else:
            losses.append(np.mean((y[test] - scores.predict(X[test])) ** 2))
    return np.mean(losses)


@pytest.mark.parametrize(
    ("name", "held_out"), [*((name, False) for name in MODELS), ("lasso", True), ("logistic", True)]
)
def test_no_penalty_nearby_or_far_predicts_better(name, held_out):
    y = MODELS[name][1]
    if held_out:
        cv = PredefinedSplit(np.where(np.arange(60) % 3 == 0, 0, -1))
    else:
        cv = (StratifiedKFold if isinstance(y[0], str) else KFold)(3)
    split = list(cv.split(X, y))
    model = fitted(name, cv=cv if held_out else 3)
    best = held_out_loss(name, peer(name, model), split)
    assert model.history_.value.min() == pytest.approx(best, rel=1e-5)
    names = {"lam_", "ridge_", "C_"} & vars(model).keys()
    for attribute, factor in itertools.product(names, (0.1, 0.3, 0.6, 0.9, 1.1, 1.6, 3, 10)):
        other = copy.copy(model)
        setattr(other, attribute, factor * getattr(model, attribute))
        assert held_out_loss(name, peer(name, other), split) >= best * (1 - 2e-3), factor


def test_the_lasso_is_at_least_as_good_as_the_best_of_a_fine_grid():
    grid = LassoCV(cv=3, alphas=np.geomspace(1e-3, 1, 300), tol=1e-8).fit(X, Y)
    found = fitted("lasso").history_.value.min()
    assert found <= grid.mse_path_.mean(1).min() * (1 + 1e-6)


@pytest.mark.parametrize("name", ["lasso", "logistic"])
def test_a_penalty_for_each_feature(name):
    model, one = fitted(name, per_feature=True), fitted(name)
    assert model.lam_.shape == (8,) and model.history_.lam.shape == (model.n_iter_, 8)
    assert model.history_.value.min() < one.history_.value.min() * 0.999
    lam = one.lam_ * np.ones(8)
    assert_allclose(
        fitted(name, per_feature=True, start=lam, max_iter=1).coef_, one.coef_, atol=1e-6
    )
    if name == "lasso":  # divided by their penalties, features share one
        other = Lasso(1.0, **EXACT).fit(X / model.lam_, Y)
        assert_allclose(model.coef_, other.coef_ / model.lam_, atol=1e-5)


def test_sure_is_that_of_the_peer():
    model = fitted("lasso", criterion="sure", sigma=1.0)
    probe, step = np.asarray(jax.random.normal(jax.random.key(0), (60,))), 2 / 60**0.3

    def sure(lam):
        here, there = (Lasso(lam, **EXACT).fit(X, y).predict(X) for y in (Y, Y + step * probe))
        return np.sum((Y - here) ** 2) - 60 + 2 / step * (there - here) @ probe

    best = model.history_.value.min()
    assert best == pytest.approx(sure(model.lam_), rel=1e-5)
    assert best <= min(map(sure, np.geomspace(1e-3, 1, 30))) + 1e-4 * abs(best)
    assert_allclose(model.coef_, Lasso(model.lam_, **EXACT).fit(X, Y).coef_, atol=1e-4)


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("name", ["lasso", "elastic_net", "svm"])
def test_sparse_is_dense(name, make):
    dense, (model, y) = fitted(name), MODELS[name]
    sparse = clone(model).fit(make(X), y)
    assert_allclose(sparse.coef_, dense.coef_, atol=1e-4)
    assert_allclose(sparse.intercept_, dense.intercept_, atol=1e-4)
    scores = "predict" if name != "svm" else "decision_function"
    assert_allclose(getattr(sparse, scores)(make(X)), getattr(sparse, scores)(X))


@pytest.mark.parametrize("name", ["lasso", "svm"])
def test_without_an_intercept(name):
    model = fitted(name, fit_intercept=False)
    assert np.all(model.intercept_ == 0)
    other = peer(name, model).set_params(fit_intercept=False).fit(X, MODELS[name][1])
    assert_allclose(model.coef_, other.coef_, atol=1e-4)


def test_a_start_leads_to_the_same_penalty():
    model = fitted("lasso")
    again = fitted("lasso", start=1.1 * model.lam_)
    assert again.lam_ == pytest.approx(model.lam_, rel=1e-3) and again.n_iter_ < model.n_iter_
    assert again.history_.lam[0] == pytest.approx(1.1 * model.lam_)
    assert (np.diff(model.history_.time) >= 0).all()


def test_probabilities_and_names_of_classes():
    model = fitted("logistic")
    scores = model.decision_function(X)
    assert model.classes_.tolist() == ["down", "up"]
    assert_allclose(model.predict_proba(X)[:, 1], expit(scores))
    assert_array_equal(model.predict(X) == "up", scores > 0)
    many = OneVsRestClassifier(SVMHO(cv=3)).fit(X, np.digitize(Y, np.quantile(Y, [0.3, 0.7])))
    assert len({one.C_ for one in many.estimators_}) == 3


@pytest.mark.parametrize("enabled", [True, False], ids=["x64", "x32"])
def test_double_precision_whatever_the_setting(enabled):
    with jax.enable_x64(enabled), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = clone(MODELS["lasso"][0]).fit(X.astype(np.float32), Y)
        assert model.coef_.dtype == np.float64 and model.history_.gap[-1] < 1e-9
        assert jnp.zeros(1).dtype == (jnp.float64 if enabled else jnp.float32)


def test_targets_that_are_constant():
    model = LassoHO(cv=3).fit(X, np.full(60, 2.0))
    assert_allclose(model.predict(X), 2) and not model.coef_.any()


# --- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lasso", {"criterion": "aic"}, "criterion must be one of 'cv', 'sure', got 'aic'"),
        ("lasso", {"criterion": "sure"}, "sigma must be the standard deviation.*got None"),
        ("lasso", {"cv": []}, "cv must give one split"),
        ("lasso", {"cv": "five"}, "Expected `?cv`?"),
        ("lasso", {"tol": 0}, "tol must be positive, got 0"),
        ("svm", {"max_iter": 0}, "max_iter must be positive, got 0"),
        ("svm", {"start": [1.0, 2.0]}, r"start must have shape \(\)"),
        ("elastic_net", {"start": 1.0}, r"start must have shape \(2,\)"),
        ("lasso", {"start": -1.0}, "start must be positive"),
        ("logistic", {"cv": [(np.flatnonzero(LABELS == "up"), [0])]}, "StratifiedKFold"),
    ],
)
def test_wrong_use_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(name, **options)


def test_wrong_data_are_named():
    with pytest.raises(ValueError, match=r"OneVsRestClassifier\(SVMHO"):
        SVMHO().fit(X, np.arange(60) % 3)
    weights = np.append(np.zeros(20), np.ones(40))
    with pytest.raises(ValueError, match="cv must leave weight.*sample_weight is zero"):
        LassoHO(cv=3).fit(X, Y, weights)
    with pytest.raises(ValueError, match="sample_weight must be constant for criterion='sure'"):
        LassoHO(criterion="sure", sigma=1.0).fit(X, Y, weights)


def test_a_search_that_stops_early_says_so():
    with pytest.warns(
        ConvergenceWarning, match="LassoHO: the search still improved.*raise max_iter"
    ):
        fitted("lasso", start=1.0, max_iter=2)
