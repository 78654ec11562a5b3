"""Hypergradients against closed forms, finite differences, each other, and their bounds."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffopt import kernels
from diffopt.hypergradient import (
    HeldOut,
    criterion_value,
    hypergradient,
)
from diffopt.hypergradient.methods import METHODS
from diffopt.sparse_linear import SVM, SVR, ElasticNet, Lasso, SimplexSVR, SparseLogistic

N, P = 20, 8
TIGHT = {"tol": 0.0, "max_iter": 1500}  # as exact as rounding allows


@pytest.fixture(autouse=True)
def keep_backend():
    with kernels.use_backend("auto"):
        yield


def linear(seed=0, n=N, p=P, m=12, labels=False):
    """Data of a linear model with half of the coefficients zero: X, y, X_val, y_val."""
    rng = np.random.default_rng(seed)
    X, coef = rng.normal(size=(n + m, p)), rng.normal(size=p) * (rng.random(p) > 0.5)
    y = X @ coef + 0.3 * rng.normal(size=n + m) + 0.2
    y = np.where(y > 0, 1.0, -1.0) if labels else y
    return X[:n], y[:n], X[n:], y[n:]


MODELS = {
    "lasso": (Lasso(fit_intercept=True), 0.1),
    "weighted": (Lasso(), np.linspace(0.05, 0.2, P)),
    "elastic": (ElasticNet(fit_intercept=True), np.array([0.1, 0.05])),
    "logistic": (SparseLogistic(fit_intercept=True), 0.03),
    "svm": (SVM(), 0.3),
    "svr": (SVR(), np.array([0.3, 0.1])),
    "simplex": (SimplexSVR(), np.array([0.3, 0.1])),
}


def needs_labels(model):
    return isinstance(model, SVM | SparseLogistic)


def case(name, **options):
    model, lam = MODELS[name]
    return model, lam, linear(labels=needs_labels(model), **options)


# --- the four methods -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_methods_agree_with_each_other_and_with_finite_differences(name):
    model, lam, data = case(name)
    criterion = HeldOut(*data)
    found = {m: hypergradient(criterion, model, lam, method=m, **TIGHT) for m in METHODS}
    exact = found.pop("implicit")
    assert exact.grad.shape == np.shape(lam)
    for method, result in found.items():
        assert_allclose(result.value, exact.value, rtol=1e-10, err_msg=method)
        assert_allclose(result.grad, exact.grad, rtol=1e-8, atol=1e-8, err_msg=method)
    value = jax.jit(lambda lam: criterion_value(criterion, model, lam, tol=1e-15))
    for k in range(min(np.size(lam), 2)):
        e = 1e-5 * np.eye(np.size(lam))[k].reshape(np.shape(lam))
        slope = (value(lam + e) - value(lam - e)) / 2e-5
        assert_allclose(exact.grad.ravel()[k], slope, rtol=1e-5, atol=1e-6)


def test_lasso_has_its_closed_form():
    X, y, X_val, y_val = linear()
    lam = 0.1
    result = hypergradient(HeldOut(X, y, X_val, y_val), Lasso(), lam, tol=1e-14)
    coef = np.asarray(result.coef)
    S = coef != 0
    assert 0 < S.sum() < P
    slope = -N * np.linalg.solve(X[:, S].T @ X[:, S], np.sign(coef[S]))
    residual = X_val @ coef - y_val
    assert_allclose(result.grad, 2 * residual @ X_val[:, S] @ slope / len(y_val), rtol=1e-9)
    assert_allclose(result.value, np.mean(residual**2), rtol=1e-12)
    forward = hypergradient(
        HeldOut(X, y, X_val, y_val), Lasso(), lam, method="implicit_forward", tol=1e-14
    )
    assert_allclose(forward.state.jacobian[0, :P, 0][S], slope, rtol=1e-7)
    assert not np.any(forward.state.jacobian[0, :P, 0][~S])
