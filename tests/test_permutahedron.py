"""Projections on the permutahedron against all its faces, all its vertices, and QP solvers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal, assert_array_max_ulp
from scipy.optimize import isotonic_regression, minimize

from diffopt import project_permutahedron

N = 4
rng = np.random.default_rng(0)
# Generic pairs, then ties in theta, ties in w, everything tied, zeros in w, far and near points.
THETA = np.stack(
    [
        *rng.normal(size=(4, N)) * 2,
        np.array([1.0, 1.0, 0.0, 0.0]),
        np.array([0.5, 2.0, 0.5, -1.0]),
        np.full(N, 0.7),
        rng.normal(size=N),
        rng.normal(size=N) * 30,
        rng.normal(size=N) / 30,
    ]
)
W = np.stack(
    [
        *rng.uniform(0.2, 3.0, size=(4, N)),
        np.array([1.0, 2.0, 3.0, 4.0]),
        np.array([2.0, 2.0, 1.0, 1.0]),
        np.full(N, 1.3),
        np.array([1.0, 0.0, 1.0, 0.0]),
        np.array([0.0, 3.0, 0.0, 0.0]),
        rng.uniform(0.2, 3.0, size=N),
    ]
)
GENERIC = slice(0, 4)
regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])


@partial(jax.jit, static_argnames="regularization")
def project(theta, w, regularization="l2"):
    return project_permutahedron(theta, w, regularization=regularization)


# -------------------------------------------------------------------------------- the oracles


@regularizations
def test_the_references_agree_with_each_other(regularization):
    for theta, w in zip(THETA, W, strict=True):
        mu = oracles.project_by_faces(theta, w, regularization)
        assert_allclose(mu, oracles.project_by_minmax(theta, w, regularization), atol=1e-12)
        if mu.min() > 0:
            gap = oracles.duality_gap(mu, theta, w, regularization)
            by_vertices = oracles.duality_gap_by_vertices(mu, theta, w, regularization)
            assert_allclose(gap, by_vertices, atol=1e-10)
            assert abs(gap) < 1e-10
            # A wrong point must not get a certificate.
            worse = 0.9 * mu + 0.1 * w.mean()
            if np.abs(worse - mu).max() > 1e-6:
                assert oracles.duality_gap(worse, theta, w, regularization) > 1e-9


# ------------------------------------------------------------------------------------- values


@regularizations
def test_the_projection_is_the_best_point_of_all_faces(regularization):
    got = np.asarray(project(THETA, W, regularization))
    for mu, theta, w in zip(got, THETA, W, strict=True):
        assert_allclose(mu, oracles.project_by_faces(theta, w, regularization), atol=1e-12)


@regularizations
def test_against_a_general_solver(regularization):
    """SLSQP on Rado's inequalities, which knows nothing of sorting or pooling."""
    for theta, w in zip(THETA[GENERIC], W[GENERIC], strict=True):
        top = np.cumsum(np.sort(w)[::-1])
        subsets = (np.arange(1, 2**N - 1)[:, None] >> np.arange(N)) & 1
        bounds = top[subsets.sum(1) - 1]
        solution = minimize(
            lambda mu, theta=theta: oracles.objective(mu, theta, regularization),
            np.full(N, w.mean()),
            method="SLSQP",
            bounds=[(1e-9, None)] * N,
            constraints=[
                {"type": "eq", "fun": lambda mu, total=top[-1]: mu.sum() - total},
                {"type": "ineq", "fun": lambda mu, s=subsets, b=bounds: b - s @ mu},
            ],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert_allclose(project(theta, w, regularization), solution.x, atol=2e-6)


@regularizations
@pytest.mark.parametrize("spread", [1e-3, 1.0, 100.0])
def test_long_rows_have_a_certificate(regularization, spread):
    n = 1000
    random = np.random.default_rng(4)
    theta, w = random.normal(size=n) * spread, random.uniform(0.1, 5.0, size=n)
    mu = np.asarray(project(theta, w, regularization))
    assert_allclose(mu.sum(), w.sum(), rtol=1e-13)
    assert np.all(np.cumsum(np.sort(mu)[::-1]) <= np.cumsum(np.sort(w)[::-1]) * (1 + 1e-12))
    assert mu.min() > 0
    assert oracles.duality_gap(mu, theta, w, regularization) < 1e-9 * np.abs(theta).max() * w.sum()
    if regularization == "l2":
        order = np.argsort(-theta)
        s = theta[order]
        dual = isotonic_regression(s - np.sort(w)[::-1], increasing=False).x
        assert_allclose(mu[order], s - dual, atol=1e-10)


def test_by_hand():
    # Two points: the segment from (1, 2) to (2, 1); theta below the line, left of its end, inside.
    w = jnp.array([1.0, 2.0])
    assert_array_equal(project_permutahedron(jnp.array([0.0, 0.0]), w), [1.5, 1.5])
    assert_array_equal(project_permutahedron(jnp.array([0.0, 9.0]), w), [1.0, 2.0])
    assert_array_equal(project_permutahedron(jnp.array([0.25, 0.75]), w), [1.25, 1.75])
    # With one non-zero weight the permutahedron is a simplex, and KL is the softmax.
    theta = THETA[0]
    simplex = project_permutahedron(theta, 3.0 * np.eye(N)[1], regularization="kl")
    assert_allclose(simplex, 3.0 * jax.nn.softmax(theta), rtol=1e-14)
    # L2 on the simplex: sparsemax, with its published value.
    sparse = project_permutahedron(np.array([-2.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.0]))
    assert_allclose(sparse, [0.0, 0.25, 0.75], atol=1e-15)


@regularizations
def test_the_order_of_w_does_not_matter(regularization):
    shuffled = np.random.default_rng(5).permuted(W, axis=1)
    assert_array_equal(project(THETA, shuffled, regularization), project(THETA, W, regularization))


@regularizations
def test_far_points_are_sent_to_vertices(regularization):
    """A block of one item is its weight, to the last digit, at any scale of theta."""
    w = np.arange(1.0, 8.0)
    for dtype in (np.float32, np.float64):
        for scale in (1e2, 1e5, 1e9, 1e30):
            theta = (np.array([3, 1, 4, 2, 7, 6, 5]) * scale).astype(dtype)
            got = project_permutahedron(theta, w.astype(dtype), regularization=regularization)
            expected = np.array([3, 1, 4, 2, 7, 6, 5], dtype)
            assert_array_max_ulp(got, expected, 0 if regularization == "l2" else 2)


# -------------------------------------------------------------------------------- derivatives


@regularizations
def test_jacobians_in_theta_and_w_are_those_of_the_faces(regularization):
    function = partial(project, regularization=regularization)
    in_theta, in_w = jax.jit(jax.vmap(jax.jacrev(function, argnums=(0, 1))))(THETA, W)
    for k in range(4):
        reference = partial(oracles.project_by_faces, regularization=regularization)
        expected = oracles.jacobian(lambda t, f=reference, k=k: f(t, W[k]), THETA[k])
        assert_allclose(in_theta[k], expected, atol=2e-8)
        expected = oracles.jacobian(lambda w, f=reference, k=k: f(THETA[k], w), W[k])
        assert_allclose(in_w[k], expected, atol=2e-8)


@regularizations
def test_ties_in_theta_are_smooth_where_w_is_strict(regularization):
    """Tied items share a block whenever their weights differ, so there is no kink."""
    theta, w = THETA[4], W[4]
    function = partial(project, regularization=regularization)
    got = jax.jit(jax.jacfwd(function, argnums=(0, 1)))(theta, w)
    reference = partial(oracles.project_by_faces, regularization=regularization)
    assert_allclose(got[0], oracles.jacobian(lambda t: reference(t, w), theta), atol=2e-8)
    assert_allclose(got[1], oracles.jacobian(lambda w: reference(theta, w), w), atol=2e-8)


@regularizations
def test_both_modes_agree_everywhere(regularization):
    function = partial(project, regularization=regularization)
    forward = jax.jit(jax.vmap(jax.jacfwd(function, argnums=(0, 1))))(THETA, W)
    reverse = jax.jit(jax.vmap(jax.jacrev(function, argnums=(0, 1))))(THETA, W)
    for a, b in zip(forward, reverse, strict=True):
        assert np.isfinite(a).all()
        assert_allclose(a, b, atol=1e-12)
    assert_allclose(forward[0].sum(1), np.zeros_like(W), atol=1e-12)  # the sum stays sum(w)
    assert_allclose(forward[1].sum(1), np.ones_like(W), atol=1e-12)
    assert_allclose(forward[0], np.swapaxes(forward[0], 1, 2), atol=1e-12)  # a Hessian


@regularizations
def test_second_order_in_both_modes(regularization):
    function = partial(project, regularization=regularization)
    args = (THETA[:2], W[:2])
    check_grads(function, args, order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@regularizations
def test_danskin(regularization):
    """max_{mu in P(w)} <theta, mu> - Omega(mu) has gradient mu, and theta - Omega'(mu) in w."""

    def value(theta, w):
        mu = project(theta, w, regularization)
        return jnp.vdot(theta, mu) - jnp.sum(
            0.5 * mu**2 if regularization == "l2" else mu * jnp.log(mu) - mu
        )

    positive = [k for k in range(len(W)) if W[k].min() > 0]
    theta, w = THETA[positive], W[positive]
    in_theta, in_w = jax.jit(jax.vmap(jax.grad(value, argnums=(0, 1))))(theta, w)
    mu = np.asarray(project(theta, w, regularization))
    assert_allclose(in_theta, mu, atol=1e-12)
    slope = theta - (mu if regularization == "l2" else np.log(mu))
    # w_(i) multiplies the i-th largest slope; items of tied w may swap theirs, so compare sorted.
    order = np.argsort(-theta, axis=-1, kind="stable")
    for k in range(len(w)):
        got = np.asarray(in_w[k])[np.argsort(-w[k], kind="stable")]
        expected = slope[k][order[k]]
        if len(set(w[k])) == N:
            assert_allclose(got, expected, atol=1e-12)
        assert_allclose(np.sort(got), np.sort(expected), atol=1e-12)


# --------------------------------------------------------------------------- shapes and types


@regularizations
def test_any_axis(regularization):
    theta, w = rng.normal(size=(2, N, 3)), rng.uniform(0.5, 2, size=(2, N, 3))
    call = partial(project_permutahedron, regularization=regularization)
    got = call(theta, w, axis=1)
    assert got.shape == theta.shape
    expected = call(np.moveaxis(theta, 1, -1), np.moveaxis(w, 1, -1))
    assert_array_equal(np.moveaxis(got, 1, -1), expected)
    assert_array_equal(call(theta, w, axis=-2), got)


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (1, 0), (-1, 1)])
def test_vmap_with_each_combination_of_axes(in_axes):
    batch = [THETA[:4], W[:4]]
    pairs = list(zip(batch, in_axes, strict=True))
    full = [np.broadcast_to(a[0], a.shape) if ax is None else a for a, ax in pairs]
    args = [a[0] if ax is None else np.moveaxis(a, 0, ax) for a, ax in pairs]
    assert_allclose(jax.vmap(project, in_axes)(*args), project(*full), atol=1e-14)


