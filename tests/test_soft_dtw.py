"""Soft-DTW against all alignments one by one, its limits, finite differences and cutting."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

import diffopt
from diffopt import (
    alignment_entropy,
    dtw_path,
    expected_alignment,
    half_squared_euclidean,
    itakura,
    kernels,
    log_augmented,
    mean_cost,
    mean_cost_divergence,
    num_alignments,
    sakoe_chiba,
    sharp_divergence,
    sharp_soft_dtw,
    soft_dtw,
    soft_dtw_divergence,
    soft_dtw_from_cost,
    squared_euclidean,
)

rng = np.random.default_rng(0)
SIZES = [(1, 1), (1, 4), (3, 1), (3, 4), (5, 4), (6, 6)]
GAMMAS = [1e-6, 0.1, 1.0, 50.0, 1e6]
X, Y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
value = jax.jit(lambda costs, gamma: soft_dtw_from_cost(costs, gamma=gamma))
mean = jax.jit(lambda costs, gamma: expected_alignment(costs, gamma=gamma))
entropy = jax.jit(lambda costs, gamma: alignment_entropy(costs, gamma=gamma))
LOSSES = [soft_dtw_divergence, sharp_divergence, mean_cost_divergence]


@pytest.fixture(params=["native", "xla"])
def backend(request):
    with kernels.use_backend(request.param):
        yield request.param


@cache
def alignments(n, m):
    """All alignments as tables of zeros and ones."""
    if n == 0 or m == 0:
        return np.zeros((0, n, m))
    last = np.zeros((n, m))
    last[-1, -1] = 1
    if n == m == 1:
        return last[None]
    found = []
    for i, j in ((n - 1, m), (n, m - 1), (n - 1, m - 1)):
        found += [np.pad(p, ((0, n - i), (0, m - j))) + last for p in alignments(i, j)]
    return np.array(found)


def brute_force(costs, gamma):
    """Value, mean alignment and entropy."""
    paths = alignments(*costs.shape)
    scores = -np.array([costs[p > 0].sum() for p in paths]) / gamma
    weights = np.exp(scores - scores.max())
    total = weights.sum()
    p = weights / total
    terms = p[p > 0] * np.log(p[p > 0])
    return -gamma * (scores.max() + np.log(total)), np.tensordot(p, paths, 1), -terms.sum()


def test_against_all_alignments(backend):
    for n, m in SIZES if backend == "native" else SIZES[1:4]:
        costs = rng.normal(size=(n, m)) * 3
        assert len(alignments(n, m)) == num_alignments(n, m)
        for gamma in GAMMAS:
            expected = brute_force(costs, gamma)
            rounding = 1e-12 + 1e-15 * gamma
            assert_allclose(value(costs, gamma), expected[0], rtol=1e-12, atol=rounding)
            assert_allclose(mean(costs, gamma), expected[1], atol=2e-10)
            assert_allclose(entropy(costs, gamma), expected[2], atol=1e-6)
        total = np.einsum("pij,ij->p", alignments(n, m), costs)
        assert_allclose(value(costs, 0.0), total.min(), rtol=1e-13)
        assert_array_equal(mean(costs, 0.0), alignments(n, m)[total.argmin()])
        assert_allclose(soft_dtw_from_cost(costs, gamma=math.inf), total.mean(), rtol=1e-12)
        uniform = alignments(n, m).mean(0)
        assert_allclose(expected_alignment(costs, gamma=math.inf), uniform, atol=1e-13)
        assert_allclose(alignment_entropy(costs, gamma=math.inf), math.log(len(total)), atol=1e-12)


def test_derivatives_of_both_orders_in_both_modes(backend):
    costs = jnp.asarray(rng.normal(size=(4, 3)))
    function = jax.jit(lambda costs, gamma: soft_dtw_from_cost(costs, gamma=gamma))
    check_grads(function, (costs, 0.7), order=2, modes=("fwd", "rev"), rtol=1e-4)


def test_a_hessian_is_minus_the_covariance_of_alignments():
    costs, gamma = rng.normal(size=(3, 4)), 0.6
    paths = alignments(3, 4).reshape(-1, 12)
    weights = np.exp(-(paths @ costs.ravel()) / gamma)
    covariance = np.cov(paths.T, aweights=weights / weights.sum(), ddof=0)
    found = jax.hessian(lambda c: soft_dtw_from_cost(c, gamma=gamma))(jnp.asarray(costs))
    assert_allclose(found.reshape(12, 12), -covariance / gamma, atol=1e-12)


@pytest.mark.parametrize("loss", [soft_dtw, sharp_soft_dtw, mean_cost, *LOSSES])
def test_gradients_in_series(loss):
    check_grads(jax.jit(loss), (jnp.asarray(X), jnp.asarray(Y)), order=1, modes=("rev",))


def test_native_and_xla_agree_on_long_series():
    costs = jnp.asarray(rng.normal(size=(60, 50)) ** 2 * 50)
    for gamma in [0.0, *GAMMAS]:
        native = value(costs, gamma), mean(costs, gamma)
        with kernels.use_backend("xla"):
            xla = value(costs, gamma), mean(costs, gamma)
        for a, b in zip(native, xla, strict=True):
            assert np.isfinite(a).all()
            assert_allclose(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("n, m", [(15, 3), (16, 17), (17, 1), (17, 5), (33, 20), (2, 40)])
def test_strips_of_any_number_of_rows(n, m):
    costs = jnp.asarray(rng.normal(size=(n, m)) ** 2)
    native = value(costs, 0.5), mean(costs, 0.5)
    with kernels.use_backend("xla"):
        xla = value(costs, 0.5), mean(costs, 0.5)
    for a, b in zip(native, xla, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n, m, d", [(17, 5, 1), (16, 33, 2), (40, 90, 3)])
def test_kernels_on_series_and_their_derivatives(n, m, d):
    """By tables in XLA, at costs that share an exponent and at such that do not; and in a batch."""
    x, y = rng.normal(size=(n, d)).cumsum(0), rng.normal(size=(m, d)).cumsum(0)
    gammas, lengths = jnp.array([0.0, 1e-3, 1.0, 1e6]), jnp.array([m, m, m // 2, m])

    def everything(gamma, length):
        options = {"gamma": gamma, "y_length": length}
        soft = jax.value_and_grad(lambda x, y: soft_dtw(x, y, **options), (0, 1))(x, y)
        sharp = jax.value_and_grad(lambda x, y: sharp_soft_dtw(x, y, **options), (0, 1))(x, y)
        return *soft, *sharp

    run = jax.jit(jax.vmap(everything))
    native = jax.tree.leaves(run(gammas, lengths))
    with kernels.use_backend("xla"):
        xla = jax.tree.leaves(run(gammas, lengths))
    for a, b in zip(native, xla, strict=True):
        for k in range(4):
            assert_allclose(a[k], b[k], rtol=1e-7, atol=1e-9 * abs(b[k]).max())
    assert not native[2][2, m // 2 :].any() and not native[5][2, m // 2 :].any()


def test_padding_is_not_read():
    padded = jnp.asarray(X).at[4:].set(jnp.nan)
    for loss in (soft_dtw, sharp_soft_dtw):
        found, slope = jax.value_and_grad(lambda x, f=loss: f(x, Y, x_length=4))(padded)
        assert_allclose(found, loss(X[:4], Y), rtol=1e-12)
        assert_array_equal(slope[4:], 0)
        assert_allclose(slope[:4], jax.grad(loss)(jnp.asarray(X[:4]), Y), rtol=1e-9)
    nan = jnp.asarray(X).at[1, 0].set(jnp.nan)
    assert np.isnan(soft_dtw(nan, Y)) and np.isnan(soft_dtw(X[:, :1] + np.inf, Y[:, :1] + np.inf))


def test_second_derivatives_in_series_and_gamma():
    x, y = jnp.asarray(X[:4]), jnp.asarray(Y[:3])
    for loss in (soft_dtw, sharp_soft_dtw):
        function = jax.jit(lambda x, gamma, f=loss: f(x, y, gamma=gamma))
        check_grads(function, (x, 0.7), order=2, modes=("fwd", "rev"), rtol=1e-4)
    third = jax.jit(jax.grad(lambda c: (jax.hessian(value)(c, 0.7) ** 2).sum()))
    costs = jnp.asarray(rng.normal(size=(2, 3)))
    with kernels.use_backend("xla"):
        expected = third(costs)
    assert_allclose(third(costs), expected, rtol=1e-9, atol=1e-12)


def test_large_costs_and_extreme_temperatures_stay_finite(backend):
    for scale in (1e9, -1e9):
        costs = jnp.asarray(scale * rng.random((5, 4)))
        for gamma in (1e-6, 1.0, 1e6):
            found = mean(costs, gamma)
            assert np.isfinite(value(costs, gamma)) and np.isfinite(found).all()
            assert_allclose([found[0, 0], found[-1, -1]], 1, rtol=1e-6)
            least = value(costs, 0.0)
            bound = gamma * math.log(num_alignments(5, 4))
            slack = 1e-4 + 1e-12 * abs(least)
            assert least - bound - slack <= value(costs, gamma) <= least + slack


def test_lengths_are_cutting(backend):
    lengths = jnp.array([[1, 5], [6, 1], [3, 3], [6, 5], [4, 2]])
    padded = jnp.asarray(X).at[4:].set(jnp.where(jnp.arange(2) > 0, 1e8, X[4:]))
    for loss in (partial(soft_dtw, gamma=0.5), partial(sharp_divergence, gamma=0.5)):
        both = jax.jit(
            jax.vmap(
                jax.value_and_grad(lambda x, a, b, f=loss: f(x, Y, x_length=a, y_length=b)),
                (None, 0, 0),
            )
        )
        values, gradients = both(padded, *lengths.T)
        for (a, b), found, gradient in zip(lengths, values, gradients, strict=True):
            if a > 4:
                continue
            assert_allclose(found, loss(X[:a], Y[:b]), rtol=1e-12)
            assert_array_equal(gradient[a:], 0)
            assert_allclose(gradient[:a], jax.grad(loss)(X[:a], Y[:b]), rtol=1e-9, atol=1e-12)
    cut = expected_alignment(jnp.ones((6, 5)), x_length=3, y_length=2)
    assert_allclose(cut[:3, :2], expected_alignment(jnp.ones((3, 2))))
    assert_array_equal(cut[3:], 0)
    assert_array_equal(cut[:, 2:], 0)


def test_a_band_is_an_infinite_cost(backend):
    costs = rng.normal(size=(5, 5))
    band = sakoe_chiba(5, 5, 1)
    paths = [p for p in alignments(5, 5) if not (p > band).any()]
    total = np.array([(p * costs).sum() for p in paths])
    found = soft_dtw_from_cost(costs, band=band, gamma=0.4)
    assert_allclose(found, -0.4 * np.log(np.exp(-total / 0.4).sum()), rtol=1e-12)
    gradient = jax.grad(lambda c: soft_dtw_from_cost(c, band=band))(jnp.asarray(costs))
    assert_array_equal(gradient[~band], 0)
    closed = np.zeros((5, 5), bool)
    assert soft_dtw_from_cost(costs, band=closed) == np.inf
    assert not expected_alignment(costs, band=closed).any()
    assert dtw_path(costs, band=closed) == []


@pytest.mark.parametrize("make", [lambda n, m: sakoe_chiba(n, m, 0), itakura])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (7, 7), (5, 13), (13, 12)])
def test_a_band_lets_an_alignment_through(make, size):
    band = make(*size)
    assert band[0, 0] and band[-1, -1]
    assert dtw_path(np.ones(size), band=band)


def test_nan_makes_everything_nan(backend):
    costs = jnp.ones((3, 3)).at[1, 1].set(jnp.nan)
    for gamma in (0.0, 1.0):
        assert np.isnan(value(costs, gamma)) and np.isnan(mean(costs, gamma)).all()


def test_dtw_path_is_cheapest():
    costs = rng.random((7, 9))
    path = dtw_path(costs)
    assert path[0] == (0, 0) and path[-1] == (6, 8)
    steps = np.diff(np.array(path), axis=0)
    assert set(map(tuple, steps)) <= {(0, 1), (1, 0), (1, 1)}
    assert_allclose(sum(costs[cell] for cell in path), value(costs, 0.0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_laws(seed, gamma):
    """Order of the losses, symmetry, shift, scale, and the divergence of the paper's cost."""
    x, y = np.random.default_rng(seed).normal(size=(2, 4, 1))
    costs = (x - y.T) ** 2
    soft, hard = value(costs, gamma), value(costs, 0.0)
    sharp = np.sum(mean(costs, gamma) * costs)
    assert soft <= hard + 1e-12 and hard <= sharp + 1e-12
    assert_allclose(soft, value(costs.T, gamma), rtol=1e-9, atol=1e-9)
    assert_allclose(value(3 * costs, 3 * gamma), 3 * soft, rtol=1e-9, atol=1e-9)
    assert augmented(x, y) >= -1e-12


