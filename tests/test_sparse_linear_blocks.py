"""Groups and several outputs: solutions against other solvers, derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression, MultiTaskLasso

from diffopt import kernels
from diffopt.sparse_linear import (
    BlockProblem,
    Problem,
    SparseLogistic,
    as_design,
    group_lasso,
    multinomial_logistic,
    multitask_lasso,
    solve,
    solve_blocks,
)

N, P, K = 24, 32, 3
GROUPS = np.arange(P) // 4


def data(n=N, p=P, k=K, seed=0):
    """Features, targets that eight features explain, and their largest as labels."""
    rng = np.random.default_rng(seed)
    X, W = rng.normal(size=(n, p)), np.zeros((p, k))
    W[:8] = rng.normal(size=(8, k))
    Y = X @ W + 0.3 * rng.normal(size=(n, k))
    return X, Y, Y.argmax(1)


X, Y, LABELS = data()
ONE_HOT = np.eye(K)[LABELS]
SIGNS = np.where(Y > 0, 1.0, -1.0)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, N) / N

CASES = {  # loss, penalty, targets, lam, groups
    "multitask": ("squared", "group", Y, 0.3, None),
    "groups": ("squared", "group", Y[:, :1], 0.25, GROUPS),
    "groups of rows": ("squared", "group", Y, 0.5, GROUPS),
    "entries": ("squared", "l1", Y, 0.2, None),
    "logistic": ("logistic", "group", SIGNS[:, :1], 0.06, GROUPS),
    "multinomial": ("multinomial", "l1", ONE_HOT, 0.04, None),
    "multinomial rows": ("multinomial", "group", ONE_HOT, 0.05, None),
}


def run(case, X=X, fit_intercept=False, tol=1e-14, **changes):
    """Solve one of the cases, with changes to its arrays, far beyond usual tolerances."""
    loss, penalty, targets, lam, groups = CASES[case]
    size = P if groups is None else GROUPS.max() + 1
    arrays = {"Y": targets, "weights": WEIGHTS, "lam": np.full(size, lam), **changes}
    problem = BlockProblem(as_design(X), *(jnp.asarray(arrays[a]) for a in arrays), groups)
    return solve_blocks(
        problem,
        loss=loss,
        penalty=penalty,
        fit_intercept=fit_intercept,
        tol=tol,
        max_iter=20_000,
    )


def score_slopes(case, solution):
    loss, _, targets, *_ = CASES[case]
    Z = X @ np.asarray(solution.coef) + np.asarray(solution.intercept)
    if loss == "squared":
        return WEIGHTS[:, None] * (Z - targets)
    if loss == "logistic":
        return -WEIGHTS[:, None] * targets / (1 + np.exp(targets * Z))
    return WEIGHTS[:, None] * (np.asarray(jax.nn.softmax(Z, axis=1)) - targets)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_conditions_of_optimality(case, fit_intercept):
    solution = run(case, fit_intercept=fit_intercept)
    assert solution.converged and solution.gap <= 1e-14
    _, penalty, _, lam, groups = CASES[case]
    R = score_slopes(case, solution)
    np.testing.assert_allclose(R.sum(0) * fit_intercept, 0, atol=1e-8)
    W, U = np.asarray(solution.coef), X.T @ R
    k = W.shape[1]
    labels = np.repeat(np.arange(P) if groups is None else groups, k)
    labels = np.arange(P * k) if penalty == "l1" else labels
    active = 0
    for g in range(labels.max() + 1):
        w, u = W.ravel()[labels == g], U.ravel()[labels == g]
        if w.any():
            active += 1
            np.testing.assert_allclose(u, -lam * w / np.linalg.norm(w), atol=1e-7)
        else:
            assert np.linalg.norm(u) <= lam * (1 + 1e-7)
    assert 0 < active <= labels.max()
    assert 0 < solution.margin < 1


@pytest.mark.parametrize("case", CASES)
def test_the_two_implementations_agree(case):
    native = run(case, fit_intercept=True)
    with kernels.use_backend("xla"):
        xla = run(case, fit_intercept=True, tol=1e-12)
    assert native.converged and xla.converged
    np.testing.assert_allclose(native.coef, xla.coef, atol=2e-6)
    np.testing.assert_allclose(native.intercept, xla.intercept, atol=2e-6)
    np.testing.assert_allclose(native.margin, xla.margin, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "xla"])
@pytest.mark.parametrize("case", ["groups", "multinomial"])
def test_a_sparse_design_gives_the_same(case, backend):
    with kernels.use_backend(backend):
        sparse = run(case, scipy.sparse.csc_array(X), fit_intercept=True, tol=1e-12)
    dense = run(case, fit_intercept=True)
    np.testing.assert_allclose(sparse.coef, dense.coef, atol=2e-6)
    np.testing.assert_allclose(sparse.intercept, dense.intercept, atol=2e-6)


# --- against others -----------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_multitask_lasso_is_that_of_scikit_learn(fit_intercept):
    theirs = MultiTaskLasso(0.3, fit_intercept=fit_intercept, tol=1e-12, max_iter=100_000).fit(X, Y)
    ours = multitask_lasso(X, Y, 0.3, fit_intercept=fit_intercept, tol=1e-14)
    np.testing.assert_allclose(ours.coef, theirs.coef_.T, atol=1e-6)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-6)


def test_multinomial_logistic_is_that_of_scikit_learn():
    lam = 0.04
    theirs = LogisticRegression(
        C=1 / (N * lam), l1_ratio=1, solver="saga", fit_intercept=False, tol=1e-9, max_iter=100_000
    ).fit(X, LABELS)
    ours = multinomial_logistic(X, LABELS, lam, tol=1e-14)
    np.testing.assert_allclose(ours.coef, theirs.coef_.T, atol=1e-6)


def test_group_lasso_is_that_of_proximal_gradient():
    y, lam = Y[:, 0], 0.25
    step, beta = N / np.linalg.norm(X, 2) ** 2, np.zeros(P)
    for _ in range(20_000):
        previous, v = beta, (beta - step * X.T @ (X @ beta - y) / N).reshape(-1, 4)
        norms = np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
        beta = (v * np.maximum(1 - step * lam / norms, 0)).ravel()
        if np.abs(beta - previous).max() < 1e-15:
            break
    solution = group_lasso(X, y, lam, GROUPS, tol=1e-15)
    np.testing.assert_allclose(solution.coef, beta, atol=1e-10)


def test_the_order_of_groups_does_not_matter():
    order = np.random.default_rng(2).permutation(P)
    expected = group_lasso(X, Y[:, 0], 0.25, GROUPS, tol=1e-14).coef
    actual = group_lasso(X[:, order], Y[:, 0], 0.25, GROUPS[order], tol=1e-14).coef
    np.testing.assert_allclose(actual, expected[order], atol=1e-7)


def test_groups_of_one_make_the_lasso():
    y, lam, free = jnp.asarray(Y[:, 0]), jnp.full(P, 0.2), jnp.full(P, jnp.inf)
    zeros = jnp.zeros(P)
    problem = Problem(jnp.asarray(X), y, jnp.full(N, 1 / N), lam, zeros, -free, free, zeros)
    expected = solve(problem, fit_intercept=True, tol=1e-14)
    actual = group_lasso(X, y, lam, np.arange(P), fit_intercept=True, tol=1e-14)
    np.testing.assert_allclose(actual.coef, expected.coef, atol=1e-8)
    np.testing.assert_allclose(actual.intercept, expected.intercept, atol=1e-8)
    np.testing.assert_allclose(actual.margin, expected.margin, atol=1e-6)


def test_two_classes_make_sparse_logistic_regression():
    labels, y = (SIGNS[:, 0] > 0).astype(int), jnp.asarray(SIGNS[:, 0])
    problem = SparseLogistic().problem(jnp.asarray(X), y, jnp.asarray(0.05))
    expected = solve(problem, loss="logistic", fit_intercept=True, tol=1e-14)
    actual = multinomial_logistic(X, labels, 0.05, fit_intercept=True, tol=1e-14)
    np.testing.assert_allclose(actual.coef[:, 1] - actual.coef[:, 0], expected.coef, atol=1e-6)
    difference = actual.intercept[1] - actual.intercept[0]
    np.testing.assert_allclose(difference, expected.intercept, atol=1e-6)
    np.testing.assert_allclose(actual.intercept.sum(), 0, atol=1e-15)


# --- edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_large_penalties_give_zero_and_slightly_smaller_ones_do_not(backend):
    R = (ONE_HOT - 1 / K) / N
    largest = np.abs(X.T @ R).max()
    with kernels.use_backend(backend):
        zero = multinomial_logistic(X, LABELS, largest)
        some = multinomial_logistic(X, LABELS, 0.99 * largest, tol=1e-12, max_iter=20_000)
        jacobian = jax.jacobian(lambda lam: multinomial_logistic(X, LABELS, lam).coef)(2 * largest)
    np.testing.assert_array_equal(zero.coef, 0)
    assert zero.converged and zero.num_iter == 0
    assert (some.coef != 0).any()
    np.testing.assert_array_equal(jacobian, 0)


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_columns_of_zeros_get_zero(backend):
    empty = X.copy()
    empty[:, :4] = 0
    empty[:, 5] = 0
    with kernels.use_backend(backend):
        fit = lambda X: group_lasso(X, Y[:, 0], 0.25, GROUPS, tol=1e-12, max_iter=20_000).coef
        coef = fit(empty)
        slope = jax.grad(lambda X: (fit(X) * jnp.arange(1.0, P + 1)).sum())(jnp.asarray(empty))
    np.testing.assert_array_equal(coef[jnp.array([0, 1, 2, 3, 5])], 0)
    assert (coef[4:8] != 0).sum() == 3
    assert jnp.isfinite(slope).all()


def test_a_group_without_penalty_is_fitted_by_least_squares():
    lam = np.where(np.arange(8) == 1, 0.0, 100.0)
    coef = group_lasso(X, Y[:, 0], lam, GROUPS, tol=1e-14).coef
    expected = np.linalg.lstsq(X[:, 4:8], Y[:, 0], rcond=None)[0]
    np.testing.assert_allclose(coef[4:8], expected, atol=1e-8)
    np.testing.assert_array_equal(coef[:4], 0)


def test_many_more_features_than_items():
    X, Y, labels = data(15, 600, 4, seed=3)
    for solution in (
        multitask_lasso(X, Y, 0.5, fit_intercept=True, tol=1e-13),
        multinomial_logistic(X, labels, 0.05, num_classes=4, fit_intercept=True, tol=1e-13),
    ):
        assert solution.converged
        assert 0 < (solution.coef != 0).any(1).sum() < 30


def test_a_start_at_the_solution_needs_no_iteration():
    cold = multitask_lasso(X, Y, 0.3, tol=1e-12, fit_intercept=True)
    start = cold.coef, cold.intercept
    warm = multitask_lasso(X, Y, 0.3, tol=1e-12, fit_intercept=True, init=start)
    assert cold.num_iter > 0 and warm.num_iter == 0
    cold = group_lasso(X, Y[:, 0], 0.3, GROUPS, tol=1e-12)
    start = cold.coef, cold.intercept
    assert group_lasso(X, Y[:, 0], 0.3, GROUPS, tol=1e-12, init=start).num_iter == 0


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_vmap_and_jit(backend):
    lams = jnp.array([0.2, 0.3, 0.6])
    fit = lambda lam: multitask_lasso(X, Y, lam, tol=1e-13, max_iter=20_000).coef
    with kernels.use_backend(backend):
        batch = jax.jit(jax.vmap(fit))(lams)
        slopes = jax.vmap(jax.jacfwd(fit))(lams)
        np.testing.assert_allclose(batch, jnp.stack([fit(lam) for lam in lams]), atol=1e-6)
        one = jax.jacfwd(fit)(lams[1])
    np.testing.assert_allclose(slopes[1], one, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_single_precision(backend):
    single = lambda x: jnp.asarray(x, jnp.float32)
    fit = lambda X, lam: multinomial_logistic(
        X, LABELS, lam, fit_intercept=True, tol=1e-6 if X.dtype == jnp.float32 else 1e-13
    )
    loss = lambda lam, X: (fit(X, lam).coef * jnp.arange(K, dtype=X.dtype)[None]).sum()
    with kernels.use_backend(backend):
        solution = fit(single(X), 0.04)
        slope = jax.grad(loss)(single(0.04), single(X))
    assert solution.converged
    assert all(x.dtype == jnp.float32 for x in (*solution[:3], solution.margin, slope))
    np.testing.assert_allclose(solution.coef, fit(jnp.asarray(X), 0.04).coef, atol=2e-2)
    np.testing.assert_allclose(slope, jax.grad(loss)(0.04, jnp.asarray(X)), rtol=5e-2)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="groups must have shape"):
        group_lasso(X, Y[:, 0], 0.1, GROUPS[:-1])
    with pytest.raises(ValueError, match="lam must hold a number for each"):
        multitask_lasso(X, Y, np.ones(3))
    with pytest.raises(ValueError, match="groups must lie in"):
        group_lasso(X, Y[:, 0], np.ones(2), GROUPS)
    with pytest.raises(ValueError, match="y must have shape"):
        group_lasso(X, Y, 0.1, GROUPS)
    with pytest.raises(ValueError, match="Y and weights must have shapes"):
        multitask_lasso(X[1:], Y, 0.1)
    with pytest.raises(TypeError, match="must be integers"):
        multinomial_logistic(X, Y[:, 0], 0.1)
    with pytest.raises(ValueError, match="penalty must be one of"):
        multinomial_logistic(X, LABELS, 0.1, penalty="l2")


# --- derivatives --------------------------------------------------------------------------------


def directions(case):
    """Arrays of a case, and a direction for each."""
    _, _, targets, lam, groups = CASES[case]
    size = P if groups is None else GROUPS.max() + 1
    arrays = {"X": X, "Y": targets, "weights": WEIGHTS, "lam": np.full(size, lam)}
    rng = np.random.default_rng(4)
    moves = {name: rng.normal(size=x.shape) * np.abs(x).mean() for name, x in arrays.items()}
    as_jax = lambda arrays: {name: jnp.asarray(x) for name, x in arrays.items()}
    return as_jax(arrays), as_jax(moves)


def weighted_sum(case, fit_intercept=True):
    """A loss of the solution, as a function of the arrays."""
    k = CASES[case][2].shape[1]
    c = jnp.asarray(np.random.default_rng(5).normal(size=(P, k)))

    def loss(arrays):
        solution = run(case, fit_intercept=fit_intercept, **arrays)
        return (solution.coef * c).sum() + (solution.intercept * c[0]).sum()

    return jax.jit(loss)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_limits_of_differences(case):
    loss, (arrays, moves) = weighted_sum(case), directions(case)
    along = jax.jit(lambda move: jax.jvp(loss, (arrays,), (move,))[1])
    h = 1e-5
    for name in arrays.keys() - ({"Y"} if case == "logistic" else set()):  # Y holds signs there
        move = {key: x if key == name else jnp.zeros_like(x) for key, x in moves.items()}
        high, low = (
            loss({key: x + step * move[key] for key, x in arrays.items()}) for step in (h, -h)
        )
        expected = (high - low) / (2 * h)
        np.testing.assert_allclose(along(move), expected, rtol=2e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("case", ["groups", "multinomial"])
def test_reverse_is_the_transpose_and_the_hessian_is_symmetric(case):
    loss, (arrays, moves) = weighted_sum(case), directions(case)
    _, forward = jax.jvp(loss, (arrays,), (moves,))
    gradient = jax.grad(loss)
    inner = lambda a, b: sum(jnp.vdot(a[key], b[key]) for key in a)
    np.testing.assert_allclose(inner(gradient(arrays), moves), forward, rtol=1e-9)
    other = jax.tree.map(lambda x: x[..., ::-1], moves)
    along = lambda move: jax.jvp(gradient, (arrays,), (move,))[1]
    curved = along(moves)
    np.testing.assert_allclose(inner(curved, other), inner(along(other), moves), rtol=1e-7)
    h = 1e-5
    at = lambda h: inner(gradient(jax.tree.map(lambda x, d: x + h * d, arrays, moves)), other)
    np.testing.assert_allclose(inner(curved, other), (at(h) - at(-h)) / (2 * h), rtol=1e-4)


def test_derivative_in_the_entries_of_a_sparse_design():
    kept = np.where(np.random.default_rng(6).uniform(size=X.shape) < 0.5, X, 0)
    design = as_design(scipy.sparse.csc_array(kept))
    fit = lambda X: multitask_lasso(X, Y, 0.2, tol=1e-14, fit_intercept=True).coef[:, 0].sum()
    sparse = jax.grad(lambda d: fit(design.__class__(d, *_rest(design))))(design.data)
    dense = jax.grad(fit)(jnp.asarray(kept))
    np.testing.assert_allclose(sparse, dense[design.rows, design.columns], atol=1e-8)


def _rest(design):
    return design.rows, design.columns, design.starts, design.num_rows
