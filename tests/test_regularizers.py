"""Prediction maps against certificates of optimality, bisection, and quadratic programs."""

from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, xlogy

from diffopt.regularizers import (
    CostAugmented,
    FermiDirac,
    Fused,
    Gini,
    Norm,
    Regularizer,
    Renyi,
    Shannon,
    SquaredNorm,
    SquaredNormOn,
    Tsallis,
    Zero,
    budget,
    entmax,
    fusedmax,
    normmax,
    softmax,
    sparsemax,
)

rng = np.random.default_rng(0)
N = 5
# Generic rows at three scales, ties, a vertex, everything tied, huge and tiny differences.
THETA = np.stack(
    [
        *rng.normal(size=(4, N)),
        *rng.normal(size=(2, N)) * 5,
        *rng.normal(size=(2, N)) / 10,
        np.array([1.0, 1.0, 0.0, 0.0, 0.5]),
        np.array([9.0, 0.0, -3.0, 2.0, 1.0]),
        np.full(N, 0.7),
        np.array([1e9, 1e9, 0.0, -1e9, 1e9 - 0.5]),
        np.array([1e-9, 0.0, -1e-9, 0.0, 0.0]),
    ]
)
GENERIC = slice(0, 8)
LAWS = settings(max_examples=25, deadline=None, derandomize=True)
quarters = st.integers(-40, 40).map(lambda k: k / 4)


def tsallis_gradient(p, alpha):
    return np.log(p) if alpha == 1 else p ** (alpha - 1) / (alpha - 1)


# Each regularizer with its value and gradient on the simplex, written out in NumPy.
ORACLES = {
    **{
        f"tsallis-{alpha}": (
            Tsallis(alpha if alpha in (1, 1.5, 2) else np.full((), alpha)),
            lambda p, a=alpha: np.sum(xlogy(p, p) if a == 1 else (p**a - p) / (a * (a - 1))),
            lambda p, a=alpha: tsallis_gradient(p, a),
        )
        for alpha in (1, 1.1, 1.5, 2, 2.5, 4.0)
    },
    **{
        f"norm-{q}": (
            Norm(q),
            lambda p, q=q: np.linalg.norm(p, q) - 1,
            lambda p, q=q: (p / np.linalg.norm(p, q)) ** (q - 1),
        )
        for q in (1.4, 4.0)
    },
    **{
        f"squared-norm-{q}": (
            SquaredNorm(q),
            lambda p, q=q: (np.linalg.norm(p, q) ** 2 - 1) / 2,
            lambda p, q=q: np.linalg.norm(p, q) ** (2 - q) * p ** (q - 1),
        )
        for q in (1.4, 4.0)
    },
    **{
        f"renyi-{b}": (
            Renyi(b),
            lambda p, b=b: np.log(np.sum(p**b)) / (b - 1),
            lambda p, b=b: b / (b - 1) * p ** (b - 1) / np.sum(p**b),
        )
        for b in (0.3, 0.8)
    },
    "zero": (Zero(), lambda p: 0.0, np.zeros_like),
    "cost": (
        CostAugmented(jnp.arange(N) / 4),
        lambda p: -np.arange(N) @ p / 4,
        lambda p: -np.arange(N) / 4,
    ),
}
simplex = pytest.mark.parametrize("name", list(ORACLES))
SMOOTH = [name for name in ORACLES if name not in ("zero", "cost")]
MAPS = {
    "softmax": softmax,
    "sparsemax": sparsemax,
    "entmax": entmax,
    "entmax-1.3": partial(entmax, alpha=1.3),
    "normmax": partial(normmax, q=3.0),
    "normmax-inf": partial(normmax, q=float("inf")),
    "squared": lambda theta, **options: SquaredNorm(1.5).argmax(theta, **options),
    "renyi": lambda theta, **options: Renyi(0.5).argmax(theta, **options),
    "zero": lambda theta, **options: Zero().argmax(theta, **options),
    "fusedmax": partial(fusedmax, weight=0.25),
}
maps = pytest.mark.parametrize("name", list(MAPS))
compiled = {name: jax.jit(f, static_argnames="axis") for name, f in MAPS.items()}


