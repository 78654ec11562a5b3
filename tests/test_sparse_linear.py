"""Sparse linear models: designs, problems, both solvers, and derivatives of solutions."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import LogisticRegression

from diffopt import kernels
from diffopt.sparse_linear import (
    SVM,
    SVR,
    ElasticNet,
    Lasso,
    Problem,
    SimplexSVR,
    SparseDesign,
    SparseLogistic,
    as_design,
    fit,
    solve,
)
from diffopt.sparse_linear.design import matvec, rmatvec

N, P = 40, 12
BACKENDS = ("auto", "xla")
MODELS = {
    "lasso": (Lasso(), 0.1),
    "weighted": (Lasso(True), np.linspace(0.02, 0.4, P)),
    "elastic_net": (ElasticNet(True), (0.1, 0.05)),
    "logistic": (SparseLogistic(True), 0.03),
    "svm": (SVM(), 0.1),
    "svr": (SVR(), (0.1, 0.2)),
    "simplex": (SimplexSVR(), (0.1, 0.2)),
}
# Every model with the native solver, and some with sparse designs and with the XLA solver.
CASES = [
    *[(name, False, "auto") for name in MODELS],
    *[(name, True, "auto") for name in ("weighted", "logistic", "svm")],
    *[(name, False, "xla") for name in ("elastic_net", "logistic", "simplex")],
    *[(name, True, "xla") for name in ("lasso", "svr")],
]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    """Run with native kernels, then in XLA: grouped, as a switch forgets what was compiled."""
    with kernels.use_backend(request.param):
        yield request.param


def data(n=N, p=P, seed=0, sparse=False, signs=False):
    """Draw features, some of them exactly zero, and targets or their signs."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, p))
    if sparse:
        X[random.random((n, p)) < 0.6] = 0
    y = X[:, :5].sum(1) + 0.3 * random.normal(size=n)
    return X, np.where(y >= 0, 1.0, -1.0) if signs else y


def data_of(name, **options):
    return data(signs=name in ("logistic", "svm"), **options)


def objective(name, X, y, lam, coef, intercept=0.0):
    """Objective of a model, written down once more."""
    z, n = X @ coef + intercept, len(y)
    if name in ("lasso", "weighted", "elastic_net"):
        l1, ridge = lam if name == "elastic_net" else (lam, 0.0)
        value = np.square(y - z).sum() / (2 * n) + ridge / 2 * (coef @ coef)
        return value + np.sum(l1 * np.abs(coef))
    if name == "logistic":
        return np.logaddexp(0, -y * z).mean() + np.sum(lam * np.abs(coef))
    if name == "svm":
        return coef @ coef / 2 + lam * np.maximum(1 - y * z, 0).sum()
    return coef @ coef / 2 + lam[0] * np.maximum(np.abs(y - z) - lam[1], 0).sum()


def coefficients(model, X, y, lam, **options):
    problem, found = fit(model, X, y, lam, **options)
    return model.coef(problem, found.coef), found


# ------------------------------------------------------------------------------ designs


def test_sparse_design_is_the_matrix_of_scipy():
    X, _ = data(sparse=True)
    design = as_design(scipy.sparse.csr_array(X))
    v, u = np.arange(P) / 3.0, np.arange(N) / 7.0
    assert isinstance(design, SparseDesign) and design.shape == X.shape and design.ndim == 2
    assert_allclose(matvec(design, jnp.asarray(v)), X @ v, atol=1e-13)
    assert_allclose(rmatvec(design, jnp.asarray(u)), X.T @ u, atol=1e-13)


def test_sparse_design_leaves_its_source_alone():
    source = scipy.sparse.csc_array(
        (np.ones(4), np.array([1, 1, 0, 2]), np.array([0, 2, 4])), shape=(3, 2)
    )
    design = as_design(source)
    assert source.nnz == 4 and design.data.size == 3  # one entry was stored twice


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2, 2))])
def test_design_is_a_matrix(bad):
    with pytest.raises(ValueError, match=r"X must have shape \[n, p\]"):
        as_design(bad)