@regularizations
def test_one_w_for_the_whole_batch(regularization):
    call = partial(project_permutahedron, regularization=regularization)
    tiled = np.tile(W[0], (4, 1))
    assert_allclose(call(THETA[:4], W[0]), call(THETA[:4], tiled), rtol=1e-15)
    assert_allclose(call(THETA[:4].T, W[0], axis=0).T, call(THETA[:4], tiled), rtol=1e-15)
    loss = lambda w: jnp.vdot(np.cos(THETA[:4]), call(THETA[:4], w))
    assert_allclose(jax.grad(loss)(W[0]), jax.grad(loss)(tiled).sum(0), atol=1e-13)


def test_nested_vmap_and_jacobians_under_vmap():
    theta, w = THETA[:4].reshape(2, 2, N), W[:4].reshape(2, 2, N)
    nested = jax.vmap(jax.vmap(project, (0, 0), 1), (1, 1), 2)(theta, w)  # out: (N, inner, outer)
    assert_allclose(nested.transpose(1, 2, 0), project(theta, w), atol=1e-14)
    stacked = jax.vmap(jax.jacfwd(project, argnums=1), (0, None))(THETA[:3], W[0])
    for k in range(3):
        assert_allclose(stacked[k], jax.jacrev(project, argnums=1)(THETA[k], W[0]), atol=1e-12)


