"""Isotonic regression against the min-max formula, SciPy, scikit-learn and its optimality."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import isotonic_regression
from scipy.special import logsumexp
from sklearn.isotonic import IsotonicRegression

from diffopt import isotonic_kl, isotonic_l2

N = 9
rng = np.random.default_rng(0)
# Generic rows, then the awkward ones: sorted, reversed, constant, ties, a sawtooth, one outlier.
Y = np.stack(
    [
        *rng.normal(size=(4, N)),
        np.arange(N) / 2,
        -np.arange(N) / 2,
        np.full(N, 1.5),
        np.array([2, 2, 1, 1, 1, 3, 3, 0, 0]) * 1.0,
        np.resize([1.0, -1.0], N),
        np.where(np.arange(N) == 4, 50.0, 0.0),
    ]
)
W = np.stack([*rng.normal(size=(len(Y) - 2, N)), np.zeros(N), -np.arange(N) / 3])
WEIGHTS = rng.uniform(0.2, 3.0, size=Y.shape)
GENERIC = slice(0, 4)
both_ways = pytest.mark.parametrize("increasing", [True, False])


@partial(jax.jit, static_argnames="increasing")
def l2(y, weights, increasing=True):
    return isotonic_l2(y, weights=weights, increasing=increasing)


@partial(jax.jit, static_argnames="increasing")
def kl(y, w, increasing=True):
    return isotonic_kl(y, w, increasing=increasing)


# ------------------------------------------------------------------------------------- values


@both_ways
def test_l2_is_the_minmax_formula_scipy_and_sklearn(increasing):
    got = jax.jit(partial(isotonic_l2, increasing=increasing))(Y)
    for row, y in zip(np.asarray(got), Y, strict=True):
        assert_allclose(row, oracles.isotonic_l2(y, increasing=increasing), atol=1e-12)
        assert_allclose(row, isotonic_regression(y, increasing=increasing).x, atol=1e-12)
        fit = IsotonicRegression(increasing=increasing).fit_transform(np.arange(N), y)
        assert_allclose(row, fit, atol=1e-12)


@both_ways
def test_l2_with_weights(increasing):
    got = np.asarray(l2(Y, WEIGHTS, increasing))
    for row, y, weights in zip(got, Y, WEIGHTS, strict=True):
        assert_allclose(row, oracles.isotonic_l2(y, weights, increasing), atol=1e-12)
        expected = isotonic_regression(y, weights=weights, increasing=increasing).x
        assert_allclose(row, expected, atol=1e-12)


@both_ways
def test_kl_is_the_minmax_formula_and_optimal(increasing):
    got = np.asarray(kl(Y, W, increasing))
    for v, y, w in zip(got, Y, W, strict=True):
        scale = np.exp(w).sum()
        assert_allclose(v, oracles.isotonic_kl(y, w, increasing), atol=1e-12 * max(1, np.ptp(y)))
        gradient = np.exp(w) - np.exp(y - v)
        assert oracles.isotonic_violation(v, gradient, increasing) < 1e-12 * scale


def test_whole_numbers_by_hand():
    assert_array_equal(isotonic_l2(jnp.array([3.0, 1.0, 2.0])), [2.0, 2.0, 2.0])
    assert_array_equal(isotonic_l2(jnp.array([1.0, 3.0, 2.0])), [1.0, 2.5, 2.5])
    weighted = isotonic_l2(jnp.array([1.0, 3.0, 2.0]), weights=jnp.array([1.0, 1.0, 3.0]))
    assert_array_equal(weighted, [1.0, 2.25, 2.25])
    level = isotonic_kl(jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]))
    assert_allclose(level, np.full(2, logsumexp([2, 0]) - logsumexp([0, 1])), rtol=1e-15)


@both_ways
@pytest.mark.parametrize("shape", ["random", "trend", "against"])
def test_long_rows_are_optimal(increasing, shape):
    n = 3000
    slope = {"random": 0.0, "trend": 1.0, "against": -1.0}[shape] * (1 if increasing else -1)
    y = np.random.default_rng(1).normal(size=n) + slope * np.linspace(0, 3, n)
    w = np.random.default_rng(2).normal(size=n)
    v = np.asarray(jax.jit(partial(isotonic_l2, increasing=increasing))(y))
    assert_allclose(v, isotonic_regression(y, increasing=increasing).x, atol=1e-12)
    v = np.asarray(kl(y, w, increasing))
    gradient = np.exp(w) - np.exp(y - v)
    assert oracles.isotonic_violation(v, gradient, increasing) < 1e-10


def test_float32_stays_accurate_on_a_long_row():
    y = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    expected = isotonic_regression(y.astype(np.float64)).x
    assert_allclose(isotonic_l2(y), expected, atol=3e-6)


# -------------------------------------------------------------------------------- derivatives


@both_ways
def test_l2_jacobians_are_those_of_the_minmax_formula(increasing):
    jacobians = jax.jit(jax.vmap(jax.jacrev(partial(l2, increasing=increasing), argnums=(0, 1))))
    in_y, in_weights = jacobians(Y[GENERIC], WEIGHTS[GENERIC])
    reference = lambda y, a: oracles.isotonic_l2(y, a, increasing)
    for k in range(4):
        expected = oracles.jacobian(lambda y, k=k: reference(y, WEIGHTS[k]), Y[k])
        assert_allclose(in_y[k], expected, atol=1e-8)
        expected = oracles.jacobian(lambda a, k=k: reference(Y[k], a), WEIGHTS[k])
        assert_allclose(in_weights[k], expected, atol=1e-8)


@both_ways
def test_kl_jacobians_are_those_of_the_minmax_formula(increasing):
    jacobians = jax.jit(jax.vmap(jax.jacrev(partial(kl, increasing=increasing), argnums=(0, 1))))
    in_y, in_w = jacobians(Y[GENERIC], W[GENERIC])
    reference = lambda y, w: oracles.isotonic_kl(y, w, increasing)
    for k in range(4):
        expected = oracles.jacobian(lambda y, k=k: reference(y, W[k]), Y[k])
        assert_allclose(in_y[k], expected, atol=1e-8)
        expected = oracles.jacobian(lambda w, k=k: reference(Y[k], w), W[k])
        assert_allclose(in_w[k], expected, atol=1e-8)


@pytest.mark.parametrize("operator", [l2, kl], ids=["l2", "kl"])
def test_second_order_in_both_modes(operator):
    second = WEIGHTS[:2] if operator is l2 else W[:2]
    check_grads(operator, (Y[:2], second), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("operator", [l2, kl], ids=["l2", "kl"])
def test_both_modes_agree_also_at_ties(operator):
    """At a kink any element of the generalised Jacobian will do, but the same one in both modes."""
    second = WEIGHTS if operator is l2 else W
    forward = jax.jit(jax.vmap(jax.jacfwd(operator, argnums=(0, 1))))(Y, second)
    reverse = jax.jit(jax.vmap(jax.jacrev(operator, argnums=(0, 1))))(Y, second)
    for a, b in zip(forward, reverse, strict=True):
        assert np.isfinite(a).all()
        assert_allclose(a, b, atol=1e-12)
    assert_allclose(forward[0].sum(-1), np.ones_like(Y), atol=1e-12)  # v(y + c) = v(y) + c
    if operator is kl:
        assert_allclose(forward[1].sum(-1), -np.ones_like(Y), atol=1e-12)  # v(y, w + c) = v - c


def test_l2_has_no_curvature_and_kl_has_the_right_one():
    u = np.cos(np.arange(N))
    flat = jax.jit(jax.hessian(lambda y: jnp.dot(u, isotonic_l2(y))))(Y[0])
    assert_array_equal(flat, np.zeros((N, N)))
    curved = jax.jit(jax.hessian(lambda y: jnp.dot(u, kl(y, W[0]))))(Y[0])
    gradient = jax.jit(jax.grad(lambda y: jnp.dot(u, kl(y, W[0]))))
    assert_allclose(curved, oracles.jacobian(gradient, Y[0]), atol=1e-7)
    assert np.abs(curved).max() > 1e-3


# --------------------------------------------------------------------------- shapes and types


def test_any_axis_and_any_number_of_batch_axes():
    y = rng.normal(size=(2, N, 3))
    w = rng.normal(size=(2, N, 3))
    move = lambda a: np.moveaxis(a, 1, -1)
    got = isotonic_l2(y, axis=1)
    assert got.shape == y.shape
    assert_array_equal(move(got), isotonic_l2(move(y)))
    assert_array_equal(isotonic_l2(y, axis=-2), got)
    weighted = isotonic_l2(y, weights=np.exp(w), axis=1)
    assert_array_equal(move(weighted), isotonic_l2(move(y), weights=np.exp(move(w))))
    assert_array_equal(move(isotonic_kl(y, w, axis=1)), isotonic_kl(move(y), move(w)))


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (1, 0), (-1, 1)])
@pytest.mark.parametrize("operator", [l2, kl], ids=["l2", "kl"])
def test_vmap_with_each_combination_of_axes(operator, in_axes):
    second = WEIGHTS if operator is l2 else W
    batch = [Y[:4], second[:4]]
    expected = operator(
        *(np.broadcast_to(a[0], a.shape) if ax is None else a
          for a, ax in zip(batch, in_axes, strict=True))
    )  # fmt: skip
    args = [
        a[0] if ax is None else np.moveaxis(a, 0, ax) for a, ax in zip(batch, in_axes, strict=True)
    ]
    assert_allclose(jax.vmap(operator, in_axes)(*args), expected, atol=1e-14)


def test_nested_vmap_and_vmap_of_grad():
    y, w = Y[:4].reshape(2, 2, N), W[:4].reshape(2, 2, N)
    nested = jax.vmap(jax.vmap(kl, (0, 0)), (1, 1), 1)
    assert_allclose(nested(y, w), kl(y, w), atol=1e-14)
    u = np.cos(np.arange(N))
    loss = lambda y, w: jnp.dot(u, kl(y, w))
    per_row = jax.vmap(jax.grad(loss))(Y[:4], W[:4])
    together = jax.grad(lambda y: jnp.tensordot(kl(y, W[:4]), u, 1) @ np.ones(4))(Y[:4])
    assert_allclose(per_row, together, atol=1e-14)


def test_degenerate_shapes():
    one = np.array([[2.0], [-3.0]])
    assert_array_equal(isotonic_l2(one), one)
    assert_array_equal(isotonic_l2(one, weights=one**2), one)
    assert_allclose(isotonic_kl(one, 2 * one), -one, rtol=1e-15)
    assert_array_equal(jax.jacfwd(isotonic_l2)(one[0]), [[1.0]])
    for shape in [(0, 4), (3, 0), (0,), (2, 0, 4)]:
        empty = np.zeros(shape)
        assert isotonic_l2(empty).shape == shape
        assert isotonic_l2(empty, weights=empty).shape == shape
        assert isotonic_kl(empty, empty).shape == shape
        assert jax.grad(lambda y: isotonic_l2(y).sum())(empty).shape == shape


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_type_that_comes_in_goes_out(name):
    dtype = jnp.dtype(name)
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    y, w, weights = (jnp.asarray(a[:2], dtype) for a in (Y, W, WEIGHTS))
    exact = [np.asarray(a, np.float64) for a in (y, w, weights)]
    got = isotonic_l2(y, weights=weights)
    assert got.dtype == dtype
    expected = [oracles.isotonic_l2(exact[0][k], exact[2][k]) for k in range(2)]
    assert_allclose(np.asarray(got, np.float64), expected, atol=tolerance)
    got = isotonic_kl(y, w)
    assert got.dtype == dtype
    expected = [oracles.isotonic_kl(exact[0][k], exact[1][k]) for k in range(2)]
    assert_allclose(np.asarray(got, np.float64), expected, atol=tolerance)
    gradient = jax.grad(lambda y: isotonic_kl(y, w).sum())(y)
    assert gradient.dtype == dtype


def test_integers_are_promoted():
    got = isotonic_l2(jnp.array([3, 1, 2]))
    assert got.dtype == jnp.float64
    assert_array_equal(got, [2.0, 2.0, 2.0])


# --------------------------------------------------------------------------------- edge cases


def test_infinite_values_are_limits():
    inf = np.inf
    y = np.array([[-inf, 1.0, 0.0, inf], [0.0, 2.0, 1.0, inf], [1.0, inf, 3.0, 2.0]])
    expected = [[-inf, 0.5, 0.5, inf], [0.0, 1.5, 1.5, inf], [1.0, inf, inf, inf]]
    assert_array_equal(isotonic_l2(y), expected)
    # exp(-inf) = 0: no mass in y pulls down as far as it may, no mass in w pulls up.
    y = np.array([[-inf, 0.0, 1.0, 0.5], [0.0, 1.0, 2.0, -inf], [0.0, 1.0, 2.0, 3.0]])
    w = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 2.0], [0.0, -inf, 0.0, 1.0]])
    with np.errstate(invalid="ignore"):
        expected = [oracles.isotonic_kl(*pair) for pair in zip(y, w, strict=True)]
    assert_allclose(isotonic_kl(y, w), expected, atol=1e-14)


def test_gradients_beside_infinite_values_are_finite():
    y = np.array([-np.inf, 1.0, 0.0, np.inf])
    u = np.array([1.0, 2.0, 5.0, 7.0])
    gradient = np.asarray(jax.grad(lambda y: jnp.dot(u[1:3], isotonic_l2(y)[1:3]))(y))
    assert_allclose(gradient, [0.0, 3.5, 3.5, 0.0], atol=1e-15)
    # Both infinite entries are on their own: the rows of the finite ones stay clean.
    jacobian = np.asarray(jax.jacfwd(isotonic_l2)(y))
    assert np.isfinite(jacobian).all()
    assert_allclose(jacobian[1:3], [[0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0]], atol=1e-15)


def test_broadcasting_of_weights():
    weights = WEIGHTS[0]
    tiled = np.tile(weights, (len(Y), 1))
    assert_array_equal(isotonic_l2(Y, weights=weights), isotonic_l2(Y, weights=tiled))
    assert_array_equal(isotonic_kl(Y, weights), isotonic_kl(Y, tiled))
    in_weights = jax.grad(lambda a: jnp.vdot(np.cos(Y), isotonic_l2(Y, weights=a)))(weights)
    expected = jax.grad(lambda a: jnp.vdot(np.cos(Y), isotonic_l2(Y, weights=a)))(tiled).sum(0)
    assert_allclose(in_weights, expected, atol=1e-13)


def test_nan_spoils_its_own_row_and_no_other():
    y = Y.copy()
    y[1, 3] = np.nan
    pairs = [(isotonic_l2(y), isotonic_l2(Y)), (kl(y, W), kl(Y, W)), (kl(W, y), kl(W, Y))]
    for got, clean in pairs:
        assert np.isnan(got[1]).all()
        assert_array_equal(np.delete(got, 1, 0), np.delete(clean, 1, 0))


def test_huge_scales():
    y = Y * 1e9
    for row, y_row in zip(np.asarray(isotonic_l2(y)), y, strict=True):
        assert_allclose(row, oracles.isotonic_l2(y_row), rtol=1e-13, atol=1e-5)
    # exp(1e9) overflows, the levels do not
    for row, y_row, w_row in zip(np.asarray(kl(y, W)), y, W, strict=True):
        assert_allclose(row, oracles.isotonic_kl(y_row, w_row), rtol=1e-13)
    with_shift = np.asarray(kl(Y + 1e4, W - 1e4))
    assert_allclose(with_shift, np.asarray(kl(Y, W)) + 2e4, atol=1e-10)
    assert np.isfinite(jax.jit(jax.vmap(jax.jacrev(kl)))(y, W)).all()


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: isotonic_l2(1.0), "y"),
        (lambda: isotonic_l2(np.array([1j, 2.0])), "y"),
        (lambda: isotonic_l2(["a", "b"]), "y"),
        (lambda: isotonic_l2(Y, weights=np.ones(N + 1)), "weights"),
        (lambda: isotonic_l2(Y, axis=2), "axis"),
        (lambda: isotonic_l2(Y, axis=0.5), "axis"),
        (lambda: isotonic_l2(Y, axis=None), "axis"),
        (lambda: isotonic_kl(Y, W[:, :-1]), "w"),
        (lambda: isotonic_kl(Y, W * 1j), "w"),
        (lambda: isotonic_kl(Y, W, axis=-3), "axis"),
    ],
)
def test_wrong_use_names_the_argument(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        call()
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        jax.jit(call)()  # at trace time too
