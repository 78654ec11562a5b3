"""Sparse logistic regression and support vector machines against scikit-learn, a quadratic
programme, closed forms and finite differences; their bounds; and what goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC, LinearSVR

from diffopt import simplex_svr, sparse_logistic, svm, svr
from diffopt.hypergradient import HeldOut, hypergradient, hypergradient_error_bound, lam_max
from diffopt.sparse_linear import SVM, SparseLogistic

N, P = 24, 6
rng = np.random.default_rng(3)
X = rng.normal(size=(N, P))
COEF = np.array([1.0, -1.0, 0.5, 0.0, 0.0, 0.0])
TARGETS = X @ COEF + 0.3 * rng.normal(size=N)
LABELS = np.where(TARGETS + 0.5 * rng.normal(size=N) > 0, 1.0, -1.0)
WEIGHTS = rng.uniform(0.5, 2, N)
MIXED = X @ np.array([0.6, 0.3, 0.1, 0, 0, 0]) + 0.1 * rng.normal(size=N)

# Each problem as a function of the features, the targets, a hyperparameter and the weights.
CASES = {
    "logistic": (lambda X, y, h, w, **o: sparse_logistic(X, y, h, weights=w, **o), LABELS, 0.04),
    "intercept": (
        lambda X, y, h, w, **o: sparse_logistic(X, y, h, weights=w, fit_intercept=True, **o),
        LABELS,
        0.04,
    ),
    "svm": (lambda X, y, h, w, **o: svm(X, y, h, weights=w, **o), LABELS, 0.3),
    "svr": (lambda X, y, h, w, **o: svr(X, y, h, 0.2, weights=w, **o), TARGETS, 0.3),
    "simplex": (lambda X, y, h, w, **o: simplex_svr(X, y, h, 0.05, weights=w, **o), MIXED, 0.4),
}
TWO, SIGNS = jnp.array([[1.0], [-3.0]]), jnp.array([1.0, -1.0])


def objective(name, coef, y, h, weights=None):
    """What each support vector machine minimises; weights have the mean one."""
    w = np.ones(len(y)) if weights is None else weights / weights.mean()
    loss = 1 - y * (X @ coef) if name == "svm" else np.abs(y - X @ coef) - 0.2
    return 0.5 * coef @ coef + h * w @ np.maximum(loss, 0)


# --- solutions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weights"])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_logistic_is_that_of_scikit_learn(fit_intercept, weights):
    lam = 0.04
    total = N if weights is None else weights.sum()
    peer = LogisticRegression(
        l1_ratio=1, solver="saga", C=1 / (lam * total), fit_intercept=fit_intercept, tol=1e-9,
        max_iter=100_000, random_state=0,
    ).fit(X, LABELS, sample_weight=weights)  # fmt: skip
    found = sparse_logistic(X, LABELS, lam, fit_intercept=fit_intercept, weights=weights)
    assert_allclose(found.coef, peer.coef_[0], atol=1e-5)
    assert_allclose(found.intercept, peer.intercept_[0], atol=1e-5)
    assert found.converged and found.gap <= 1e-10
    assert 0 < np.sum(np.asarray(found.coef) != 0) < P


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weights"])
def test_machines_are_those_of_scikit_learn(weights):
    options = {"fit_intercept": False, "tol": 1e-9, "max_iter": 1_000_000, "random_state": 0}
    scaled = None if weights is None else weights / weights.mean()
    peer = LinearSVC(C=0.3, loss="hinge", **options).fit(X, LABELS, sample_weight=scaled)
    found = svm(X, LABELS, 0.3, weights=weights)
    assert_allclose(found.coef, peer.coef_[0], atol=1e-5)
    assert_allclose(found.coef, (found.dual * LABELS) @ X, rtol=1e-9)
    peer = LinearSVR(C=0.3, epsilon=0.2, **options).fit(X, TARGETS, sample_weight=scaled)
    found = svr(X, TARGETS, 0.3, 0.2, weights=weights)
    assert_allclose(found.coef, peer.coef_, atol=1e-5)
    within = np.abs(TARGETS - X @ found.coef) < 0.2 - 1e-6
    assert_array_equal(found.dual[within], 0.0)


def test_simplex_is_that_of_a_quadratic_programme():
    C, epsilon = 0.4, 0.05
    cost = lambda z: 0.5 * z[:P] @ z[:P] + C * z[P:].sum()
    slope = lambda z: np.append(z[:P], np.full(N, C))
    both = np.block([[-X, np.eye(N)], [X, np.eye(N)]])
    least = np.concatenate([-MIXED, MIXED]) - epsilon
    constraints = [
        {"type": "ineq", "fun": lambda z: both @ z - least},
        {"type": "eq", "fun": lambda z: z[:P].sum() - 1},
    ]
    start = np.append(np.full(P, 1 / P), np.full(N, 10.0))
    found = minimize(
        cost, start, jac=slope, method="SLSQP", bounds=[(0, None)] * (P + N),
        constraints=constraints, options={"ftol": 1e-13, "maxiter": 1000},
    )  # fmt: skip
    ours = simplex_svr(X, MIXED, C, epsilon)
    assert found.success and ours.converged
    assert_allclose(ours.coef, found.x[:P], atol=1e-5)
    assert_allclose(ours.coef.sum(), 1, atol=1e-8)
    assert ours.coef.min() > -1e-8


@pytest.mark.parametrize("name", ["svm", "svr"])
def test_gap_bounds_the_excess_of_an_unfinished_solution(name):
    solve, y, h = CASES[name]
    best = objective(name, np.asarray(solve(X, y, h, None, tol=1e-14).coef), y, h)
    found = solve(X, y, h, None, max_iter=2)
    excess = objective(name, np.asarray(found.coef), y, h) - best
    assert -1e-12 <= excess <= found.gap + 1e-12
    if not found.converged:
        assert found.gap > 0


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "C, coef, dual, slope",
    [
        (1 / 24, 1 / 6, [1 / 24, 1 / 24], 4.0),
        (1 / 6, 1 / 3, [1 / 6, 1 / 18], 0.0),
        (2 / 3, 2 / 3, [2 / 3, 0.0], 1.0),
        (2.0, 1.0, [1.0, 0.0], 0.0),
    ],
)
def test_two_items_go_through_all_states(C, coef, dual, slope):
    found = svm(TWO, SIGNS, C)
    assert_allclose(found.coef, [coef], rtol=1e-9)
    assert_allclose(found.dual, dual, atol=1e-9)
    assert_allclose(jax.grad(lambda C: svm(TWO, SIGNS, C).coef[0])(C), slope, atol=1e-9)
    assert 0.3 < found.margin < 0.7


@pytest.mark.parametrize("C", [1 / 12, 1 / 3, 1.0])
def test_margin_is_zero_at_knots(C):
    assert svm(TWO, SIGNS, C).margin < 1e-9
    assert 0 < svm(TWO, SIGNS, C + 1e-4).margin < 1e-2


def test_one_feature_that_tells_the_class():
    one = lambda lam: sparse_logistic(TWO / jnp.abs(TWO), SIGNS, lam, tol=1e-15).coef[0]
    for lam in (0.1, 0.4):
        assert_allclose(one(lam), np.log(1 / lam - 1), rtol=1e-6)
        assert_allclose(jax.grad(one)(lam), -1 / (lam * (1 - lam)), rtol=1e-6)
        second = (1 - 2 * lam) / (lam * (1 - lam)) ** 2
        assert_allclose(jax.hessian(one)(lam), second, rtol=1e-5)
    assert one(0.6) == 0 and jax.grad(one)(0.6) == 0


def test_small_weights_leave_all_items_at_their_bound():
    small = lambda C: svm(X, LABELS, C).coef
    assert_allclose(small(1e-4), 1e-4 * LABELS @ X, rtol=1e-9)
    assert_allclose(jax.jacobian(small)(1e-4), LABELS @ X, rtol=1e-9)


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_finite_differences(name):
    solve, y, h = CASES[name]
    key = np.random.default_rng(0)
    probe = key.normal(size=P)
    labels = name in ("logistic", "intercept", "svm")
    weigh = lambda found: probe @ found.coef + getattr(found, "intercept", 0.0) ** 2
    loss = jax.jit(lambda X, y, h, w: weigh(solve(X, y, h, w, tol=1e-14)))
    point = (X, y, jnp.asarray(h), WEIGHTS)
    step = tuple(jnp.asarray(key.normal(size=np.shape(x))) for x in point)
    step = (step[0], jnp.zeros(N) if labels else step[1], 0.1 * step[2], step[3])
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(*point)
    slope = sum(jnp.vdot(g, s) for g, s in zip(grads, step, strict=True))
    move = lambda t: loss(*(x + t * s for x, s in zip(point, step, strict=True)))
    numeric = (move(1e-5) - move(-1e-5)) / 2e-5
    assert abs(numeric) > 1e-3
    assert_allclose(slope, numeric, rtol=1e-4, atol=1e-6)
    _, forward = jax.jvp(lambda h: loss(X, y, h, WEIGHTS), (point[2],), (step[2],))
    assert_allclose(forward, grads[2] * step[2], rtol=1e-7, atol=1e-12)


def test_weighted_losses_of_a_test_set():
    held, truth, given = X[::3], LABELS[::3], jnp.asarray(WEIGHTS[::3])

    def loss(lam):
        found = sparse_logistic(X, LABELS, lam, tol=1e-14)
        return jnp.average(jnp.logaddexp(0.0, -truth * (held @ found.coef)), weights=given)

    value, slope = jax.jit(jax.value_and_grad(loss))(0.04)
    numeric = (loss(0.04 + 1e-6) - loss(0.04 - 1e-6)) / 2e-6
    assert value > 0
    assert_allclose(slope, numeric, rtol=1e-5)
    bend = (jax.grad(loss)(0.04 + 1e-6) - jax.grad(loss)(0.04 - 1e-6)) / 2e-6
    assert_allclose(jax.hessian(loss)(0.04), bend, rtol=1e-4)


def test_a_penalty_for_each_feature():
    lam = jnp.linspace(0.02, 0.06, P)
    J = np.asarray(jax.jacobian(lambda lam: sparse_logistic(X, LABELS, lam, tol=1e-14).coef)(lam))
    rest = np.asarray(sparse_logistic(X, LABELS, lam).coef) == 0
    assert rest.any() and not rest.all()
    assert_array_equal(J[rest], 0.0)
    assert_array_equal(J[:, rest], 0.0)
    assert np.all(np.diag(J)[~rest] * np.sign(sparse_logistic(X, LABELS, lam).coef)[~rest] < 0)


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_vmap_and_jit(name):
    solve, y, h = CASES[name]
    coef = lambda h: solve(X, y, h, None).coef
    several = jnp.asarray([0.5 * h, h, 1.5 * h])
    values, slopes = jax.jit(jax.vmap(lambda h: jax.jvp(coef, (h,), (jnp.ones_like(h),))))(several)
    for k in range(3):
        assert_allclose(values[k], coef(several[k]), atol=1e-7)
        assert_allclose(slopes[k], jax.jacobian(coef)(several[k]), rtol=1e-4, atol=1e-6)


def test_vmap_over_data():
    batch, labels = jnp.stack([X, X[::-1]]), jnp.stack([LABELS, LABELS[::-1]])
    together = jax.vmap(lambda X, y: svm(X, y, 0.3).coef)(batch, labels)
    assert_allclose(together[0], together[1], atol=1e-6)


# --- types and unusual data -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32(name):
    solve, y, h = CASES[name]
    single = (jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32))
    found = solve(*single, h, None, tol=1e-6)
    assert {found.coef.dtype, found.gap.dtype, found.margin.dtype} == {jnp.dtype("float32")}
    assert_allclose(found.coef, solve(X, y, h, None).coef, atol=2e-3)
    if name in ("logistic", "svm"):
        slope = jax.grad(lambda h: solve(*single, h, None, tol=1e-6).coef.sum())(jnp.float32(h))
        assert slope.dtype == jnp.float32 and np.isfinite(slope)


def test_booleans_are_classes():
    assert_array_equal(svm(X, LABELS > 0, 0.3).coef, svm(X, LABELS, 0.3).coef)
    assert_array_equal(
        sparse_logistic(X, LABELS > 0, 0.04).coef, sparse_logistic(X, LABELS, 0.04).coef
    )


@pytest.mark.parametrize("name", CASES)
def test_sparse_is_dense(name):
    solve, y, h = CASES[name]
    thin = np.where(np.abs(X) > 0.7, X, 0.0)
    thin[:, 4] = 0.0
    dense, sparse = solve(thin, y, h, None), solve(scipy.sparse.csr_matrix(thin), y, h, None)
    assert_allclose(sparse.coef, dense.coef, atol=1e-6)
    if name != "simplex":
        assert dense.coef[4] == 0
    if name in ("logistic", "svm"):
        slopes = [
            jax.jacobian(lambda h, D=D: solve(D, y, h, None, tol=1e-13).coef)(h)
            for D in (thin, scipy.sparse.csr_matrix(thin))
        ]
        assert_allclose(slopes[1], slopes[0], atol=1e-5)
        assert slopes[0][4] == 0


def test_all_coefficients_vanish_from_the_largest_penalty_on():
    top = float(lam_max(SparseLogistic(), jnp.asarray(X), jnp.asarray(LABELS)))
    at = sparse_logistic(X, LABELS, top * (1 + 1e-9))
    below = sparse_logistic(X, LABELS, 0.99 * top)
    assert_array_equal(at.coef, 0.0)
    assert np.sum(np.asarray(below.coef) != 0) == 1
    assert_array_equal(jax.jacobian(lambda h: sparse_logistic(X, LABELS, h).coef)(2 * top), 0.0)
    shifted = sparse_logistic(X, LABELS, 10.0, fit_intercept=True)
    share = np.mean(LABELS > 0)
    assert_allclose(shifted.intercept, np.log(share / (1 - share)), atol=1e-5)


def test_duplicates_of_features_and_items():
    twice = np.column_stack([X, X[:, 0]])
    found, single = sparse_logistic(twice, LABELS, 0.04), sparse_logistic(X, LABELS, 0.04)
    assert_allclose(found.coef[0] + found.coef[-1], single.coef[0], atol=1e-5)
    slope = jax.jacobian(lambda h: twice @ sparse_logistic(twice, LABELS, h).coef)(0.04)
    assert np.all(np.isfinite(slope))
    doubled = svm(np.concatenate([X, X]), np.concatenate([LABELS, LABELS]), 0.15)
    assert_allclose(doubled.coef, svm(X, LABELS, 0.3).coef, atol=1e-5)


def test_more_features_than_items():
    wide = np.random.default_rng(1).normal(size=(20, 300))
    labels = np.where(wide[:, 0] > 0, 1.0, -1.0)
    lam = 0.1 * float(lam_max(SparseLogistic(), jnp.asarray(wide), jnp.asarray(labels)))
    found = sparse_logistic(wide, labels, lam)
    assert found.converged and 0 < np.sum(np.asarray(found.coef) != 0) <= 20
    hard = svm(wide, labels, 1e3)  # separable: the margin is hard
    assert hard.converged
    assert_allclose(np.min(labels * (wide @ hard.coef)), 1, atol=1e-4)
    slope = jax.jacobian(lambda C: svm(wide, labels, C).coef)(1e3)
    assert_allclose(slope, np.zeros(300), atol=1e-9)


def test_weights_of_zero_leave_items_out():
    weights = np.where(np.arange(N) < 16, 1.0, 0.0)
    for name in ("logistic", "intercept"):
        solve, y, h = CASES[name]
        assert_allclose(
            solve(X, y, h, weights).coef, solve(X[:16], y[:16], h, None).coef, atol=1e-5
        )
    scaled = svm(X, LABELS, 0.3, weights=weights)  # weights have the mean one
    assert_allclose(scaled.coef, svm(X[:16], LABELS[:16], 0.3 * N / 16).coef, atol=1e-5)
    assert_array_equal(scaled.dual[16:], 0.0)


def test_a_start_at_the_solution_takes_no_longer():
    cold = sparse_logistic(X, LABELS, 0.04)
    warm = sparse_logistic(X, LABELS, 0.04, init=(cold.coef, cold.intercept))
    assert warm.num_iter <= cold.num_iter
    assert_allclose(warm.coef, cold.coef, atol=1e-6)


# --- the certified bound --------------------------------------------------------------------------


@pytest.mark.parametrize("model, lam", [(SparseLogistic(True), 0.04), (SVM(), 0.3)])
def test_bound_holds_and_is_linear_in_the_error(model, lam):
    criterion = HeldOut(X[:16], LABELS[:16], X[16:], LABELS[16:])
    best = hypergradient(criterion, model, lam, tol=1e-16)
    state, ratios = None, []
    for _ in range(25):
        state = hypergradient(
            criterion, model, lam, method="forward", tol=0.0, max_iter=8, init=state
        ).state
        early = hypergradient(criterion, model, lam, tol=0.0, max_iter=0, init=state[:2])
        certificate = hypergradient_error_bound(criterion, model, lam, early)
        distance = np.linalg.norm(np.asarray(early.state.solution - best.state.solution))
        error = abs(float(early.grad - best.grad))
        assert error <= certificate.error + 1e-12
        assert distance <= certificate.solution_error + 1e-12
        if certificate.identified and distance > 1e-10:
            ratios.append(float(certificate.error) / distance)
    assert len(ratios) >= 2
    assert max(ratios) < 30 * min(ratios)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: svm(X, np.arange(N) % 2, 1.0), ValueError, "y must hold -1 and 1"),
        (lambda: sparse_logistic(X, TARGETS, 0.1), ValueError, "y must hold -1 and 1"),
        (lambda: svm(X, LABELS, 0.0), ValueError, "C must be"),
        (lambda: svr(X, TARGETS, -1.0, 0.1), ValueError, "C must be"),
        (lambda: svr(X, TARGETS, 1.0, -0.1), ValueError, "lam must|epsilon must"),
        (lambda: sparse_logistic(X, LABELS, -0.1), ValueError, "lam must"),
        (lambda: sparse_logistic(X, LABELS, np.ones(3)), ValueError, "lam must"),
        (lambda: svm(X, LABELS[:-1], 1.0), ValueError, "y must have shape"),
        (lambda: svm(X[0], LABELS, 1.0), ValueError, "X must have shape"),
        (lambda: svm(X, LABELS, 1.0, weights=-WEIGHTS), ValueError, "weights must"),
        (lambda: svm(X, LABELS, 1.0, weights=WEIGHTS[1:]), ValueError, "weights must"),
        (lambda: svm(X, LABELS, 1.0, tol=0.0), ValueError, "tol must"),
        (lambda: svm(X, LABELS, 1.0, max_iter=0), ValueError, "max_iter must"),
        (lambda: svm(X, LABELS, "much"), TypeError, "C must"),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