def entmax_by_bisection(theta, alpha):
    """The definition: one threshold, found by Brent's method in double precision."""
    z = (alpha - 1) * (theta - theta.max())
    power = lambda t: np.maximum(z - t, 0) ** (1 / (alpha - 1))
    t = brentq(lambda t: power(t).sum() - 1, -1 - 1e-12, 0, xtol=1e-300, rtol=1e-15, maxiter=999)
    return power(t) / power(t).sum()


# --------------------------------------------------------------------------------------- values


@simplex
def test_predictions_have_a_certificate(name):
    """No vertex of the simplex is better: the Frank-Wolfe gap with a gradient in NumPy is zero."""
    regularizer, value, gradient = ORACLES[name]
    p = np.asarray(regularizer.argmax(THETA))
    assert p.min() >= 0
    assert_allclose(p.sum(-1), 1, rtol=1e-14)
    with np.errstate(divide="ignore"):
        for theta, row in zip(THETA, p, strict=True):
            slope = theta - theta.max() - gradient(row)
            slope, row = slope[slope < np.inf], row[slope < np.inf]  # rounded to zero: not the best
            gap = slope.max() - slope[row > 0] @ row[row > 0]
            assert abs(gap) < 1e-11 + 1e-14 * np.ptp(theta)
    assert_allclose(regularizer.value(p), [value(row) for row in p], atol=1e-14)


def test_a_wrong_prediction_has_no_certificate():
    theta, wrong = THETA[0], 0.9 * np.asarray(sparsemax(THETA[0])) + 0.1 / N
    slope = theta - wrong
    assert slope.max() - slope @ wrong > 1e-3


@simplex
def test_the_conjugate_is_a_supremum_that_is_attained(name):
    regularizer, value, _ = ORACLES[name]
    theta = THETA[GENERIC]
    best = np.asarray(regularizer.max(theta))
    p = np.asarray(regularizer.argmax(theta))
    assert_allclose(best, [t @ q - value(q) for t, q in zip(theta, p, strict=True)], atol=1e-12)
    for q in np.concatenate([np.random.default_rng(1).dirichlet(np.ones(N) / 2, 500), np.eye(N)]):
        assert np.all(theta @ q - value(q) <= best + 1e-12)
    slope = jax.vmap(jax.grad(regularizer.max))(theta)
    assert_allclose(slope, p, atol=1e-15)


def test_exact_values():
    theta = np.array([-2.0, 0.0, 0.5])
    assert_allclose(sparsemax(theta), [0, 0.25, 0.75], atol=1e-15)
    root = (np.sqrt(7.75) - 0.5) / 4  # of a^2 + (a + 1/4)^2 = 1
    assert_allclose(entmax(theta), [0, root**2, (root + 0.25) ** 2], atol=1e-15)
    five = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert_allclose(normmax(five), [0, 0.0239, 0.1746, 0.3254, 0.4761], atol=5e-5)
    assert_allclose(budget(five, 2), [0, 0.125, 0.375, 0.625, 0.875], atol=1e-15)
    assert_allclose(softmax(np.log([1.0, 3.0, 4.0])), [0.125, 0.375, 0.5], rtol=1e-15)
    assert_array_equal(normmax(five, float("inf")), [0, 0, 1 / 3, 1 / 3, 1 / 3])


ALPHAS = [1 + 1e-12, 1 + 1e-6, 1.01, 1.3, 1.5, 1.99, 2.0, 2.3, 3.0, 6.0]


def test_every_order_against_bisection():
    theta = np.random.default_rng(2).normal(size=(20, 50)) * 2
    for alpha in ALPHAS[2:]:
        expected = np.stack([entmax_by_bisection(row, alpha) for row in theta])
        assert_allclose(entmax(theta, np.full((), alpha)), expected, atol=1e-12)
        if alpha in (1.5, 2.0, 3.0):
            assert_allclose(entmax(theta, alpha), expected, atol=1e-12)
    # An array of orders, one for each row, is the same.
    orders = np.resize(ALPHAS, 20)[:, None]
    expected = [entmax(theta, np.full((), a))[i] for i, a in enumerate(orders[:, 0])]
    assert_allclose(entmax(theta, orders), np.stack(expected), atol=1e-14)


