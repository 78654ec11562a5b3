"""Projections against the vertices of each set, against a general solver, and at their edges."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq, isotonic_regression, minimize

from diffopt import kernels
from diffopt.projections import (
    project_box,
    project_knapsack,
    project_l1_ball,
    project_l2_ball,
    project_order_simplex,
    project_product,
    project_simplex,
)

N = 4
regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])
CUBE = np.array(list(product([0.0, 1.0], repeat=N)))
SIZE = CUBE.sum(1)

# name: projection, its vertices on the non-negative side, inequalities A mu <= b beside mu >= 0
SETS = {
    "simplex": (
        partial(project_simplex, total=1.5),
        1.5 * np.eye(N),
        (np.array([np.ones(N), -np.ones(N)]), np.array([1.5, -1.5])),
    ),
    "cube": (project_box, CUBE, (np.eye(N), np.ones(N))),
    "knapsack": (
        partial(project_knapsack, min_items=1, max_items=2),
        CUBE[(SIZE >= 1) & (SIZE <= 2)],
        (np.array([*np.eye(N), np.ones(N), -np.ones(N)]), np.array([1.0] * N + [2.0, -1.0])),
    ),
    "many": (
        partial(project_knapsack, min_items=3),
        CUBE[SIZE >= 3],
        (np.array([*np.eye(N), -np.ones(N)]), np.array([1.0] * N + [-3.0])),
    ),
    "capped": (
        partial(project_knapsack, min_items=2, max_items=2),
        CUBE[SIZE == 2],
        (np.array([*np.eye(N), np.ones(N), -np.ones(N)]), np.array([1.0] * N + [2.0, -2.0])),
    ),
    "l1": (
        partial(project_l1_ball, radius=2.0),
        2 * np.array([np.zeros(N), *np.eye(N)]),
        (np.ones((1, N)), np.array([2.0])),
    ),
    "order": (
        project_order_simplex,
        np.tri(N + 1, N, -1),
        (np.array([*(np.eye(N, k=1)[:-1] - np.eye(N)[:-1]), np.eye(N)[0]]), np.eye(N)[-1]),
    ),
}
names = pytest.mark.parametrize("name", list(SETS))

rng = np.random.default_rng(0)
THETA = np.concatenate(
    [
        rng.normal(size=(12, N)) * 2,
        rng.normal(size=(8, N)) / 10,
        rng.normal(size=(8, N)) * 50,
        rng.integers(-4, 5, size=(28, N)) / 2,  # ties, points of the set, points on its edges
        CUBE,
        np.full((2, N), 0.7),
    ]
)
GENERIC = THETA[:12]


@cache
def compiled(name, regularization):
    return jax.jit(partial(SETS[name][0], regularization=regularization))


def project(name, theta, regularization="l2"):
    return np.asarray(compiled(name, regularization)(jnp.asarray(theta)))


def gap(mu, theta, vertices, regularization):
    """max over vertices v of <gradient, mu - v>, an upper bound of the error in the objective."""
    gradient = mu - theta if regularization == "l2" else np.log(mu) - theta
    return np.sum(gradient * mu, -1) - np.min(gradient @ vertices.T, -1)


# ------------------------------------------------------------------------------------- values


@names
@regularizations
def test_every_projection_has_a_certificate_from_the_vertices(name, regularization):
    _, vertices, (a, b) = SETS[name]
    theta = THETA
    if name == "l1" and regularization == "l2":
        theta = np.abs(theta)
    mu = project(name, theta, regularization)
    assert (mu @ a.T <= b + 1e-12).all()
    assert (mu >= 0).all()
    keep = (mu > 0).all(-1) if regularization == "kl" else np.ones(len(mu), bool)
    assert keep.sum() > 40
    gaps = gap(mu[keep], theta[keep], vertices, regularization)
    assert (np.abs(gaps) < 1e-11 * (1 + np.abs(theta[keep]).max(-1))).all()
    # A point a little off must not get a certificate.
    other = 0.99 * mu + 0.01 * vertices.mean(0)
    moved = keep & (np.abs(other - mu).max(-1) > 1e-3)
    assert (gap(other[moved], theta[moved], vertices, regularization) > 1e-7).all()


@names
@regularizations
def test_against_a_general_solver(name, regularization):
    _, vertices, (a, b) = SETS[name]
    theta = np.abs(GENERIC[:5]) if name == "l1" else GENERIC[:5]
    for row, mu in zip(theta, project(name, theta, regularization), strict=True):
        solution = minimize(
            lambda m, row=row: oracles.objective(m, row, regularization),
            vertices.mean(0),
            method="SLSQP",
            bounds=[(1e-12, None)] * N,
            constraints={"type": "ineq", "fun": lambda m, a=a, b=b: b - a @ m},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert_allclose(mu, solution.x, atol=1e-6)


@names
@regularizations
def test_points_of_the_set_stay(name, regularization):
    vertices = SETS[name][1]
    weights = rng.dirichlet(np.ones(len(vertices)), size=len(THETA))
    points = weights @ vertices
    if regularization == "l2":
        points[: len(vertices)] = vertices
        assert_allclose(project(name, points), points, atol=1e-15)
    else:
        assert_allclose(project(name, np.log(points), "kl"), points, atol=1e-15)


@names
@regularizations
@pytest.mark.parametrize("scale", [1e4, 1e9])
def test_scores_far_apart_meet_the_best_vertex(name, regularization, scale):
    vertices = SETS[name][1]
    theta = np.resize(GENERIC, THETA.shape) * scale
    theta = np.abs(theta) if name == "l1" else theta
    best = vertices[np.argmax(theta @ vertices.T, -1)]
    assert_allclose(project(name, theta, regularization), best, atol=1e-15)


@regularizations
def test_far_scores_keep_the_digits_of_their_differences(regularization):
    near = rng.integers(-64, 64, size=(len(THETA), N)) / 64
    for name in ("simplex", "capped"):  # invariant to a shift
        shifted = project(name, near + 2.0**30, regularization)
        assert_allclose(shifted, project(name, near, regularization), atol=1e-15)
    wide = np.concatenate([near[:, :3], np.full((len(near), 1), 2.0**30)], 1)
    rest = project_knapsack(jnp.asarray(near[:, :3]), 1, 1, regularization=regularization)
    assert_allclose(project("capped", wide, regularization)[:, :3], rest, atol=1e-15)


def test_by_hand():
    assert_allclose(project_simplex(jnp.array([-2.0, 0.0, 0.5])), [0, 0.25, 0.75])
    theta = jnp.array([0.5, 2.0, -1.0, 1.5])
    assert_allclose(project_knapsack(theta, 1.5, 1.5), [0.0, 1.0, 0.0, 0.5])
    assert_allclose(project_l1_ball(jnp.array([3.0, -2.5, 0.5]), 2.0), [1.25, -0.75, 0])
    assert_allclose(project_l2_ball(jnp.array([3.0, 4.0])), [0.6, 0.8])
    assert_allclose(project_order_simplex(jnp.array([3.0, 0.25, 0.75, -2])), [1, 0.5, 0.5, 0])
    # KL: two items full, the third takes what is left of 2.5
    mu = project_knapsack(jnp.log(jnp.array([8.0, 4.0, 1.0, 1.0])), 3, 3, regularization="kl")
    assert_allclose(mu, [1, 1, 0.5, 0.5], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@regularizations
def test_long_rows(dtype, regularization):
    n = 5000
    theta = np.random.default_rng(3).normal(size=(2, n)).astype(dtype)
    theta[1] *= 30
    eps = float(np.finfo(dtype).eps)
    mu = np.asarray(project_simplex(jnp.asarray(theta), regularization=regularization), float)
    assert_allclose(mu.sum(-1), 1, atol=50 * eps)
    if regularization == "l2":
        order = np.sort(theta.astype(float))[:, ::-1]
        levels = (np.cumsum(order, -1) - 1) / np.arange(1, n + 1)
        support = (order > levels).sum(-1)
        expected = np.maximum(theta - levels[np.arange(2), support - 1][:, None], 0)
        assert_allclose(mu, expected, atol=50 * eps)
    mu = np.asarray(project_knapsack(jnp.asarray(theta), 40, 70, regularization=regularization))
    assert_allclose(mu.sum(-1, dtype=float), 70, rtol=100 * eps)
    free = (mu > 0) & (mu < 1)
    for row, t, inner in zip(mu, theta, free, strict=True):
        shift = t[inner] - (row[inner] if regularization == "l2" else np.log(row[inner]))
        assert np.ptp(shift) < 100 * eps * np.abs(t).max()
        assert t[row == 1].min(initial=np.inf) >= t[inner].max(initial=-np.inf)
        assert t[inner].min(initial=np.inf) >= t[row == 0].max(initial=-np.inf)


def test_a_row_that_a_plain_newton_method_leaves_by_the_bracket():
    """Once a bisection step that kept the face ended the search there."""
    theta = np.abs(np.random.default_rng(0).normal(size=(3000, N)))
    mu = np.asarray(project_simplex(jnp.asarray(theta)))
    assert np.abs(gap(mu, theta, np.eye(N), "l2")).max() < 1e-13


def test_order_simplex_is_bounded_isotonic_regression():
    theta = rng.normal(size=(3, 50)) + np.linspace(1.5, -0.5, 50)
    expected = [isotonic_regression(row, increasing=False).x for row in theta]
    got = np.asarray(project_order_simplex(jnp.asarray(theta)))
    assert_allclose(got, np.clip(expected, 0, 1), atol=1e-13)


def test_box_with_its_own_bounds():
    theta = jnp.array([[-3.0, 0.2, 5.0], [0.0, 1.0, 2.0]])
    low, high = jnp.array([[0.1, 0.2, 0.3]]), jnp.array([[1.0], [jnp.inf]])
    assert_allclose(project_box(theta, low, high), np.clip(theta, low, high))
    kl = project_box(theta, low, high, regularization="kl")
    assert_allclose(kl, np.clip(np.exp(theta), low, high), rtol=1e-14)


def test_l2_ball_is_the_nearest_point():
    theta = rng.normal(size=(50, 3)) * 2
    mu = np.asarray(project_l2_ball(jnp.asarray(theta), 1.5))
    inside = np.linalg.norm(theta, axis=-1) <= 1.5
    assert 0 < inside.sum() < 50
    assert_array_equal(mu[inside], theta[inside])
    assert_allclose(np.linalg.norm(mu[~inside], axis=-1), 1.5)
    assert_allclose(np.cross(mu, theta), 0, atol=1e-14)
    for size in (1e30, 1e-30):
        unit = project_l2_ball(jnp.full(4, size, jnp.float32), jnp.float32(size))
        assert_allclose(unit, size / 2, rtol=1e-6)
    assert_array_equal(project_l2_ball(jnp.zeros(3), 0.0), np.zeros(3))
    assert np.isfinite(jax.jacobian(project_l2_ball)(jnp.zeros(3))).all()


@regularizations
def test_products(regularization):
    theta = jnp.asarray(rng.normal(size=(2, 7, 3)))
    parts = [project_simplex, partial(project_knapsack, max_items=1), project_order_simplex]
    options = {"regularization": regularization, "axis": 1}
    got = project_product(theta, parts, [2, 3, 2], **options)
    for part, piece in zip(parts, (slice(0, 2), slice(2, 5), slice(5, 7)), strict=True):
        assert_array_equal(got[:, piece], part(theta[:, piece], **options))


# -------------------------------------------------------------------------------- derivatives


@cache
def products(name, regularization):
    function = compiled(name, regularization)

    def both(theta, d, u):
        mu, forward = jax.jvp(function, (theta,), (d,))
        gradient = lambda t: jax.vjp(function, t)[1](u)[0]
        backward, second = jax.jvp(gradient, (theta,), (d,))
        return mu, forward, backward, second

    return jax.jit(both)


@names
@regularizations
def test_derivatives(name, regularization):
    """Slopes at generic points; one linear map and its transpose everywhere, ties included."""
    run = products(name, regularization)
    theta, d, u = np.stack([THETA, *rng.normal(size=(2, *THETA.shape))])
    _, forward, backward, second = (np.asarray(a) for a in run(theta, d, u))
    assert np.isfinite(forward).all()
    assert np.isfinite(second).all()
    assert_allclose((u * forward).sum(-1), (d * backward).sum(-1), atol=1e-12)
    step = 1e-6
    ahead, behind = (run(theta + sign * step * d, d, u) for sign in (1, -1))
    slope, slope2 = ((np.asarray(ahead[i] - behind[i])) / (2 * step) for i in (0, 2))
    generic = slice(0, 12)
    assert_allclose(forward[generic], slope[generic], atol=1e-8)
    assert_allclose(second[generic], slope2[generic], atol=1e-8)
    assert np.abs(slope[generic]).max() > 0.1


@regularizations
def test_derivatives_in_the_bounds(regularization):
    theta = jnp.asarray(GENERIC[0])
    for function, at in (
        (lambda t: project_simplex(theta, t, regularization=regularization), 1.3),
        (lambda t: project_knapsack(theta, t, 3.7, regularization=regularization), 3.5),
        (lambda t: project_l1_ball(theta, t, regularization=regularization), 0.4),
    ):
        at = jnp.array([at, at + 1e-6, at - 1e-6])
        value, slope = jax.jit(jax.vmap(lambda t, f=function: jax.jvp(f, (t,), (1.0,))))(at)
        assert_allclose(slope[0], (value[1] - value[2]) / 2e-6, atol=1e-8)
        back = jax.jit(jax.grad(lambda t, f=function: f(t) @ jnp.arange(1.0, N + 1)))(at[0])
        assert_allclose(back, slope[0] @ np.arange(1.0, N + 1), atol=1e-12)


@regularizations
def test_points_of_a_capped_simplex_have_the_slope_of_its_plane(regularization):
    mu = jnp.array([0.5, 0.625, 0.875, 0.0, 1.0])
    theta = mu if regularization == "l2" else jnp.log(mu)
    theta = theta + jnp.array([0, 0, 0, -0.5, 0.5])
    function = partial(project_knapsack, min_items=3, max_items=3, regularization=regularization)
    assert_allclose(function(theta), mu, atol=1e-15)
    ahead, behind = (jax.vmap(function)(theta[None] + sign * 1e-6 * jnp.eye(5)) for sign in (1, -1))
    expected = jnp.where(jnp.isfinite(theta), (ahead - behind).T / 2e-6, 0)
    assert_allclose(jax.jacobian(function)(theta), expected, atol=1e-8)


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_single_precision_at_a_large_scale(backend):
    """The scores are exact in both precisions, and so is what counts: their differences."""
    steps = np.random.default_rng(5).integers(-9, 9, size=(40, 60))
    theta = np.array(1e9 + 64.0 * steps, np.float32)
    with kernels.use_backend(backend):
        for function in (partial(project_simplex, total=200.0), partial(project_simplex, total=1),
                         partial(project_knapsack, min_items=7, max_items=7)):  # fmt: skip
            exact = np.asarray(function(theta.astype(float)))
            got = np.asarray(function(theta))
            assert got.dtype == np.float32
            assert_allclose(got, exact, rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------- edges

EVERY = [*(SETS[name][0] for name in SETS if name != "many"), project_l2_ball]
functions = pytest.mark.parametrize("function", EVERY, ids=lambda f: getattr(f, "func", f).__name__)


@functions
def test_shapes_axes_types(function, x64):
    theta = jnp.asarray(GENERIC[:6].reshape(2, 3, N), jnp.result_type(float))
    out = function(theta)
    assert out.dtype == theta.dtype
    half = jnp.float16 if x64 else jnp.bfloat16
    low = function(theta.astype(half))
    assert low.dtype == half
    expected = function(theta.astype(half).astype(jnp.float32))
    assert_allclose(low.astype(jnp.float32), expected, atol=float(jnp.finfo(half).eps))
    if x64:
        moved = function(jnp.moveaxis(theta, -1, 1), axis=1)
        assert_allclose(jnp.moveaxis(moved, 1, -1), out, atol=1e-14)
        mapped = jax.vmap(function, in_axes=1, out_axes=1)(theta)
        assert_allclose(mapped, out, atol=1e-14)
        assert function(jnp.zeros((0, N))).shape == (0, N)
    else:
        assert function(jnp.ones((2, 3, N), int)).dtype == jnp.float32


@functions
def test_nan_spoils_its_row_only(function):
    theta = jnp.asarray(GENERIC[:3]).at[1, 2].set(jnp.nan)
    out = np.asarray(function(theta))
    assert np.isfinite(out[[0, 2]]).all()
    assert np.isnan(out[1, 2])
    assert np.isnan(out[1]).all() or function is project_box


@regularizations
def test_infinite_scores_are_limits(regularization):
    inf = jnp.inf
    options = {"regularization": regularization}
    theta = jnp.array([inf, 1.0, 0.5, -inf])
    limit = theta.at[0].set(1e7).at[3].set(-1e7)
    for function in (project_simplex, partial(project_knapsack, min_items=2, max_items=2),
                     partial(project_knapsack, min_items=3), project_box):  # fmt: skip
        assert_allclose(function(theta, **options), function(limit, **options), atol=1e-9)
        assert np.isfinite(jax.jacobian(partial(function, **options))(theta)).all()
    ties = project_simplex(jnp.array([inf, 3.0, inf]), **options)
    assert_allclose(ties, [0.5, 0, 0.5])
    assert_allclose(project_simplex(jnp.full(4, -inf), **options), np.full(4, 0.25))
    dropped = project_knapsack(jnp.array([1.0, -inf, -inf]), 2, 3, **options)
    assert_allclose(dropped, [1, 0.5, 0.5])


@regularizations
def test_degenerate_sets(regularization):
    options = {"regularization": regularization}
    theta = jnp.asarray(GENERIC[:2])
    assert_array_equal(project_simplex(theta, 0.0, **options), np.zeros((2, N)))
    assert_array_equal(project_knapsack(theta, 0, 0, **options), np.zeros((2, N)))
    assert_allclose(project_knapsack(theta, N, N, **options), np.ones((2, N)))
    assert_array_equal(project_l1_ball(theta, 0.0, **options), np.zeros((2, N)))
    assert_allclose(project_simplex(theta[:, :1], 3.0, **options), np.full((2, 1), 3.0))
    assert project_knapsack(jnp.zeros((2, 0)), **options).shape == (2, 0)
    assert project_order_simplex(jnp.zeros((2, 0)), **options).shape == (2, 0)
    assert project_l1_ball(jnp.zeros((2, 0)), **options).shape == (2, 0)


@regularizations
def test_bounds_for_each_row(regularization):
    theta = jnp.asarray(GENERIC[:3])
    options = {"regularization": regularization}
    low, high = jnp.array([0, 2, 3]), jnp.array([1.0, 2.5, 4.0])
    got = project_knapsack(theta, low, high, **options)
    alone = [project_knapsack(t, a, b, **options) for t, a, b in zip(theta, low, high, strict=True)]
    assert_allclose(got, np.stack(alone), atol=1e-15)
    assert_allclose(project_simplex(theta.T, high, axis=0, **options).sum(0), high)
    jitted = jax.jit(lambda t, k: project_knapsack(t, k, k, **options))(theta, 2)
    assert_allclose(jitted.sum(-1), 2.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda t: project_knapsack(t, 5), ValueError, "min_items.*number of items.*empty"),
        (lambda t: project_knapsack(t, 3, 2), ValueError, "min_items.*max_items.*3 and 2"),
        (lambda t: project_knapsack(t, -2, -1), ValueError, "max_items.*empty"),
        (lambda t: project_simplex(t, -1.0), ValueError, "total.*at least 0.*-1.0"),
        (lambda t: project_simplex(t[:, :0]), ValueError, "theta.*at least one item"),
        (lambda t: project_simplex(t, jnp.ones(3)), ValueError, "total.*theta without axis"),
        (lambda t: project_box(t, 1.0, 0.0), ValueError, "low.*high.*empty"),
        (lambda t: project_box(t, -1.0, regularization="kl"), ValueError, "low.*at least 0"),
        (lambda t: project_l1_ball(t, -1.0), ValueError, "radius"),
        (lambda t: project_l2_ball(t, -1.0), ValueError, "radius"),
        (lambda t: project_order_simplex(t, axis=2), ValueError, "axis.*theta.*2"),
        (lambda t: project_simplex(t, regularization="KL"), ValueError, "regularization.*'KL'"),
        (lambda t: project_product(t, [project_box], [3]), ValueError, "sizes.*4 items"),
        (lambda t: project_product(t, [project_box], [2, 2]), ValueError, "sizes.*projections"),
        (lambda t: project_simplex("a"), TypeError, "theta"),
        (lambda t: project_simplex(t, "a"), TypeError, "total"),
    ],
)
def test_wrong_use(call, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        call(jnp.zeros((2, N)))


# ------------------------------------------------------------------------------------- weights


def weighted_data():
    random = np.random.default_rng(6)
    theta, w = random.normal(size=(6, 7)), random.uniform(0.2, 2, size=(6, 7))
    theta[3] = 1.0  # ties
    w[4, 2] = 0
    return theta, w, np.array([0.5, 1.0, 2.0, 1.5, 4.0, 3.0])


@regularizations
def test_weighted_knapsack_against_bisection_and_differences(regularization):
    theta, w, total = weighted_data()
    inner = (lambda v: np.clip(v, 0, 1)) if regularization == "l2" else lambda v: np.exp(min(v, 0))
    project = lambda x, w, b: project_knapsack(x, b, b, weights=w, regularization=regularization)
    directions = tuple(np.cos(np.arange(a.size)).reshape(a.shape) for a in (theta, w, total))
    directions[1][4, 2] = 0  # a weight stays at its end
    u = np.sin(np.arange(theta.size)).reshape(theta.shape)

    @jax.jit
    def both(*point):
        mu, forward = jax.jvp(project, point, directions)
        gradient = lambda *point: jax.vjp(project, *point)[1](u)
        backward, second = jax.jvp(gradient, point, directions)
        return mu, forward, backward, second

    point = theta, w, total
    mu, forward, backward, second = both(*point)
    for x, v, b, got in zip(*point, np.asarray(mu), strict=True):
        solution = lambda t, x=x, v=v: np.vectorize(inner)(x - t * v)
        t = brentq(lambda t, v=v, b=b: v @ solution(t) - b, -200, 200, xtol=1e-14)  # noqa: B023
        assert_allclose(got, solution(t), atol=1e-12)
    pairs = zip(directions, backward, strict=True)
    assert_allclose(np.vdot(u, forward), sum(np.vdot(d, g) for d, g in pairs), atol=1e-9)
    step = 1e-6
    move = lambda s: both(*(a + s * step * d for a, d in zip(point, directions, strict=True)))
    ahead, behind = move(1), move(-1)
    assert_allclose(forward, (ahead[0] - behind[0]) / (2 * step), atol=1e-7)
    for got, up, down in zip(second, ahead[2], behind[2], strict=True):
        assert_allclose(got, (up - down) / (2 * step), atol=1e-6)
    assert np.abs(forward).max() > 0.1


@regularizations
def test_weights_of_one_infinite_scores_and_slack_bounds(regularization):
    theta, w, _ = weighted_data()
    project = partial(project_knapsack, regularization=regularization)
    assert_allclose(project(theta, 2, 3, weights=1.0), project(theta, 2, 3), atol=1e-12)
    free = project_box(theta, regularization=regularization)
    assert_allclose(project(theta, weights=w), free)
    theta[:, 0], theta[:, 1] = -np.inf, np.inf
    mu = np.asarray(project(theta, 2.5, 2.5, weights=w))
    assert_allclose((w * mu).sum(-1), 2.5)
    assert_array_equal(mu[:, 0], 0)
    assert_array_equal(mu[:, 1], 1)
    with pytest.raises(ValueError, match="weights must not be negative"):
        project(theta, 1, weights=-w)
    with pytest.raises(ValueError, match="min_items must not exceed the weight of all items"):
        project(theta, 100, weights=w)