# ------------------------------------------------------------------------------ solutions


@pytest.mark.parametrize(("name", "sparse", "backend"), CASES, indirect=["backend"])
def test_no_step_in_any_direction_decreases_the_objective(name, sparse, backend):
    model, lam = MODELS[name]
    X, y = data_of(name, sparse=sparse)
    coef, found = coefficients(
        model, scipy.sparse.csc_array(X) if sparse else X, y, lam, tol=1e-13, max_iter=30_000
    )
    assert found.converged and found.gap >= 0
    coef, b = np.asarray(coef), float(found.intercept)
    best = objective(name, X, y, lam, coef, b)
    random = np.random.default_rng(1)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(50):
            move = scale * random.normal(size=P) * (random.random(P) < 0.5)
            other = coef + move
            if name == "simplex":
                other = np.maximum(other, 0)
                other = other / other.sum()
            shift = scale * random.normal() * model.fit_intercept
            assert objective(name, X, y, lam, other, b + shift) >= best - 1e-12


@pytest.mark.parametrize("name", ["weighted", "elastic_net", "logistic"])
@pytest.mark.parametrize("backend", ["xla"], indirect=True)
def test_gap_bounds_the_excess(name, backend):
    model, lam = MODELS[name]
    X, y = data_of(name)
    coef, found = coefficients(model, X, y, lam, tol=1e-14, max_iter=100_000)
    best = objective(name, X, y, lam, np.asarray(coef), float(found.intercept))
    for steps in (1, 3, 10, 30):
        coef, early = coefficients(model, X, y, lam, tol=1e-14, max_iter=steps)
        excess = objective(name, X, y, lam, np.asarray(coef), float(early.intercept)) - best
        assert -1e-13 <= excess <= early.gap + 1e-13
        assert early.num_iter <= steps


def test_elastic_net_is_that_of_scikit_learn():
    X, y = data()
    coef, found = coefficients(ElasticNet(True), X, y, (0.1, 0.05), tol=1e-14)
    model = SklearnElasticNet(0.15, l1_ratio=0.1 / 0.15, tol=1e-14, max_iter=100_000).fit(X, y)
    assert_allclose(coef, model.coef_, atol=1e-12)
    assert_allclose(found.intercept, model.intercept_, atol=1e-12)