def test_limits_of_the_families():
    for alpha in (1, 1.0, 1 + 1e-13):
        assert_allclose(entmax(THETA, alpha), softmax(THETA), atol=1e-12)
    assert_allclose(entmax(THETA, jnp.ones(())), softmax(THETA), atol=1e-15)
    assert_allclose(entmax(THETA, jnp.full((), 2.0)), sparsemax(THETA), atol=1e-14)
    assert_allclose(entmax(THETA, jnp.full((), 1.5)), entmax(THETA), atol=1e-14)
    assert_allclose(SquaredNorm(2.0).argmax(THETA), sparsemax(THETA), atol=1e-14)
    assert_allclose(Renyi(1 - 1e-9).argmax(THETA[:8]), softmax(THETA[:8]), atol=1e-7)
    assert_allclose(fusedmax(THETA, 0), sparsemax(THETA), atol=1e-14)
    assert_allclose(fusedmax(THETA[:8], 1e3), 1 / N, atol=1e-14)
    assert_allclose(budget(THETA, 1), sparsemax(THETA), atol=1e-15)
    assert_allclose(normmax(THETA[:6], 1e5), normmax(THETA[:6], float("inf")), atol=1e-3)
    p = np.random.default_rng(5).dirichlet(np.ones(N), 10)
    assert_allclose(Tsallis(jnp.full((), 1 + 1e-10)).value(p), Shannon().value(p), rtol=1e-9)


def test_the_value_near_order_one_keeps_its_digits():
    """(sum p^a - 1) / (a (a - 1)) as it stands loses all of them."""
    p = np.random.default_rng(5).dirichlet(np.ones(N), 10)
    exact, log = Shannon().value(p), np.log(p)
    for eta in (1e-4, 1e-8, 1e-12):
        series = np.sum(p * (log + eta * log**2 / 2 + eta**2 * log**3 / 6), -1) / (1 + eta)
        got = Tsallis(jnp.full((), 1 + eta)).value(p)
        assert_allclose(got, series, rtol=1e-10 + eta**3)
        assert np.abs(got - exact).max() < 10 * eta


def total_variation_step(theta, weight):
    """The best of all candidates: one for each way to go up, stay or go down between neighbours."""
    best, best_value = theta, np.inf
    for jumps in product((-1, 0, 1), repeat=len(theta) - 1):
        pull = np.append(jumps, 0) - np.append(0, jumps)
        label = np.append(0, np.cumsum(np.abs(jumps))).astype(int)
        x = (np.bincount(label, theta + weight * pull) / np.bincount(label))[label]
        value = np.sum((x - theta) ** 2) / 2 + weight * np.abs(np.diff(x)).sum()
        if value < best_value:
            best, best_value = x, value
    return best


@pytest.mark.parametrize("weight", [0.05, 0.3, 2.0])
def test_fusedmax_against_all_patterns_of_jumps(weight):
    random = np.random.default_rng(3)
    for n in (1, 2, 6):
        theta = random.normal(size=(40, n))
        theta[20:] = np.round(2 * theta[20:]) / 2  # ties
        steps = np.stack([total_variation_step(row, weight) for row in theta])
        assert_allclose(fusedmax(theta, weight), sparsemax(steps), atol=1e-12)
    p, q = random.dirichlet(np.ones(6), (2, 40))
    assert_allclose(
        Fused(weight).value(p), (p**2 - p).sum(-1) / 2 + weight * abs(np.diff(p)).sum(-1)
    )
    best = Fused(weight).max(theta)
    assert np.all((theta * q).sum(-1) - Fused(weight).value(q) <= best + 1e-12)


