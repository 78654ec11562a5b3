"""The Lasso and the elastic net against closed forms, scikit-learn, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from conftest import enable_x64
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model

import diffopt
from diffopt import elastic_net, kernels, lasso, lasso_max, lasso_path

N, P = 20, 8
TIGHT = 1e-15


def data(seed=0, n=N, p=P, noise=0.3):
    """Draw a linear model with half of the coefficients zero."""
    rng = np.random.default_rng(seed)
    X, coef = rng.normal(size=(n, p)), rng.normal(size=p) * (rng.random(p) > 0.5)
    return X, X @ coef + noise * rng.normal(size=n) + 0.5


X, Y = data()
TOP = float(np.abs(X.T @ Y).max() / N)
LAM = 0.1 * TOP
fit = jax.jit(lambda X, y, lam: lasso(X, y, lam, tol=TIGHT).coef)


@pytest.fixture(params=["native", "xla"])
def backend(request):
    with kernels.use_backend(request.param):
        yield request.param


# --- values ---------------------------------------------------------------------------------------


def test_orthogonal_design_is_a_soft_threshold(backend):
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 5)))[0] * np.sqrt(12)
    y = np.random.default_rng(2).normal(size=12)
    z = Q.T @ y / 12
    for lam in (0.0, 0.05, 0.2, np.linspace(0.01, 0.3, 5)):
        expected = np.sign(z) * np.maximum(np.abs(z) - lam, 0)
        assert_allclose(lasso(Q, y, lam, tol=TIGHT).coef, expected, atol=1e-10)
        found = elastic_net(Q, y, lam, 0.7, tol=TIGHT).coef
        assert_allclose(found, expected / 1.7, atol=1e-10)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_lasso_is_scikit_learns(backend, fit_intercept):
    model = linear_model.Lasso(LAM, fit_intercept=fit_intercept, tol=1e-14, max_iter=100_000)
    model.fit(X, Y)
    found = lasso(X, Y, LAM, fit_intercept=fit_intercept, tol=1e-14)
    assert bool(found.converged)
    assert_allclose(found.coef, model.coef_, atol=1e-7)
    assert_allclose(found.intercept, model.intercept_, atol=1e-7)
    assert_array_equal(found.coef == 0, model.coef_ == 0)


def test_elastic_net_is_scikit_learns(backend):
    model = linear_model.ElasticNet(0.3, l1_ratio=0.4, tol=1e-14, max_iter=100_000).fit(X, Y)
    found = elastic_net(X, Y, 0.3 * 0.4, 0.3 * 0.6, fit_intercept=True, tol=1e-14)
    assert_allclose(found.coef, model.coef_, atol=1e-7)
    assert_allclose(found.intercept, model.intercept_, atol=1e-7)


def test_weighted_lasso_is_a_lasso_of_scaled_columns():
    lam = LAM * np.linspace(0.3, 2.0, P)
    model = linear_model.Lasso(1.0, fit_intercept=False, tol=1e-14, max_iter=100_000)
    model.fit(X / lam, Y)
    assert_allclose(fit(X, Y, lam), model.coef_ / lam, atol=1e-7)


def test_weights_are_repetitions():
    counts = np.random.default_rng(3).integers(0, 4, N)
    weighted = lasso(X, Y, LAM, weights=counts.astype(float), fit_intercept=True, tol=TIGHT)
    repeated = lasso(
        np.repeat(X, counts, 0), np.repeat(Y, counts), LAM, fit_intercept=True, tol=TIGHT
    )
    assert_allclose(weighted.coef, repeated.coef, atol=1e-9)
    assert_allclose(weighted.intercept, repeated.intercept, atol=1e-9)


def test_optimality_and_gap():
    found = lasso(X, Y, LAM, tol=1e-12)
    u = X.T @ (Y - X @ np.asarray(found.coef)) / N
    S = np.asarray(found.coef) != 0
    assert 0 < S.sum() < P
    assert_allclose(u[S], LAM * np.sign(found.coef[S]), rtol=1e-6)
    assert np.all(np.abs(u[~S]) < LAM)
    assert 0 <= found.gap <= 1e-12 * np.mean(Y**2) / 2
    assert 0 < found.margin < 1


def test_largest_penalty(backend):
    assert_allclose(lasso_max(X, Y), TOP)
    assert not np.any(lasso(X, Y, TOP * (1 + 1e-12)).coef)
    assert not np.any(lasso(X, Y, 10 * TOP).coef)
    assert np.count_nonzero(lasso(X, Y, 0.99 * TOP, tol=TIGHT).coef) == 1
    centred = lasso_max(X, Y, fit_intercept=True)
    assert_allclose(centred, np.abs(X.T @ (Y - Y.mean())).max() / N)
    found = lasso(X, Y, 1.001 * centred, fit_intercept=True)
    assert not np.any(found.coef)
    assert_allclose(found.intercept, Y.mean())
    w = np.arange(1.0, N + 1)
    assert_allclose(lasso_max(X, Y, weights=w), np.abs(X.T @ (w * Y)).max() / w.sum())


# --- derivatives ----------------------------------------------------------------------------------


def test_jacobian_has_its_closed_form(backend):
    coef = np.asarray(lasso(X, Y, LAM, tol=TIGHT).coef)
    S = coef != 0
    inverse = np.linalg.inv(X[:, S].T @ X[:, S])
    expected = np.zeros((P, P))
    expected[np.ix_(S, S)] = -N * inverse * np.sign(coef[S])
    weighted = lambda lam: lasso(X, Y, lam, tol=TIGHT).coef
    lam = np.full(P, LAM)
    for jacobian in (jax.jacfwd, jax.jacrev):
        assert_allclose(jacobian(weighted)(lam), expected, atol=1e-8)
        assert_allclose(jacobian(weighted)(LAM), expected.sum(axis=1), atol=1e-8)
    hat = jax.jacobian(lambda y: X @ lasso(X, y, LAM, tol=TIGHT).coef)(Y)
    assert_allclose(hat, X[:, S] @ inverse @ X[:, S].T, atol=1e-8)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("model", ["lasso", "weighted", "elastic_net"])
def test_finite_differences_of_a_test_loss(model, fit_intercept):
    X_val, y_val = data(7)
    v = np.random.default_rng(4).random(N)  # weights of the test items

    @jax.jit
    def loss(X, y, lam, weights):
        options = {"fit_intercept": fit_intercept, "weights": weights, "tol": TIGHT}
        if model == "elastic_net":
            found = elastic_net(X, y, lam[0], lam[1], **options)
        else:
            found = lasso(X, y, lam if model == "weighted" else lam[0], **options)
        return jnp.sum(v * (X_val @ found.coef + found.intercept - y_val) ** 2)

    lam = LAM * np.linspace(1, 2, P)
    point = (X, Y, lam, np.linspace(0.5, 1.5, N))
    rng = np.random.default_rng(5)
    gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*point)
    for k, gradient in enumerate(gradients):
        move = rng.normal(size=point[k].shape)
        shifted = lambda h, k=k, move=move: (*point[:k], point[k] + h * move, *point[k + 1 :])
        h = 1e-5 * LAM if k == 2 else 1e-6
        slope = (loss(*shifted(h)) - loss(*shifted(-h))) / (2 * h)
        assert_allclose(np.sum(gradient * move), slope, rtol=2e-5, atol=1e-7)


def test_hessian_of_a_test_loss():
    X_val, y_val = data(7)
    loss = jax.jit(lambda lam: jnp.mean((X_val @ lasso(X, Y, lam, tol=TIGHT).coef - y_val) ** 2))
    lam = LAM * np.linspace(1, 2, P)
    J = jax.jacobian(lambda lam: lasso(X, Y, lam, tol=TIGHT).coef)(lam)
    assert_allclose(jax.hessian(loss)(lam), 2 * J.T @ X_val.T @ X_val @ J / N, atol=1e-6)
    pair = jnp.array([LAM, 0.2])
    value = lambda pair: jnp.sum(elastic_net(X, Y, *pair, tol=TIGHT).coef ** 2)
    gradient, h = jax.jit(jax.grad(value)), 1e-6
    rows = [(gradient(pair + h * e) - gradient(pair - h * e)) / (2 * h) for e in np.eye(2)]
    assert_allclose(jax.hessian(value)(pair), rows, rtol=1e-4, atol=1e-6)


def test_knot_has_margin_zero():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, 0.4])
    assert_allclose(lasso(x, y, 0.2, tol=TIGHT).margin, 0, atol=1e-12)
    assert lasso(x, y, 0.5, tol=TIGHT).margin > 0.1


# --- transformations and types --------------------------------------------------------------------


def test_vmap_over_penalties_data_and_folds(backend):
    lams = TOP * np.array([0.5, 0.1, 0.02])
    solve = lambda lam: lasso(X, Y, lam, tol=TIGHT).coef
    alone = np.stack([solve(lam) for lam in lams])
    assert_allclose(jax.vmap(solve)(lams), alone, atol=1e-9)
    slopes = jax.vmap(jax.grad(lambda lam: solve(lam).sum()))(lams)
    assert_allclose(slopes, [jax.grad(lambda lam: solve(lam).sum())(lam) for lam in lams])
    targets = np.stack([Y, -Y, Y[::-1]])
    found = jax.vmap(lambda y: lasso(X, y, LAM, tol=TIGHT).coef)(targets)
    assert_allclose(found[2], lasso(X, Y[::-1], LAM, tol=TIGHT).coef, atol=1e-9)
    masks = (np.arange(N) % 4 != np.arange(4)[:, None]).astype(float)
    folds = jax.vmap(lambda w: lasso(X, Y, LAM, weights=w, tol=TIGHT).coef)(masks)
    kept = masks[1] > 0
    assert_allclose(folds[1], lasso(X[kept], Y[kept], LAM, tol=TIGHT).coef, atol=1e-9)


def test_types(x64):
    for dtype in (jnp.float32, jnp.float64)[: 1 + x64]:
        found = lasso(jnp.asarray(X, dtype), jnp.asarray(Y, dtype), LAM, tol=1e-5)
        assert found.coef.dtype == found.gap.dtype == dtype
        assert_allclose(found.coef, linear_model.Lasso(LAM, fit_intercept=False).fit(X, Y).coef_,
                        atol=5e-3)  # fmt: skip
    for dtype in (jnp.bfloat16, jnp.float16):
        found = lasso(jnp.asarray(X, dtype), jnp.asarray(Y, dtype), LAM, tol=1e-4)
        assert found.coef.dtype == jnp.float32 and bool(jnp.isfinite(found.coef).all())
        assert_allclose(found.coef, fit(X, Y, LAM) if x64 else found.coef, atol=0.05)


def test_integers_in():
    found = lasso(np.array([[1, 1], [1, -1]]), np.array([3, 2]), 0.75)
    assert_allclose(found.coef, [1.75, 0])


def test_jit_keeps_the_result():
    options = {"fit_intercept": True, "tol": TIGHT}
    plain = lasso(X, Y, LAM, **options)
    jitted = jax.jit(lambda X, y, lam: lasso(X, y, lam, **options))(X, Y, LAM)
    for a, b in zip(plain, jitted, strict=True):
        assert_allclose(a, b, atol=1e-12)


# --- edge cases -----------------------------------------------------------------------------------


def test_zero_columns_stay_at_zero(backend):
    wide = np.concatenate([X, np.zeros((N, 2))], axis=1)
    solve = lambda lam: lasso(wide, Y, lam, tol=TIGHT).coef
    assert_allclose(solve(LAM), np.append(fit(X, Y, LAM), [0, 0]), atol=1e-9)
    assert np.isfinite(jax.jacobian(solve)(LAM)).all()
    assert not np.any(lasso(np.zeros((5, 3)), np.ones(5), 0.1).coef)


def test_duplicate_columns_give_a_minimum(backend):
    twice = np.concatenate([X, X], axis=1)
    found = lasso(twice, Y, LAM, tol=1e-12)
    merged = found.coef[:P] + found.coef[P:]
    assert bool(found.converged)
    assert_allclose(merged, fit(X, Y, LAM), atol=1e-5)


def test_more_features_than_items(backend):
    A, y = data(11, n=15, p=200)
    found = lasso(A, y, 0.1 * lasso_max(A, y), tol=1e-10)
    model = linear_model.Lasso(
        float(0.1 * lasso_max(A, y)), fit_intercept=False, tol=1e-13, max_iter=1_000_000
    ).fit(A, y)
    assert bool(found.converged) and np.count_nonzero(found.coef) <= 15
    assert_allclose(found.coef, model.coef_, atol=1e-4)


def test_small_penalty_of_a_wide_design_converges():
    A, y = data(12, n=30, p=1000)
    found = lasso(A, y, 1e-3 * lasso_max(A, y), tol=1e-9)
    assert bool(found.converged) and np.count_nonzero(found.coef) <= 30


def test_one_item_and_one_feature():
    assert_allclose(lasso([[2.0]], [3.0], 1.0).coef, [(6 - 1) / 4])
    assert_allclose(jax.grad(lambda lam: lasso([[2.0]], [3.0], lam).coef[0])(1.0), -1 / 4)
    found = lasso([[2.0, 1.0]], [3.0], 0.1, fit_intercept=True)
    assert_allclose(found.intercept, 3.0)
    assert not np.any(found.coef)


def test_without_a_penalty_it_is_least_squares(backend):
    expected = np.linalg.lstsq(X, Y, rcond=None)[0]
    assert_allclose(lasso(X, Y, 0.0, tol=TIGHT).coef, expected, atol=1e-6)
    solve = lambda y: lasso(X, y, 0.0, tol=TIGHT).coef
    assert_allclose(jax.jacobian(solve)(Y), np.linalg.pinv(X), atol=1e-6)


@pytest.mark.parametrize("scale", [1e9, 1e-9])
def test_scale(scale):
    """Targets, features and penalties of any unit give the same solution in that unit."""
    coef = fit(X, Y, LAM)
    assert_allclose(fit(X, scale * Y, scale * LAM) / scale, coef, atol=1e-8)
    assert_allclose(fit(scale * X, Y, scale * LAM) * scale, coef, atol=1e-8)
    slope = jax.jacobian(lambda lam: lasso(X, scale * Y, lam, tol=TIGHT).coef)(scale * LAM)
    assert_allclose(slope, jax.jacobian(lambda lam: fit(X, Y, lam))(LAM), rtol=1e-7)


def test_sparse_designs_are_dense_ones(backend):
    A = np.where(np.random.default_rng(6).random((N, P)) < 0.5, X, 0)
    lam = 0.1 * float(lasso_max(A, Y))
    for make in (scipy.sparse.csc_array, scipy.sparse.csr_matrix, scipy.sparse.coo_array):
        thin = make(A)
        assert_allclose(lasso_max(thin, Y), lasso_max(A, Y))
        sparse = lambda y, lam: lasso(thin, y, lam, fit_intercept=True, tol=TIGHT).coef  # noqa: B023
        dense = lambda y, lam: lasso(A, y, lam, fit_intercept=True, tol=TIGHT).coef
        assert_allclose(sparse(Y, lam), dense(Y, lam), atol=1e-9)
        both = [jax.jacobian(f, argnums=(0, 1))(Y, lam) for f in (sparse, dense)]
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-8), *both)


# --- paths ----------------------------------------------------------------------------------------


def test_path_is_one_solution_after_the_other():
    found = lasso_path(X, Y, num=7, ratio=0.05, fit_intercept=True, tol=TIGHT)
    top = lasso_max(X, Y, fit_intercept=True)
    assert_allclose(found.lam, top * np.geomspace(1, 0.05, 7))
    for k, lam in enumerate(found.lam):
        alone = lasso(X, Y, lam, fit_intercept=True, tol=TIGHT)
        assert_allclose(found.solutions.coef[k], alone.coef, atol=1e-8)
        assert_allclose(found.solutions.intercept[k], alone.intercept, atol=1e-8)
    assert bool(found.solutions.converged.all())


def test_path_visits_the_knots_of_least_angle_regression():
    lams, _, coef = linear_model.lars_path(X, Y, method="lasso")
    assert_allclose(lasso_path(X, Y, lams[:-1], tol=TIGHT).solutions.coef, coef.T[:-1], atol=1e-7)


def test_path_has_derivatives():
    lams = LAM * np.array([2.0, 1.0])
    along = lambda y: lasso_path(X, y, lams, tol=TIGHT).solutions.coef
    alone = [jax.jacobian(lambda y, lam=lam: fit(X, y, lam))(Y) for lam in lams]
    assert_allclose(jax.jacobian(along)(Y), alone, atol=1e-8)


def test_start_at_the_solution_takes_no_step():
    found = lasso(X, Y, LAM, tol=1e-10)
    again = lasso(X, Y, LAM, init=found, tol=1e-9)
    assert again.num_iter == 0
    assert_allclose(again.coef, found.coef)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, name",
    [
        ((X[0], Y, 0.1), {}, "X must have shape"),
        ((X, Y[:-1], 0.1), {}, "y must have shape"),
        ((X, Y, -0.1), {}, "lam"),
        ((X, Y, np.ones(3)), {}, "lam must be a number or have shape"),
        ((X, Y, 0.1), {"weights": -np.ones(N)}, "weights"),
        ((X, Y, 0.1), {"weights": np.ones(3)}, "weights must have the shape of y"),
        ((X, Y, 0.1), {"weights": np.zeros(N)}, "weights"),
        ((X, Y, 0.1), {"tol": 0.0}, "tol"),
        ((X, Y, 0.1), {"max_iter": 0}, "max_iter"),
        ((X.astype(complex), Y, 0.1), {}, "X"),
    ],
)
def test_mistakes_name_the_argument(arguments, options, name):
    with pytest.raises((ValueError, TypeError), match=name):
        lasso(*arguments, **options)


def test_mistakes_of_paths():
    with pytest.raises(ValueError, match="lams must have shape"):
        lasso_path(X, Y, 0.1)
    with pytest.raises(ValueError, match="lams"):
        lasso_path(X, Y, np.array([0.1, -0.1]))


def test_single_precision_without_x64():
    with enable_x64(False):
        found = lasso(X.astype(np.float32), Y.astype(np.float32), LAM, tol=1e-6)
        assert found.coef.dtype == jnp.float32 and bool(found.converged)


def test_names():
    assert set(diffopt.lasso.__module__.split()) == {"diffopt.lasso"}