@pytest.mark.parametrize("intercept", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(intercept):
    X, y = data(signs=True)
    coef, found = coefficients(SparseLogistic(intercept), X, y, 0.03, tol=1e-14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the next release renames
        model = LogisticRegression(
            C=1 / (0.03 * N), penalty="l1", solver="saga", fit_intercept=intercept, tol=1e-12,
            max_iter=100_000,
        ).fit(X, y)  # fmt: skip
    assert_allclose(coef, model.coef_[0], atol=1e-9)
    assert_allclose(found.intercept, np.ravel(model.intercept_)[0], atol=1e-9)


def test_simplex_regression_solves_its_quadratic_program():
    n, p, lam = 15, 5, (0.3, 0.1)
    X, y = data(n=n, p=p)
    coef, _ = coefficients(SimplexSVR(), X, y, lam, tol=1e-13)
    sides = np.concatenate([X, -X]), np.concatenate([y, -y])  # slack >= side of the error - epsilon
    above = np.concatenate([sides[0], np.tile(np.eye(n), (2, 1))], axis=1)
    solved = scipy.optimize.minimize(
        lambda v: v[:p] @ v[:p] / 2 + lam[0] * v[p:].sum(),
        np.concatenate([np.full(p, 1 / p), np.full(n, 10.0)]),
        jac=lambda v: np.concatenate([v[:p], np.full(n, lam[0])]),
        bounds=[(0, None)] * (p + n),
        constraints=[
            {"type": "eq", "fun": lambda v: v[:p].sum() - 1},
            {"type": "ineq", "fun": lambda v: above @ v - sides[1] + lam[1]},
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert solved.success
    assert_allclose(coef, solved.x[:p], atol=1e-6)


def test_both_solvers_agree():
    cases = [(name, False) for name in MODELS] + [("lasso", True), ("svm", True)]

    def solve_all():
        for name, sparse in cases:
            model, lam = MODELS[name]
            for seed in range(3):
                X, y = data_of(name, seed=seed, sparse=sparse)
                design = scipy.sparse.csc_array(X) if sparse else X
                coef, found = coefficients(model, design, y, lam, tol=1e-12, max_iter=100_000)
                assert found.converged, (name, seed)
                yield np.asarray(coef)

    native = list(solve_all())
    with kernels.use_backend("xla"):
        for a, b in zip(native, solve_all(), strict=True):
            assert_allclose(a, b, atol=1e-5)


def test_awkward_designs(backend):
    random = np.random.default_rng(0)
    X = random.normal(size=(10, 30))
    X[:, 3] = 0  # a zero column
    X[:, 4] = X[:, 5]  # duplicates
    X[:, 6] *= 1e6
    y = X[:, 5] - X[:, 8]
    for lam in (1e-3, 0.1, 1e9):
        coef, found = coefficients(Lasso(), X, y, lam, tol=1e-10, max_iter=200_000)
        assert found.converged and coef[3] == 0
        assert (lam < 1e9) or not coef.any()
    scaled, found = coefficients(Lasso(), X[:, :3], 1e9 * y, 1e8, tol=1e-12, max_iter=10_000)
    plain, _ = coefficients(Lasso(), X[:, :3], y, 0.1, tol=1e-12, max_iter=10_000)
    assert found.converged
    assert_allclose(scaled, 1e9 * plain, rtol=1e-5)


def test_nan_in_nan_out(backend):
    X, y = data()
    coef, found = coefficients(Lasso(), X, np.where(np.arange(N) == 3, np.nan, y), 0.1)
    assert np.isnan(coef).all() and not found.converged


def test_rounding_ends_what_no_tolerance_does():
    X, y = data()
    _, found = coefficients(Lasso(), X, y, 0.1, tol=1e-300, max_iter=100_000)
    assert found.num_iter < 100 and found.gap < 1e-13


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types(dtype, backend, x64):
    if dtype == np.float64 and not x64:
        pytest.skip("needs 64 bits")
    X, y = data()
    coef, found = coefficients(Lasso(), X.astype(dtype), y.astype(dtype), 0.1, tol=1e-6)
    assert coef.dtype == dtype and found.converged
    reference = SklearnElasticNet(0.1, l1_ratio=1.0, fit_intercept=False, tol=1e-12).fit(X, y)
    assert_allclose(coef, reference.coef_, atol=3e-3)


def test_batches_share_the_design():
    X, y = (jnp.asarray(x) for x in data())
    lams = jnp.array([0.03, 0.1, 0.3])
    masks = 1.0 - jnp.eye(3)[:, jnp.arange(N) % 3]
    run = lambda lam, weights: fit(Lasso(True), X, y, lam, weights=weights)[1].coef
    each = lambda lam: jax.vmap(lambda w: run(lam, w / w.sum()))(masks)
    found = jax.jit(jax.vmap(each))(lams)
    for i, lam in enumerate(lams):
        for k in range(3):
            keep = np.asarray(masks[k], bool)
            alone = fit(Lasso(True), X[keep], y[keep], lam)[1].coef
            assert_allclose(found[i, k], alone, atol=1e-6)


# ------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize(("name", "sparse", "backend"), CASES, indirect=["backend"])
def test_derivatives_are_finite_differences(name, sparse, backend):
    model, lam = MODELS[name]
    X, y = data_of(name, sparse=sparse)
    lam = jax.tree.map(jnp.asarray, lam)
    design = as_design(scipy.sparse.csc_array(X) if sparse else X)
    weights, direction = jnp.sin(jnp.arange(1.0, P + 1)), np.random.default_rng(2)

    def value(lam, design, y):
        problem, found = fit(model, design, y, lam, tol=1e-14, max_iter=200_000)
        return weights @ model.coef(problem, found.coef) + 0.7 * found.intercept

    draw = lambda x: (
        jnp.asarray(direction.normal(size=np.shape(x)))
        if jnp.issubdtype(jnp.result_type(x), jnp.floating)
        else x
    )
    moving = (lam, design) if name in ("logistic", "svm") else (lam, design, jnp.asarray(y))
    rest = (jnp.asarray(y),)[: 3 - len(moving)]
    run = lambda *moving: value(*moving, *rest)
    steps = jax.tree.map(draw, moving)

    def at(t):
        shift = lambda x, d: x + t * d if jnp.issubdtype(x.dtype, jnp.floating) else x
        return run(*jax.tree.map(shift, moving, steps))

    grads = jax.grad(run, argnums=tuple(range(len(moving))), allow_int=True)(*moving)
    h = 1e-6
    numeric = (at(h) - at(-h)) / (2 * h)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(steps), strict=True)
    exact = sum(float(jnp.vdot(g, d)) for g, d in pairs if g.dtype == d.dtype)
    assert_allclose(exact, numeric, rtol=2e-5, atol=1e-6)


def test_modes_agree_and_second_derivatives_hold():
    X, y = (jnp.asarray(x) for x in data(signs=True))
    run = lambda lam: fit(SparseLogistic(True), X, y, lam, tol=1e-14)[1].coef
    lam = jnp.asarray(0.03)
    assert_allclose(jax.jacfwd(run)(lam), jax.jacrev(run)(lam), atol=1e-10)
    weights, h = jnp.sin(jnp.arange(1.0, P + 1)), 1e-5
    slope = jax.grad(lambda lam: weights @ run(lam))
    numeric = (slope(lam + h) - slope(lam - h)) / (2 * h)
    assert_allclose(jax.hessian(lambda lam: weights @ run(lam))(lam), numeric, rtol=1e-4)


def test_margin_tells_a_knot():
    X, y = jnp.eye(3), jnp.array([3.0, 2.0, 1.0])
    margins = jax.vmap(lambda lam: fit(Lasso(), X, y, lam)[1].margin)
    found = margins(jnp.array([0.5, 2 / 3, 0.9]))
    assert found[1] < 1e-9 and found[0] > 0.1 and found[2] > 0.05


def test_dependent_columns_have_a_derivative_of_the_scores(backend):
    X, y = data(n=20, p=4)
    X = np.concatenate([X, X[:, :1]], axis=1)
    run = lambda lam: jnp.asarray(X) @ fit(Lasso(), X, y, lam, tol=1e-14)[1].coef
    numeric = (run(0.1 + 1e-6) - run(0.1 - 1e-6)) / 2e-6
    assert_allclose(jax.jacfwd(run)(0.1), numeric, atol=1e-5)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(3)}, "y must have shape"),
        ({"lam": -1.0}, "lam must lie in"),
        ({"lam": np.ones(3)}, "lam must be a number or have shape"),
        ({"weights": np.ones(3)}, "weights must have the shape of y"),
        ({"weights": -np.ones(N)}, "weights must lie in"),
        ({"weights": np.zeros(N)}, "sum of weights must be positive"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"max_iter": 0}, "max_iter must be positive"),
    ],
)
def test_errors_name_the_argument(change, message):
    X, y = data()
    arguments = {"X": X, "y": y, "lam": 0.1} | change
    with pytest.raises(ValueError, match=message):
        fit(Lasso(), **arguments)


def test_a_problem_of_ones_own():
    """A non-negative Lasso is one array of bounds away."""
    X, y = (jnp.asarray(x) for x in data())
    problem = Lasso().problem(X, y, jnp.asarray(0.05))
    problem = Problem(*problem[:5], jnp.zeros(P), *problem[6:])
    model = SklearnElasticNet(
        0.05, l1_ratio=1.0, positive=True, fit_intercept=False, tol=1e-14, max_iter=100_000
    )
    assert_allclose(solve(problem, tol=1e-14).coef, model.fit(X, y).coef_, atol=1e-10)