def test_long_fused_rows_satisfy_the_optimality_conditions():
    """The proximal step is optimal where its running sum touches the tube at every jump."""
    theta = np.cumsum(np.random.default_rng(8).normal(size=(4, 300)), -1)
    from diffopt.regularizers.piecewise import _fuse

    x = np.asarray(_fuse(jnp.asarray(theta), jnp.asarray(2.0))[0]) + theta.max(-1, keepdims=True)
    z = np.cumsum(theta - x, -1)
    assert np.abs(z).max() <= 2 + 1e-9
    assert_allclose(z[:, -1], 0, atol=1e-9)
    jump = np.diff(x)
    assert_allclose(z[:, :-1][jump > 1e-9], -2, atol=1e-9)
    assert_allclose(z[:, :-1][jump < -1e-9], 2, atol=1e-9)
    assert (abs(jump) < 1e-12).mean() > 0.5


def test_budget_against_bisection():
    for row in THETA[:10]:
        for k in range(N + 1):
            assert_allclose(budget(row, k), oracles.soft_top_k(row, k), atol=1e-9)
    row = jnp.asarray(THETA[0])
    for k in (0.3, 2.5, 4.9):
        p = np.asarray(budget(row, k))
        assert_allclose(p.sum(), k, rtol=1e-14)
        tau = (row - p)[(p > 0) & (p < 1)]
        assert_allclose(p, np.clip(row - tau[0], 0, 1), atol=1e-14)
    ahead, behind = budget(row, 2.5 + 1e-6), budget(row, 2.5 - 1e-6)
    assert_allclose(jax.jacfwd(budget, 1)(row, 2.5), (ahead - behind) / 2e-6, atol=1e-8)
    ahead = budget(row, 2 + 1e-6)
    assert_allclose(jax.jacrev(budget, 1)(row, 2.0), (ahead - budget(row, 2)) / 1e-6, atol=1e-8)
    # One k for each row.
    k = np.arange(5.0)[:, None]
    expected = [budget(t, i) for t, i in zip(THETA[:5], range(5), strict=True)]
    assert_allclose(budget(THETA[:5], k), np.stack(expected), atol=1e-15)


def test_one_against_all():
    theta = THETA[:6]
    p = FermiDirac().argmax(theta)
    assert_allclose(p, expit(theta), rtol=1e-14)
    assert_allclose(FermiDirac().max(theta), np.logaddexp(0, theta).sum(-1), rtol=1e-14)
    value = xlogy(p, p) + xlogy(1 - p, 1 - p)
    assert_allclose(FermiDirac().value(p), value.sum(-1), rtol=1e-14)
    mask = theta > 0
    assert_array_equal(FermiDirac().argmax(theta, where=mask), np.where(mask, p, 0))
    expected = np.where(mask, np.logaddexp(0, theta), 0).sum(-1)
    assert_allclose(FermiDirac().max(theta, where=mask), expected, rtol=1e-14)


def test_a_regularizer_of_ones_own():
    """Weighted squares on the simplex: two methods and a field that can be differentiated."""

    @dataclass(frozen=True)
    class Weighted(Regularizer):
        weight: jax.Array

        def value_of_rows(self, p):
            return (self.weight * p * p).sum(-1) / 2

        def argmax_of_rows(self, theta):
            return theta / self.weight

    theta, weight = jnp.array([1.0, -2.0]), jnp.full(1, 3.0)
    assert_allclose(Weighted(weight).max(theta), theta @ theta / 6)
    slope = jax.grad(lambda w: Weighted(w).max(theta))(weight)
    assert_allclose(slope, [-theta @ theta / 18])
    again = jax.jit(lambda r: r.argmax(theta))(Weighted(weight))
    assert_allclose(again, theta / 3)
    with pytest.raises(NotImplementedError, match="argmax_of_rows"):
        Regularizer().argmax(theta)


# ----------------------------------------------------------------------------------------- laws


