"""Hypergradients against closed forms, finite differences, each other, and their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn.linear_model import LassoCV
from sklearn.model_selection import PredefinedSplit

from diffopt import kernels
from diffopt.hypergradient import (
    SURE,
    CrossValidation,
    HeldOut,
    criterion_value,
    degrees_of_freedom,
    exact_sure,
    grad_search,
    grid_search,
    hypergradient,
    hypergradient_error_bound,
    lam_max,
    random_search,
)
from diffopt.hypergradient.bound import _radius
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


def test_results_do_not_depend_on_how_the_design_is_stored():
    for name in ("lasso", "logistic", "svm"):
        model, lam, (X, y, X_val, y_val) = case(name)
        X = X * (np.random.default_rng(1).random(X.shape) < 0.5)
        X[:, 2] = 0
        for method in METHODS if name == "logistic" else ("implicit", "backward"):
            options = {"method": method, "tol": 1e-13, "max_iter": 1500}
            dense = hypergradient(HeldOut(X, y, X_val, y_val), model, lam, **options)
            stored = HeldOut(scipy.sparse.csr_matrix(X), y, scipy.sparse.csc_matrix(X_val), y_val)
            sparse = hypergradient(stored, model, lam, **options)
            assert_allclose(sparse.grad, dense.grad, rtol=1e-6, atol=1e-7)
            assert_allclose(sparse.coef, dense.coef, atol=1e-6)


@pytest.mark.parametrize("name", ["elastic", "logistic", "svr"])
def test_native_and_xla_are_the_same(name):
    model, lam, (X, y, X_val, y_val) = case(name)
    X = X.copy()
    X[:, 2] = 0  # a column without curvature
    found = {}
    for backend in ("native", "xla"):
        with kernels.use_backend(backend):
            criterion = HeldOut(X, y, X_val, y_val)
            found[backend] = [
                hypergradient(criterion, model, lam, method=m, tol=1e-9) for m in METHODS[1:]
            ]
    for a, b in zip(*found.values(), strict=True):
        assert_allclose(a.grad, b.grad, rtol=1e-6, atol=1e-8)
    for a, b in zip(found["native"][1:], found["xla"][1:], strict=True):  # the same iterates
        assert a.num_iter == b.num_iter
        assert_allclose(a.grad, b.grad, rtol=1e-12, atol=1e-12)
        assert_allclose(a.coef, b.coef, rtol=1e-12, atol=1e-12)


# --- criteria -------------------------------------------------------------------------------------


def test_cross_validation_is_the_mean_of_held_out_folds():
    for name in ("elastic", "logistic", "svm"):
        model, lam, (X, y, *_) = case(name)
        folds = np.random.default_rng(0).permutation(N) % 3
        found = hypergradient(CrossValidation(X, y, folds), model, lam, tol=1e-13)
        assert found.coef.shape == (3, P) and found.gap.shape == (3,)
        parts = []
        for k in range(3):
            out = folds == k
            criterion = HeldOut(X[~out], y[~out], X[out], y[out])
            parts.append(hypergradient(criterion, model, lam, tol=1e-13))
        assert_allclose(found.value, np.mean([part.value for part in parts]), rtol=1e-9)
        assert_allclose(found.grad, np.mean([part.grad for part in parts], axis=0), rtol=1e-6)


def test_cross_validation_finds_what_scikit_learn_finds():
    X, y, *_ = linear(n=40)
    folds = np.arange(40) % 4
    theirs = LassoCV(cv=PredefinedSplit(folds), alphas=20, tol=1e-10, max_iter=10_000).fit(X, y)
    criterion = CrossValidation(X, y, folds)
    ours = grid_search(criterion, Lasso(fit_intercept=True), theirs.alphas_, tol=1e-14)
    assert_allclose(ours.history.value, theirs.mse_path_.mean(axis=1), rtol=1e-6)
    assert_allclose(ours.lam, theirs.alpha_)
    assert_allclose(lam_max(Lasso(fit_intercept=True), X, y), theirs.alphas_[0], rtol=1e-12)


def test_weights_count_items():
    X, y, X_val, y_val = linear()
    twice = HeldOut(np.vstack([X, X[:3]]), np.append(y, y[:3]), X_val, y_val)
    weights = np.where(np.arange(N) < 3, 2.0, 1.0)
    one = hypergradient(twice, Lasso(), 0.1, tol=1e-13)
    other = hypergradient(HeldOut(X, y, X_val, y_val, weights=weights), Lasso(), 0.1, tol=1e-13)
    assert_allclose(one.grad, other.grad, rtol=1e-6)
    padded = HeldOut(
        np.vstack([X, 9 + X[:3]]), np.append(y, y[:3]), X_val, y_val, weights=np.arange(N + 3) < N
    )
    plain = hypergradient(HeldOut(X, y, X_val, y_val), Lasso(), 0.1, tol=1e-13)
    assert_allclose(hypergradient(padded, Lasso(), 0.1, tol=1e-13).grad, plain.grad, rtol=1e-6)


def test_sure_is_unbiased():
    rng = np.random.default_rng(0)
    n, p, sigma, lam = 30, 10, 0.7, 0.15
    X, coef = rng.normal(size=(n, p)), np.where(np.arange(p) < 4, 1.5, 0.0)
    mean = X @ coef

    def estimate(y, probe, step):
        criterion = SURE(X, y, sigma, probe=probe, step=step)
        found = hypergradient(criterion, Lasso(), lam, tol=1e-12)
        return found.value, jnp.sum(jnp.square(X @ found.coef[0] - mean)), found.grad

    draws = 4000
    noise, probes = rng.normal(size=(2, draws, n))
    run = jax.jit(jax.vmap(estimate, in_axes=(0, 0, None)))
    value, risk, _ = run(mean + sigma * noise, probes, 1e-4)
    assert abs(np.mean(value - risk)) < 4 * np.std(value - risk) / np.sqrt(draws)
    # with the default step there is a bias, and a gradient that estimates that of the risk
    value, risk, grad = run(mean + sigma * noise, probes, 2 * sigma / n**0.3)
    assert abs(np.mean(value - risk)) < 0.1 * np.mean(risk)
    risks = jax.vmap(
        lambda y, lam: jnp.sum(
            jnp.square(X @ hypergradient(HeldOut(X, y, X, y), Lasso(), lam, tol=1e-12).coef - mean)
        ),
        in_axes=(0, None),
    )
    ahead, behind = (risks(mean + sigma * noise, lam + h) for h in (0.01, -0.01))
    slope = np.mean(ahead - behind) / 0.02
    assert abs(np.mean(grad) - slope) < 4 * np.std(grad) / np.sqrt(draws) + 0.02 * abs(slope)


def test_sure_with_small_steps_counts_degrees_of_freedom():
    X, y, *_ = linear(n=30)
    for model, lam in ((Lasso(), 0.1), (ElasticNet(), np.array([0.1, 0.2]))):
        exact = exact_sure(SURE(X, y, 0.3), model, lam, tol=1e-13)
        values = []
        for j in range(30):  # probes along the axes add up to the trace
            probe = np.sqrt(30) * np.eye(30)[j]
            criterion = SURE(X, y, 0.3, step=1e-6, probe=probe)
            values.append(criterion_value(criterion, model, lam, tol=1e-15))
        assert_allclose(np.mean(values), exact, rtol=1e-5)
    assert degrees_of_freedom(Lasso(), np.ones((4, 2)), np.ones(2), 0.1) == 1  # duplicates
    assert degrees_of_freedom(Lasso(fit_intercept=True), np.eye(4)[:, :2], np.ones(2), 0.1) == 3
    with pytest.raises(ValueError, match="squared"):
        hypergradient(SURE(X, np.sign(y), 0.3), SparseLogistic(), 0.1)


def test_derivatives_in_the_data():
    X, y, X_val, y_val = linear()
    value = lambda X, y: criterion_value(HeldOut(X, y, X_val, y_val), Lasso(), 0.1, tol=1e-15)
    slopes = jax.jit(jax.grad(value, argnums=(0, 1)))(X, y)
    e = 1e-5 * np.random.default_rng(2).normal(size=X.shape)
    ahead, behind = value(X + e, y + e[:, 0]), value(X - e, y - e[:, 0])
    along = np.vdot(slopes[0], e) + np.vdot(slopes[1], e[:, 0])
    assert_allclose(along, (ahead - behind) / 2, rtol=1e-6)


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lasso", "weighted", "elastic", "logistic", "svm", "svr"])
def test_the_bound_holds_and_says_something(name):
    certified, ratios = 0, []
    for seed in range(6):
        model, lam, data = case(name, seed=seed)
        criterion = HeldOut(*data, loss="logistic" if name == "svm" and seed % 2 else None)
        exact = hypergradient(criterion, model, lam, **TIGHT)
        for method, tol in (*(("forward", 10.0**-k) for k in range(2, 13, 2)), ("implicit", 1e-3)):
            result = hypergradient(criterion, model, lam, method=method, tol=tol, max_iter=3000)
            certificate = hypergradient_error_bound(criterion, model, lam, result)
            error = np.abs(result.grad - exact.grad)
            assert np.all(error <= certificate.error + 1e-9), (seed, tol)
            if certificate.identified:
                certified += 1
                assert np.array_equal(np.sign(result.coef), np.sign(exact.coef)) or name == "svr"
                shift = np.linalg.norm(result.state.solution - exact.state.solution)
                assert shift <= certificate.solution_error + 1e-9
                size = np.abs(exact.grad).max()
                ratios.append(np.max(certificate.error) / np.sqrt(float(result.gap)) / size)
    assert certified >= 12
    assert np.median(ratios) < 1e4


def test_the_bound_is_linear_in_the_error_and_knows_duplicates():
    X, y, X_val, y_val = linear(n=60)
    criterion = CrossValidation(X, y, 3)
    found = hypergradient(criterion, Lasso(), 0.1, tol=1e-14)
    bounds = []
    for step in (1e-4, 1e-5, 1e-6):  # along the support; a gap of 1e-7 bounds the excess of each
        solution = found.state.solution * (1 + step)
        loose = found._replace(gap=np.full(3, 1e-7), state=found.state._replace(solution=solution))
        bounds.append(float(hypergradient_error_bound(criterion, Lasso(), 0.1, loose).error))
    assert_allclose(np.array(bounds[:-1]) / bounds[1:], 10, rtol=1e-2)
    sparse = CrossValidation(scipy.sparse.csc_matrix(X), y, 3)
    stored = hypergradient_error_bound(sparse, Lasso(), 0.1, loose)
    assert_allclose(stored.error, bounds[-1], rtol=1e-6)
    wrong = loose._replace(grad=found.grad + 1)
    assert hypergradient_error_bound(criterion, Lasso(), 0.1, wrong).error > 1
    X = X.copy()
    X[:, 1] = X[:, 0] = X @ np.ones(P)
    twins = HeldOut(X, y, X_val, y_val)
    found = hypergradient(twins, Lasso(), 0.01, init=None, tol=1e-12)
    solution = found.state.solution.at[0, :2].set(found.state.solution[0, :2].sum() / 2)
    found = found._replace(state=found.state._replace(solution=solution))
    assert hypergradient_error_bound(twins, Lasso(), 0.01, found).error == np.inf


def test_the_radius_inverts_the_integral():
    class Fit:
        loss, y, X = "logistic", np.ones(1), np.full((1, 1), 3.0)

    for gap in (1e-12, 1e-4, 0.02):
        radius, theta = _radius(Fit, np.eye(1), gap)
        a = 3 * radius
        assert gap <= (1 - (1 + a) * np.exp(-a)) / 9 * (1 + 1e-3) + 1e-15
        assert_allclose(theta, np.expm1(a))
    assert _radius(Fit, np.eye(1), 1.0)[0] == np.inf


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lasso", "elastic", "logistic", "svm"])
def test_search_finds_what_the_grid_finds(name):
    model, lam, (X, y, *_) = case(name, n=60)
    criterion = CrossValidation(X, y, 3)
    grid = grid_search(criterion, model, num=40 if np.ndim(lam) == 0 else 12, bounds=(1e-3, 0.5))
    for optimizer in ("line_search", "adaptive"):
        found = grad_search(criterion, model, lam, bounds=(1e-3, 0.5), optimizer=optimizer)
        assert found.value <= grid.value * (1 + 1e-4), optimizer
        assert found.value == found.history.value.min()
        assert len(found.history.value) <= 50 < 2 * len(grid.history.value)


def test_search_with_a_weight_for_each_feature():
    X, y, X_val, y_val = linear(n=40, m=40)
    criterion = HeldOut(X, y, X_val, y_val)
    single = grad_search(criterion, Lasso(), 0.1)
    start = np.full(P, single.lam)
    results = {
        optimizer: grad_search(criterion, Lasso(), start, optimizer=optimizer)
        for optimizer in ("line_search", "adaptive", "adam")
    }
    for found in results.values():
        assert found.value < single.value
        assert found.history.lam.shape == (len(found.history.time), P)
    by_hand = grad_search(criterion, Lasso(), start, method="implicit_forward", max_iter=20)
    assert by_hand.value < single.value


def test_random_search_and_the_order_of_tries():
    X, y, X_val, y_val = linear()
    found = random_search(jax.random.key(0), HeldOut(X, y, X_val, y_val), Lasso(), num=20)
    top = lam_max(Lasso(), X, y)
    assert np.all(np.diff(found.history.lam) <= 0)
    assert np.all((found.history.lam <= top) & (found.history.lam >= 1e-4 * top))
    assert (
        np.all(found.history.gap <= 1e-8 * np.mean(y**2))
        and np.isnan(found.history.grad_norm).all()
    )


# --- edges ----------------------------------------------------------------------------------------


def test_above_lam_max_nothing_moves():
    X, y, X_val, y_val = linear()
    for model in (Lasso(fit_intercept=True), SparseLogistic()):
        labels = np.sign(y) if needs_labels(model) else y
        judged = np.sign(y_val) if needs_labels(model) else y_val
        top = float(lam_max(model, X, labels))
        for method in METHODS:
            options = {"method": method, "tol": 1e-12}
            criterion = HeldOut(X, labels, X_val, judged)
            found = hypergradient(criterion, model, 1.01 * top, **options)
            assert abs(found.grad) < 1e-12 and not np.any(found.coef)
        found = hypergradient(criterion, model, 0.99 * top, tol=1e-12)
        assert found.grad != 0 and np.count_nonzero(found.coef) == 1


def test_wide_designs_with_zero_and_duplicate_columns():
    X, y, X_val, y_val = linear(n=15, p=60)
    X, X_val = X.copy(), X_val.copy()
    X[:, 3] = X_val[:, 3] = 0
    X[:, 5], X_val[:, 5] = X[:, 4], X_val[:, 4]
    criterion = HeldOut(X, y, X_val, y_val)
    value = lambda lam: criterion_value(criterion, Lasso(), lam, tol=1e-14)
    found = hypergradient(criterion, Lasso(), 0.2, tol=1e-14)
    assert found.converged and found.coef[3] == 0
    slope = (value(0.2 + 1e-6) - value(0.2 - 1e-6)) / 2e-6
    assert_allclose(found.grad, slope, rtol=1e-4)
    for method in METHODS[1:]:
        other = hypergradient(criterion, Lasso(), 0.2, method=method, tol=1e-14, max_iter=20_000)
        assert_allclose(other.grad, found.grad, rtol=1e-5)


def test_warm_starts_save_iterations_and_change_nothing():
    X, y, X_val, y_val = linear()
    criterion = HeldOut(X, y, X_val, y_val)
    for method in METHODS:
        options = {"method": method, "tol": 1e-12, "max_iter": 2000}
        cold = hypergradient(criterion, Lasso(), 0.1, **options)
        near = hypergradient(criterion, Lasso(), 0.102, **options)
        warm = hypergradient(criterion, Lasso(), 0.1, init=near.state, **options)
        again = hypergradient(criterion, Lasso(), 0.1, init=cold.state, **options)
        assert_allclose(warm.value, cold.value, rtol=1e-6)
        if method != "backward":  # its Jacobian starts at the iterates it has
            assert_allclose(warm.grad, cold.grad, rtol=1e-5)
        assert again.num_iter <= cold.num_iter


def test_batches_of_penalties_and_folds():
    X, y, *_ = linear(n=40)
    criterion, grid = CrossValidation(X, y, 3), np.array([0.02, 0.1, 0.3])
    call = lambda lam: hypergradient(criterion, Lasso(), lam, tol=1e-12)
    batch = jax.jit(jax.vmap(call))(grid)
    assert batch.coef.shape == (3, 3, P)
    for k, lam in enumerate(grid):
        assert_allclose(batch.grad[k], call(lam).grad, rtol=1e-7)


def test_single_precision(x64):
    X, y, X_val, y_val = (np.float32(x) for x in linear())
    found = hypergradient(HeldOut(X, y, X_val, y_val), Lasso(), 0.1, tol=1e-6)
    assert found.grad.dtype == found.coef.dtype == np.float32
    if not x64:
        return
    exact = hypergradient(HeldOut(*linear()), Lasso(), 0.1, tol=1e-13)
    assert_allclose(found.grad, exact.grad, rtol=1e-3)


def test_wrong_use_is_said():
    X, y, X_val, y_val = linear()
    criterion = HeldOut(X, y, X_val, y_val)
    with pytest.raises(ValueError, match="method must be one of"):
        hypergradient(criterion, Lasso(), 0.1, method="reverse")
    with pytest.raises(ValueError, match="columns of X"):
        HeldOut(X, y, X_val[:, 1:], y_val)
    with pytest.raises(ValueError, match="one target for each row"):
        HeldOut(X, y[1:], X_val, y_val)
    with pytest.raises(ValueError, match="loss must be one of"):
        HeldOut(X, y, X_val, y_val, loss="hinge")
    with pytest.raises(ValueError, match="folds must be two"):
        CrossValidation(X, y, 1)
    with pytest.raises(ValueError, match="folds must be two"):
        CrossValidation(X, y, N + 1)
    with pytest.raises(ValueError, match="folds must be an integer"):
        CrossValidation(X, y, np.zeros(3, int))
    with pytest.raises(ValueError, match="absolute penalty"):
        lam_max(SVM(), X, y)
    with pytest.raises(ValueError, match="init must be the state"):
        state = hypergradient(criterion, Lasso(), 0.1).state
        hypergradient(CrossValidation(X, y, 3), Lasso(), 0.1, init=state)
    with pytest.raises(ValueError, match="lam0 must be positive"):
        grad_search(criterion, Lasso(), -1.0)
    with pytest.raises(ValueError, match="grid must be given"):
        from diffopt.hypergradient.search import _default_grid

        _default_grid(criterion, Lasso(), 5, None, np.ones(4))