@regularizations
def test_degenerate_shapes(regularization):
    call = partial(project_permutahedron, regularization=regularization)
    theta, w = np.array([[5.0], [-2.0]]), np.array([[0.25], [3.0]])
    assert_allclose(call(theta, w), w, rtol=1e-15)
    assert_allclose(jax.jacfwd(call, argnums=1)(theta[0], w[0]), [[1.0]], rtol=1e-15)
    assert_allclose(jax.jacrev(call, argnums=0)(theta[0], w[0]), [[0.0]], atol=1e-15)
    for shape in [(0, 4), (3, 0), (0,)]:
        empty = np.zeros(shape)
        assert call(empty, empty).shape == shape
        assert jax.grad(lambda t: call(t, t).sum())(empty).shape == shape


@regularizations
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_type_that_comes_in_goes_out(regularization, name):
    dtype = jnp.dtype(name)
    theta, w = jnp.asarray(THETA[:2], dtype), jnp.asarray(W[:2], dtype)
    got = project_permutahedron(theta, w, regularization=regularization)
    assert got.dtype == dtype
    expected = [
        oracles.project_by_faces(np.float64(theta[k]), np.float64(w[k]), regularization)
        for k in range(2)
    ]
    assert_allclose(np.float64(got), expected, rtol=4 * float(jnp.finfo(dtype).eps))
    in_w = jax.grad(lambda w: project_permutahedron(theta, w)[0, 0])(w)
    assert in_w.dtype == dtype


def test_integers_are_promoted():
    got = project_permutahedron(jnp.array([9, 0, 5]), jnp.array([1, 2, 3]))
    assert got.dtype == jnp.float64
    assert_array_equal(got, [3.0, 1.0, 2.0])