@maps
@LAWS
@given(arrays(np.float64, (2, 6), elements=quarters), st.randoms(use_true_random=False))
def test_laws_of_maps_on_the_simplex(name, rows, random):
    call = compiled[name]
    p, q = np.asarray(call(rows))
    x, y = rows
    assert_allclose([p.sum(), q.sum()], 1, rtol=1e-14)
    assert min(p.min(), q.min()) >= 0
    assert (x - y) @ (p - q) >= -1e-12  # monotone: the gradient of a convex function
    assert_allclose(call(rows + 8.0), [p, q], rtol=1e-9, atol=1e-11)
    order = list(range(6))
    if name != "fusedmax":
        random.shuffle(order)
        assert_allclose(call(rows[:, order])[0], p[order], rtol=1e-10, atol=1e-12)
        assert np.all(np.diff(p[np.argsort(x, kind="stable")]) >= -1e-12)
        assert np.abs(p[:, None] - p[None, :])[x[:, None] == x[None, :]].max() < 1e-12
    else:
        assert_allclose(call(rows[:, ::-1])[:, ::-1], [p, q], rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------------- derivatives


@maps
def test_derivatives_in_both_modes_and_twice(name):
    if name in ("zero", "normmax-inf"):
        assert not np.any(jax.jacrev(MAPS[name])(jnp.asarray(THETA[0])))
        return
    call, random = compiled[name], np.random.default_rng(7)
    theta, towards, weights = jnp.asarray(random.normal(size=(3, 4, N)))

    @jax.jit
    def products(theta):
        forward = jax.jvp(MAPS[name], (theta,), (towards,))[1]
        slope = lambda t: jax.vjp(MAPS[name], t)[1](weights)[0]
        return forward, slope(theta), jax.jvp(slope, (theta,), (towards,))[1]

    step = 1e-6
    forward, back, second = products(theta)
    ahead, behind = theta + step * towards, theta - step * towards
    assert_allclose(forward, (call(ahead) - call(behind)) / (2 * step), atol=1e-7)
    assert_allclose(np.vdot(forward, weights), np.vdot(back, towards), rtol=1e-10)
    differences = (products(ahead)[1] - products(behind)[1]) / (2 * step)
    assert_allclose(second, differences, atol=2e-6 * (1 + np.abs(differences).max()))


@maps
def test_jacobians_are_symmetric_positive_and_kill_shifts(name):
    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacrev(MAPS[name])))(jnp.asarray(THETA)))
    forward = np.asarray(jax.jit(jax.vmap(jax.jacfwd(MAPS[name])))(jnp.asarray(THETA)))
    scale = 1 + np.abs(jacobians).max((1, 2), keepdims=True)
    assert_allclose(forward / scale, jacobians / scale, atol=1e-13)
    assert_allclose(jacobians / scale, jacobians.swapaxes(1, 2) / scale, atol=1e-13)
    assert_allclose(jacobians.sum(-1) / scale[..., 0], 0, atol=1e-12)
    assert np.linalg.eigvalsh(jacobians / scale).min() > -1e-12


@pytest.mark.parametrize("alpha", [1.001, 1.2, 1.5, 2.0, 2.6])
def test_the_derivative_in_the_order(alpha):
    theta = THETA[:6]
    got = jax.jvp(partial(entmax, theta), (jnp.full((), alpha),), (jnp.ones(()),))[1]
    step = 1e-6
    differences = (entmax(theta, alpha + step) - entmax(theta, alpha - step)) / (2 * step)
    assert_allclose(got, differences, atol=2e-7)
    cotangent = np.random.default_rng(0).normal(size=theta.shape)
    pulled = jax.grad(lambda a: (entmax(theta, a) * cotangent).sum())(jnp.full((6, 1), alpha))
    assert_allclose(pulled[:, 0], (got * cotangent).sum(-1), rtol=1e-10)


def test_the_derivative_in_the_order_is_stable_towards_one():
    """Correia et al., proposition 1: at order one it is (h log p - p <h, log p>) / 2."""
    theta = THETA[:6]
    p = np.asarray(softmax(theta))
    e = p * np.log(p) ** 2 / 2
    limit = -e + p * e.sum(-1, keepdims=True)
    for eta in (0.0, 1e-15, 1e-10, 1e-6):
        alpha = jnp.full((), 1 + eta)
        got = jax.jvp(partial(entmax, theta), (alpha,), (jnp.ones(()),))[1]
        assert_allclose(got, limit, atol=1e-12 + 10 * eta)
    differences = (entmax(theta, jnp.full((), 1 + 1e-6)) - p) / 1e-6
    assert_allclose(differences, limit, atol=2e-5)