augmented = jax.jit(partial(soft_dtw_divergence, cost=log_augmented))


def test_soft_dtw_is_biased_and_its_divergences_are_not():
    slope = jax.grad(soft_dtw)(jnp.asarray(X), jnp.asarray(X))
    assert soft_dtw(X, X) < 0 and abs(slope).max() > 0.1
    for loss in LOSSES:
        assert_allclose(loss(X, X), 0, atol=1e-12)
        assert_allclose(jax.grad(loss)(jnp.asarray(X), jnp.asarray(X)), 0, atol=1e-10)
        assert loss(X, Y) > 0


def test_limits_of_the_divergences():
    x, y = jnp.asarray(X[:5]), jnp.asarray(Y)
    hard = soft_dtw(x, y, gamma=0.0)
    for loss in (soft_dtw_divergence, sharp_divergence):
        assert_allclose(loss(x, y, gamma=1e-4), hard, atol=1e-2)
        assert_allclose(loss(x, y, gamma=1e7), mean_cost_divergence(x, y), rtol=1e-3)
    assert_allclose(sharp_soft_dtw(x, y, gamma=1e9), mean_cost(x, y), rtol=1e-6)


def test_costs_of_points():
    x, y = X[0], X[1]
    distance = np.sum((x - y) ** 2)
    assert_allclose(squared_euclidean(x, y), distance)
    assert_allclose(half_squared_euclidean(x, y), distance / 2)
    assert_allclose(log_augmented(x, y), distance / 2 + np.log(2 - np.exp(-distance / 2)))
    costs = ((X[:, None] - Y[None]) ** 2).sum(-1) / 2
    found = soft_dtw(X, Y, cost=half_squared_euclidean, gamma=0.3)
    assert_allclose(found, soft_dtw_from_cost(costs, gamma=0.3))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_type_that_comes_in_goes_out(dtype):
    x, y = jnp.asarray(X, dtype), jnp.asarray(Y, dtype)
    found, gradient = jax.value_and_grad(soft_dtw)(x, y)
    assert found.dtype == gradient.dtype == jnp.dtype(dtype)
    exact, slope = jax.value_and_grad(soft_dtw)(x.astype(float), y.astype(float))
    tolerance = {"float32": 1e-6, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    assert_allclose(found.astype(float), exact, rtol=tolerance)
    error = abs(gradient.astype(float) - slope).max()
    assert error <= tolerance * abs(slope).max()


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: soft_dtw(X[:, 0], Y), ValueError, "x must have shape"),
        (lambda: soft_dtw(X[:, :1], Y), ValueError, "as many features"),
        (lambda: soft_dtw(X, Y, gamma=-1.0), ValueError, "gamma must be"),
        (lambda: soft_dtw(X, Y, gamma=np.nan), ValueError, "gamma must be"),
        (lambda: soft_dtw(X, Y, gamma="auto"), ValueError, "gamma must be one number"),
        (lambda: soft_dtw(X, Y, x_length=7), ValueError, "x_length must lie"),
        (lambda: soft_dtw(X, Y, band=np.ones((6, 5))), TypeError, "band must be a boolean"),
        (lambda: soft_dtw(X, Y, band=np.ones((5, 5), bool)), ValueError, "band must have"),
        (lambda: soft_dtw_from_cost(np.ones((2, 0))), ValueError, "costs must be a table"),
        (lambda: soft_dtw("x", Y), TypeError, "x must be an array"),
        (lambda: num_alignments(0, 3), ValueError, "at least 1"),
        (lambda: sakoe_chiba(3, 3, -1), ValueError, "radius"),
        (lambda: itakura(3, 3, 0.5), ValueError, "slope"),
    ],
)
def test_wrong_use_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_names():
    assert "soft_dtw" in diffopt.__all__
