"""Laws that hold for every input: hypothesis looks for the one that breaks them.

Inputs are multiples of 1/4, so ties are frequent and sums are exact; shapes come from a short
list, so each law compiles a few times only.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import rankdata

from diffopt import (
    hard_rank_epsilon,
    isotonic_kl,
    isotonic_l2,
    project_permutahedron,
    soft_quantile,
    soft_rank,
    soft_sort,
    soft_top_k,
)

settings.register_profile("laws", max_examples=25, deadline=None, derandomize=True)
laws = settings(settings.get_profile("laws"))
regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])

quarters = st.integers(-40, 40).map(lambda k: k / 4)
LENGTHS = [1, 2, 6]
epsilons = st.sampled_from([0.01, 0.25, 1.0, 3.0, 100.0])


@st.composite
def rows_of_equal_length(draw, count, low=-40):
    n = draw(st.sampled_from(LENGTHS))
    numbers = st.integers(low, 40).map(lambda k: k / 4)
    return [draw(arrays(np.float64, n, elements=numbers)) for _ in range(count)]


def call(function, *args, **options):
    """Compile once for each function, its options and shapes."""
    return np.asarray(_compiled(function, tuple(sorted(options.items())))(*args))


@cache
def _compiled(function, options):
    return jax.jit(partial(function, **dict(options)))


# ------------------------------------------------------------------------- isotonic regression


@laws
@given(rows_of_equal_length(2), st.sampled_from([True, False]))
def test_isotonic_is_a_projection_on_a_cone(rows, increasing):
    y, z = rows
    fit = lambda a: call(isotonic_l2, a, increasing=increasing)
    v = fit(y)
    sign = 1 if increasing else -1
    assert np.all(sign * np.diff(v) >= 0)
    assert_allclose(fit(v), v, atol=1e-13)  # idempotent
    assert_allclose(v.sum(), y.sum(), atol=1e-12)
    assert_allclose(np.dot(v, y - v), 0.0, atol=1e-10)  # Moreau: y - v is in the polar cone
    assert np.linalg.norm(v - fit(z)) <= np.linalg.norm(y - z) + 1e-12
    assert_allclose(fit(3 * y + 2), 3 * v + 2, atol=1e-12)
    assert_allclose(v, -call(isotonic_l2, -y, increasing=not increasing), atol=1e-13)
    assert_allclose(v, call(isotonic_l2, y[::-1], increasing=not increasing)[::-1], atol=1e-13)
    assert np.all(fit(np.maximum(y, z)) >= v - 1e-13)  # monotone in the data


@laws
@given(rows_of_equal_length(1), st.lists(st.integers(1, 5), min_size=6, max_size=6))
def test_whole_weights_are_repetitions(rows, counts):
    (y,) = rows
    counts = np.array(counts[: len(y)])
    got = call(lambda_weights, y, counts.astype(float))
    repeated = oracles.isotonic_l2(np.repeat(y, counts))
    assert_allclose(np.repeat(got, counts), repeated, atol=1e-12)


def lambda_weights(y, weights):
    return isotonic_l2(y, weights=weights)


@laws
@given(rows_of_equal_length(2), st.sampled_from([True, False]))
def test_isotonic_kl_is_optimal_and_shifts(rows, increasing):
    y, w = rows[0], rows[1] / 4
    fit = lambda y, w: call(isotonic_kl, y, w, increasing=increasing)
    v = fit(y, w)
    gradient = np.exp(w) - np.exp(y - v)
    assert oracles.isotonic_violation(v, gradient, increasing) < 1e-11 * np.exp(w).sum()
    assert_allclose(fit(y + 100, w - 7), v + 107, atol=1e-11)
    # Equal masses: isotonic regression of exp(y) itself (any Bregman divergence has the same fit)
    same = np.log(oracles.isotonic_l2(np.exp(y), increasing=increasing))
    assert_allclose(fit(y, np.zeros_like(y)), same, atol=1e-11)


# ------------------------------------------------------------------------------- permutahedron


@regularizations
@laws
@given(rows_of_equal_length(1), rows_of_equal_length(1, low=1), st.randoms(use_true_random=False))
def test_the_projection_is_certified_equivariant_and_ordered(regularization, theta, w, random):
    n = min(len(theta[0]), len(w[0]))
    n = max(k for k in LENGTHS if k <= n)
    theta, w = theta[0][:n], w[0][:n]
    project = lambda t, w: call(project_permutahedron, t, w, regularization=regularization)
    mu = project(theta, w)
    assert oracles.in_permutahedron(mu, w)
    assert oracles.duality_gap(mu, theta, w, regularization) < 1e-10 * (1 + w.sum())
    permutation = np.array(random.sample(range(n), n))
    assert_allclose(project(theta[permutation], w), mu[permutation], rtol=1e-12)
    assert_array_equal(project(theta, w[permutation]), mu)
    assert_allclose(project(theta + 8, w), mu, rtol=1e-11, atol=1e-11)
    ordered = mu[np.argsort(theta, kind="stable")]
    assert np.all(np.diff(ordered) >= -1e-12 * w.max())
    same = theta[:, None] == theta[None, :]
    assert_allclose((mu[:, None] - mu[None, :])[same], 0.0, atol=1e-12 * w.max())
    if regularization == "l2":
        assert_allclose(project(mu, w), mu, atol=1e-12)
        assert_allclose(project(4 * theta, 4 * w), 4 * mu, atol=1e-11)
    else:
        assert_allclose(project(np.log(mu), w), mu, rtol=1e-11)
        assert_allclose(project(theta, 4 * w), 4 * mu, rtol=1e-12)


@laws
@given(rows_of_equal_length(3, low=1))
def test_the_euclidean_projection_contracts(rows):
    a, b, w = rows
    project = lambda t, w: call(project_permutahedron, t, w)
    assert np.linalg.norm(project(a, w) - project(b, w)) <= np.linalg.norm(a - b) + 1e-12
    # ... and as a function of w: P(w) moves no further than its sorted vertex does.
    moved = np.linalg.norm(np.sort(w) - np.sort(b))
    assert np.linalg.norm(project(a, w) - project(a, b)) <= moved + 1e-12


# --------------------------------------------------------------------------- sorting, ranking


@regularizations
@laws
@given(rows_of_equal_length(1), epsilons, st.sampled_from([True, False]))
def test_ranks(regularization, rows, epsilon, descending):
    (x,), n = rows, len(rows[0])
    options = {"regularization": regularization, "descending": descending}
    rank = lambda x, e=epsilon: call(soft_rank_of, x, e, **options)
    got = rank(x)
    assert_allclose(got, oracles.soft_rank(x, epsilon, **options), rtol=1e-10, atol=1e-10)
    assert_allclose(got.sum(), n * (n + 1) / 2, rtol=1e-13)
    assert got.min() >= 1 - 1e-12
    assert got.max() <= n + 1e-12
    assert_allclose(rank(x + 16), got, rtol=1e-9, atol=1e-9)
    assert_allclose(rank(4 * x, 4 * epsilon), got, rtol=1e-11)
    other = options | {"descending": not descending}
    assert_allclose(call(soft_rank_of, -x, epsilon, **other), got, rtol=1e-12)
    if regularization == "l2":
        assert_allclose(call(soft_rank_of, x, epsilon, **other), n + 1 - got, atol=1e-11)
    threshold = float(call(hard_rank_epsilon, x if not descending else -x, **{
        "regularization": regularization}))  # fmt: skip
    if threshold > 0:
        hard = rankdata(-x if descending else x)
        assert_allclose(rank(x, min(threshold, 1e3)), hard, rtol=1e-12)


def soft_rank_of(x, epsilon, **options):
    return soft_rank(x, epsilon=epsilon, **options)


def soft_sort_of(x, epsilon, **options):
    return soft_sort(x, epsilon=epsilon, **options)


@regularizations
@laws
@given(rows_of_equal_length(1), epsilons, st.sampled_from([True, False]))
def test_sorts(regularization, rows, epsilon, descending):
    (x,) = rows
    options = {"regularization": regularization, "descending": descending}
    sort = lambda x, e=epsilon: call(soft_sort_of, x, e, **options)
    got = sort(x)
    assert_allclose(got, oracles.soft_sort(x, epsilon, **options), rtol=1e-10, atol=1e-10)
    assert np.all(np.diff(got) * (-1 if descending else 1) >= -1e-12)
    assert_allclose(sort(x[::-1]), got, atol=1e-12)
    assert_allclose(sort(x + 8), got + 8, atol=1e-10)
    other = options | {"descending": not descending}
    assert_allclose(call(soft_sort_of, -x, epsilon, **other), -got, atol=1e-12)
    if regularization == "l2":
        assert_allclose(got.sum(), x.sum(), atol=1e-11)
        assert_allclose(sort(4 * x, epsilon / 4), 4 * got, atol=1e-10)
        assert_allclose(call(soft_sort_of, x, epsilon, **other), got[::-1], atol=1e-11)
    else:  # the mass exp(values) is kept, of exp(-values) when ascending
        sign = 1 if descending else -1
        assert_allclose(logsumexp(sign * got), logsumexp(sign * x), atol=1e-11)
    # Pooling begins where a gap exceeds 1 / epsilon.
    if np.max(np.diff(np.sort(x)), initial=0) <= 1 / epsilon and regularization == "l2":
        assert_allclose(got, np.sort(x)[:: -1 if descending else 1], atol=1e-12)


@regularizations
@laws
@given(rows_of_equal_length(1), epsilons)
def test_top_k_and_quantiles(regularization, rows, epsilon):
    (x,), n = rows, len(rows[0])
    masks = []
    for k in range(1, n + 1):
        mask = call(top_k_of, x, epsilon, k=k, regularization=regularization)
        assert_allclose(mask, oracles.soft_top_k(x, k, epsilon, regularization), atol=1e-11)
        masks.append(mask)
    assert np.all(np.diff(masks, axis=0) >= -1e-12)  # the masks are nested
    assert_allclose(masks[-1], np.ones(n), rtol=1e-13)
    levels = [
        float(call(quantile_of, x, q, epsilon, regularization=regularization))
        for q in (0.0, 0.3, 0.5, 1.0)
    ]
    expected = [oracles.soft_quantile(x, q, epsilon, regularization) for q in (0, 0.3, 0.5, 1)]
    assert_allclose(levels, expected, rtol=1e-10, atol=1e-10)
    assert np.all(np.diff(levels) >= -1e-12)


def top_k_of(x, epsilon, *, k, **options):
    return soft_top_k(x, k, epsilon=epsilon, **options)


def quantile_of(x, q, epsilon, **options):
    return soft_quantile(x, q, epsilon=epsilon, **options)


# -------------------------------------------------------------------------------- derivatives

OPERATORS = {
    "isotonic_l2": lambda x, y: isotonic_l2(x, weights=jnp.exp(y / 4)),
    "isotonic_kl": lambda x, y: isotonic_kl(x, y / 4),
    "project_l2": lambda x, y: project_permutahedron(x, y),
    "project_kl": lambda x, y: project_permutahedron(x, jnp.exp(y / 4), regularization="kl"),
    "sort_l2": lambda x, y: soft_sort(x, epsilon=0.7),
    "sort_kl": lambda x, y: soft_sort(x, epsilon=0.7, regularization="kl"),
    "rank_l2": lambda x, y: soft_rank(x, epsilon=0.7),
    "rank_kl": lambda x, y: soft_rank(x, epsilon=0.7, regularization="kl"),
}


@cache
def both_products(name):
    operator = OPERATORS[name]

    def products(x, y, dx, dy, u):
        value, forward = jax.jvp(operator, (x, y), (dx, dy))
        return value, forward, jax.vjp(operator, x, y)[1](u)

    def second(x, y, dx, dy, u):
        gradient = jax.grad(lambda x, y: jnp.vdot(u, operator(x, y)), argnums=(0, 1))
        return jax.jvp(gradient, (x, y), (dx, dy))[1]

    return jax.jit(products), jax.jit(second)


@pytest.mark.parametrize("name", list(OPERATORS))
@laws
@given(arrays(np.float64, (5, 6), elements=quarters))
def test_the_derivative_and_its_transpose_are_one_map_also_at_ties(name, rows):
    x, y, dx, dy, u = rows
    products, second = both_products(name)
    value, forward, (back_x, back_y) = products(x, y, dx, dy, u)
    scale = 1 + np.linalg.norm(u) * (np.linalg.norm(dx) + np.linalg.norm(dy)) * (
        1 + np.abs(np.asarray(value)).max()
    )
    assert np.isfinite(forward).all()
    assert_allclose(np.vdot(u, forward), np.vdot(back_x, dx) + np.vdot(back_y, dy),
                    atol=1e-13 * scale)  # fmt: skip
    hessian_x, hessian_y = second(x, y, dx, dy, u)
    assert np.isfinite(hessian_x).all() and np.isfinite(hessian_y).all()
    # The Hessian is symmetric: <H a, b> = <H b, a>.
    swapped_x, swapped_y = second(x, y, u, u, u)
    left = np.vdot(hessian_x, u) + np.vdot(hessian_y, u)
    right = np.vdot(swapped_x, dx) + np.vdot(swapped_y, dy)
    assert_allclose(left, right, atol=1e-12 * scale * (1 + np.linalg.norm(u)))


@pytest.mark.parametrize("name", list(OPERATORS))
@laws
@given(st.randoms(use_true_random=False))
def test_the_derivative_is_the_slope_at_generic_points(name, random):
    draw = np.random.default_rng(random.getrandbits(32)).normal(size=(5, 6))
    x, y, dx, dy, u = draw * np.array([[3], [3], [1], [1], [1]])
    products, second = both_products(name)
    step = 1e-6
    _, forward, _ = products(x, y, dx, dy, u)
    ahead, _, (ahead_x, ahead_y) = products(x + step * dx, y + step * dy, dx, dy, u)
    behind, _, (behind_x, behind_y) = products(x - step * dx, y - step * dy, dx, dy, u)
    scale = 1 + np.abs(np.asarray(ahead)).max()
    assert_allclose(forward, (ahead - behind) / (2 * step), atol=3e-8 * scale)
    hessian_x, hessian_y = second(x, y, dx, dy, u)
    assert_allclose(hessian_x, (ahead_x - behind_x) / (2 * step), atol=1e-7 * scale)
    assert_allclose(hessian_y, (ahead_y - behind_y) / (2 * step), atol=1e-7 * scale)


# ------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", list(OPERATORS))
def test_value_and_derivatives_need_linear_memory(name):
    """Measured from the compiled program: an n-by-n array would need 20,000 numbers an item."""
    n = 20_000
    row = jax.ShapeDtypeStruct((n,), np.float64)
    for program in both_products(name):
        memory = program.lower(row, row, row, row, row).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 100 * n * 8