def test_derivatives_of_values_and_conjugates_in_their_fields():
    theta = jnp.asarray(THETA[:4])
    p = 0.1 + np.random.default_rng(1).dirichlet(np.ones(N), 4) / 2  # far from infinite slopes
    for make, at in (
        (Tsallis, jnp.full((), 1.3)),
        (Fused, jnp.full((), 0.2)),
        (CostAugmented, jnp.arange(N) / 3),
    ):
        check_grads(lambda a, make=make: make(a).value(p), (at,), order=1, atol=1e-5)
        check_grads(lambda a, make=make: make(a).max(theta), (at,), order=1, atol=1e-5)
    for name in SMOOTH:
        check_grads(ORACLES[name][0].value, (p,), order=2, modes=["rev"], atol=1e-4, rtol=1e-4)
    check_grads(partial(fusedmax, theta[0]), (jnp.full((), 0.2),), order=1, atol=1e-5)


# ------------------------------------------------------------------------- axes, masks, vmapping


@maps
def test_any_axis_and_vmap(name):
    call, theta = compiled[name], jnp.asarray(THETA)
    expected = call(theta)
    assert_allclose(call(theta.T, axis=0), expected.T, atol=1e-15)
    assert_allclose(jax.vmap(MAPS[name])(theta), expected, atol=1e-14)
    cube = jnp.stack([theta, 2 * theta], 1)
    assert_allclose(call(cube, axis=2)[:, 0], expected, atol=1e-14)
    assert_allclose(jax.vmap(lambda t: MAPS[name](t), in_axes=1, out_axes=1)(cube), call(cube))


@maps
def test_masked_and_dropped_items_take_no_part(name):
    theta = THETA[:8]
    mask = np.random.default_rng(4).random(theta.shape) < 0.6
    mask[:, 0] |= ~mask.any(-1)
    got = np.asarray(compiled[name](theta, where=mask))
    dropped = np.asarray(compiled[name](np.where(mask, theta, -np.inf)))
    noisy = compiled[name](np.where(mask, theta, np.nan), where=mask)
    assert_array_equal(got, dropped)
    assert_array_equal(got, noisy)
    assert_array_equal(got[~mask], 0)
    for row, keep, p in zip(theta, mask, got, strict=True):
        assert_allclose(p[keep], MAPS[name](row[keep]), atol=1e-13)
    weights = np.random.default_rng(6).normal(size=theta.shape)
    slope = jax.grad(lambda t: (MAPS[name](t, where=mask) * weights).sum())(theta)
    assert np.isfinite(slope).all()
    assert_array_equal(slope[~mask], 0)


@maps
def test_special_values(name, x64):
    call = compiled[name]
    row = jnp.array([0.5, jnp.inf, -1.0, jnp.inf, -jnp.inf])
    assert_array_equal(call(row), [0, 0.5, 0, 0.5, 0])
    assert_array_equal(call(jnp.full(3, -jnp.inf)), 0)
    assert_array_equal(call(jnp.ones(3), where=jnp.zeros(3, bool)), 0)
    both = call(jnp.array([[0.0, jnp.nan, 1.0], [0.0, 1.0, 2.0]]))
    assert np.isnan(both[0]).all() and not np.isnan(both[1]).any()
    assert_array_equal(call(jnp.full((2, 1), 7.0)), 1)
    assert call(jnp.zeros((0, 4))).shape == (0, 4)
    assert call(jnp.zeros((2, 0))).shape == (2, 0)
    assert_allclose(call(jnp.array([3e9, 0.0, 0.0])), [1, 0, 0], atol=1e-15)
    slope = jax.jit(jax.jacrev(MAPS[name]))(row)
    assert np.isfinite(slope).all()
    slope = jax.jit(jax.jacrev(MAPS[name]))(jnp.full(3, -jnp.inf))
    assert_array_equal(slope, 0)