# --------------------------------------------------------------------------------- edge cases


@regularizations
def test_infinite_theta_is_a_limit(regularization):
    inf = np.inf
    theta = np.array([[0.0, inf, -inf, 0.3], [inf, inf, 0.0, 0.3], [0.0, -inf, 0.3, -inf]])
    theta = np.stack([*theta, np.full(N, inf), np.full(N, -inf), [inf, -inf, inf, -inf]])
    w = np.array([1.0, 2.0, 3.0, 4.0])
    finite = np.array([0.0, 0.3])
    pair = lambda *w: oracles.project_by_faces(finite, np.array(w), regularization)
    expected = np.empty_like(theta)
    expected[0, [1, 2]], expected[0, [0, 3]] = [4.0, 1.0], pair(2.0, 3.0)
    expected[1, [0, 1]], expected[1, [2, 3]] = 3.5, pair(1.0, 2.0)
    expected[2, [1, 3]], expected[2, [0, 2]] = 1.5, pair(3.0, 4.0)
    expected[3:5] = 2.5
    expected[5] = [3.5, 1.5, 3.5, 1.5]
    call = partial(project_permutahedron, regularization=regularization)
    got = call(theta, np.broadcast_to(w, theta.shape))
    assert_allclose(got, expected, rtol=1e-14)


@regularizations
def test_infinite_theta_has_no_gradient_and_spoils_none(regularization):
    inf = np.inf
    call = partial(project_permutahedron, regularization=regularization)
    theta, w = np.array([0.0, inf, -inf, 0.3]), np.array([1.0, 2.0, 3.0, 4.0])
    expected = np.zeros((N, N))
    inner = jax.jacrev(call)(np.array([0.0, 0.3]), np.array([2.0, 3.0]))
    expected[np.ix_([0, 3], [0, 3])] = inner
    for jacobian in (jax.jacfwd, jax.jacrev):
        assert_allclose(jacobian(call)(theta, w), expected, atol=1e-14)
    in_w = np.asarray(jax.jacrev(call, argnums=1)(theta, w))
    assert np.isfinite(in_w).all()
    assert_allclose(in_w[1], [0, 0, 0, 1], atol=1e-15)
    assert_allclose(in_w[2], [1, 0, 0, 0], atol=1e-15)


@regularizations
def test_nan_spoils_its_own_row_and_no_other(regularization):
    call = partial(project, regularization=regularization)
    clean = np.asarray(call(THETA, W))
    for bad in (0, 1):
        args = [THETA.copy(), W.copy()]
        args[bad][2, 1] = np.nan
        got = np.asarray(call(*args))
        assert np.isnan(got[2]).all()
        assert_array_equal(np.delete(got, 2, 0), np.delete(clean, 2, 0))


@regularizations
def test_huge_and_tiny_scales(regularization):
    call = partial(project, regularization=regularization)
    shift = np.array([1e9])
    assert_allclose(call(THETA + shift, W), call(THETA, W), rtol=1e-6, atol=1e-6)
    assert_allclose(call(THETA * 1e9, W), call(THETA * 1e4, W), rtol=1e-13, atol=1e-13)
    expected = oracles_for(THETA, W * 1e9, regularization)
    assert_allclose(call(THETA, W * 1e9), expected, rtol=1e-12, atol=1e-3)
    assert np.isfinite(jax.jit(jax.vmap(jax.jacrev(call)))(THETA * 1e9, W)).all()


def oracles_for(theta, w, regularization):
    return [oracles.project_by_faces(t, a, regularization) for t, a in zip(theta, w, strict=True)]


def test_kl_keeps_its_digits_in_float32():
    """exp(s - v) cancels where s is large; softmax(s_block) * sum(w_block) does not."""
    theta = np.float32([[0, 1e4, 1e4, 3e4], [-5e4, 1e5, 1e5, 1e5]])
    w = np.float32([[4, 1, 3, 2]] * 2)
    got = project_permutahedron(theta, w, regularization="kl")
    assert_allclose(got, [[1, 2.5, 2.5, 4], [1, 3, 3, 3]], rtol=5e-7)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: project_permutahedron(1.0, 2.0), "theta"),
        (lambda: project_permutahedron(THETA * 1j, W), "theta"),
        (lambda: project_permutahedron(THETA, W[:, :-1]), "w"),
        (lambda: project_permutahedron(THETA, W * 1j), "w"),
        (lambda: project_permutahedron(THETA, W, axis=2), "axis"),
        (lambda: project_permutahedron(THETA, W, axis=1.0), "axis"),
        (lambda: project_permutahedron(THETA, W, regularization="L2"), "regularization"),
        (lambda: project_permutahedron(THETA, W, regularization=None), "regularization"),
    ],
)
def test_wrong_use_names_the_argument(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        call()
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        jax.jit(call)()  # at trace time too