@maps
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_low_precision(name, dtype):
    theta = jnp.asarray(THETA[:8], dtype)
    got = compiled[name](theta)
    assert got.dtype == dtype
    exact = compiled[name](theta.astype(jnp.float32))
    assert_allclose(got.astype(jnp.float32), exact, atol=2 * float(jnp.finfo(dtype).eps))
    slope = jax.grad(lambda t: compiled[name](t)[:, 1].sum())(theta)
    assert slope.dtype == dtype and jnp.isfinite(slope).all()


def test_integers_become_floats():
    assert_allclose(sparsemax(jnp.array([0, 0, -5])), [0.5, 0.5, 0])


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "entmax", "entmax-1.3", "normmax"])
def test_long_rows_sum_to_one_in_single_precision(name):
    random = np.random.default_rng(0)
    rows = np.stack(
        [
            *random.normal(size=(3, 32000)),
            random.normal(size=32000) / 100,
            random.normal(size=32000) * 1e-5,
            random.uniform(size=32000) * 3e-5,
            np.r_[1.0, random.uniform(0, 1e-6, 31999)],
            np.zeros(32000),
        ]
    ).astype(np.float32)
    p = np.asarray(compiled[name](rows), np.float64)
    assert_allclose(p.sum(-1), 1, atol=1e-6)
    exact = np.asarray(compiled[name](rows.astype(np.float64)))
    fair = np.arange(len(rows)) != 6  # there, what matters is lost when the maximum is subtracted
    assert_allclose(p[fair], exact[fair], atol=1e-6, rtol=2e-3)


def test_large_orders_in_single_precision():
    rows = np.random.default_rng(1).normal(size=(50, 40)).astype(np.float32) / 1000
    exact = np.stack([entmax_by_bisection(row, 4.0) for row in rows.astype(float)])
    got = np.asarray(entmax(rows, np.full((), 4.0, np.float32)))
    assert_allclose(got.sum(-1), 1, atol=1e-6)
    assert np.abs(got - exact).max() < 0.02  # a cube root leaves a third of the digits
    steep = np.asarray(entmax(rows, np.full((), 50.0, np.float32)))
    assert_allclose(steep.sum(-1), 1, atol=1e-6)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: softmax(1.0), "theta"),
        (lambda: softmax(THETA * 1j), "theta"),
        (lambda: sparsemax(THETA, axis=2), "axis"),
        (lambda: sparsemax(THETA, where=THETA), "where"),
        (lambda: sparsemax(THETA, where=THETA[:2] > 0), "where"),
        (lambda: entmax(THETA, 0.9), "alpha"),
        (lambda: entmax(THETA, float("inf")), "alpha"),
        (lambda: entmax(THETA, np.array([1.0, 0.5])[:, None]), "alpha"),
        (lambda: entmax(THETA, np.full(N, 1.5)), "alpha"),
        (lambda: entmax(THETA, np.full((2, 1), 1.5)), "alpha"),
        (lambda: normmax(THETA, 1.0), "q"),
        (lambda: normmax(THETA, jnp.ones(3)), "q"),
        (lambda: SquaredNorm(float("inf")), "q"),
        (lambda: Renyi(1.0), "order"),
        (lambda: Renyi("half"), "order"),
        (lambda: fusedmax(THETA, -1.0), "weight"),
        (lambda: budget(THETA, N + 1), "k"),
        (lambda: budget(THETA, -0.5), "k"),
        (lambda: CostAugmented(np.ones(3)).argmax(THETA), "cost"),
        (lambda: SquaredNormOn(THETA), "project"),
        (lambda: SquaredNormOn(jnp.abs).argmax(THETA, where=THETA > 0), "where"),
        (lambda: Gini().value(THETA, axis=1.5), "axis"),
    ],
)
def test_wrong_use_names_the_argument(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        call()


def test_logsumexp_of_everything_dropped():
    theta = jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
    assert_array_equal(Shannon().max(theta), [0, -jnp.inf])
    assert_allclose(Shannon().max(THETA[:8]), logsumexp(THETA[:8], -1), rtol=1e-14)
