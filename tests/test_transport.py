"""Transport polytopes against their vertices, general solvers and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment, linprog, minimize

from diffopt.transport import project_birkhoff, project_transport, solve_transport

regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])
N = 4
rng = np.random.default_rng(0)
THETA = np.concatenate(
    [
        rng.normal(size=(8, N, N)),
        rng.normal(size=(4, N, N)) / 100,
        rng.normal(size=(8, N, N)) * 20,
        rng.integers(-3, 4, size=(8, N, N)) / 2.0,
        np.eye(N)[rng.permuted(np.tile(np.arange(N), (4, 1)), axis=1)],
        np.zeros((1, N, N)),
    ]
)
ROWS, COLUMNS = np.array([1.0, 0.5, 2.5]), np.array([0.5, 1.5, 0.25, 1.0, 0.75])


@partial(jax.jit, static_argnames="regularization")
def birkhoff(theta, regularization="l2"):
    ones = np.ones(theta.shape[-1])
    return solve_transport(theta, ones, ones, regularization=regularization)


def best_assignment(scores):
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return scores[rows, columns].sum()


def gap(mu, theta, regularization):
    """The Frank-Wolfe gap over permutations: an upper bound of the error in the objective."""
    gradient = mu - theta if regularization == "l2" else np.log(mu) - theta
    return (gradient * mu).sum() + best_assignment(-gradient)


# ------------------------------------------------------------------------------------- values


@regularizations
def test_every_projection_has_a_certificate(regularization):
    solution = birkhoff(THETA, regularization)
    assert solution.converged.all()
    mu = np.asarray(solution.value)
    assert (mu >= 0).all()
    assert_allclose(mu.sum(-1), 1, atol=2e-12)
    assert_allclose(mu.sum(-2), 1, atol=2e-12)
    for one, theta in zip(mu, THETA, strict=True):
        if regularization == "l2" or one.min() > 0:
            assert abs(gap(one, theta, regularization)) < 1e-11 * (1 + np.abs(theta).max())
            wrong = 0.99 * one + 0.01 / N
            if np.abs(wrong - one).max() > 1e-4:
                assert gap(wrong, theta, regularization) > 1e-8


def slsqp(theta, a, b, regularization):
    n, m = theta.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    solution = minimize(
        lambda x: oracles.objective(x, theta.ravel(), regularization),
        np.outer(a, b).ravel() / a.sum(),
        method="SLSQP",
        bounds=[(1e-13, None)] * (n * m),
        constraints={"type": "eq", "fun": lambda x: (sums @ x - np.concatenate([a, b]))[:-1]},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return solution.x.reshape(n, m)


@regularizations
def test_against_a_general_solver(regularization):
    theta = rng.normal(size=(3, 5))
    got = project_transport(theta, ROWS, COLUMNS, regularization=regularization)
    assert_allclose(got, slsqp(theta, ROWS, COLUMNS, regularization), atol=1e-6)
    turned = project_transport(theta.T, COLUMNS, ROWS, regularization=regularization)
    assert_allclose(turned.T, got, atol=1e-12)


def test_kl_is_what_sinkhorn_tends_to():
    theta = rng.normal(size=(3, 5)) * 2
    mu = np.exp(theta)
    for _ in range(500):
        mu *= (ROWS / mu.sum(1))[:, None]
        mu *= COLUMNS / mu.sum(0)
    got = project_transport(theta, ROWS, COLUMNS, regularization="kl")
    assert_allclose(got, mu, atol=1e-12)


@regularizations
def test_two_by_two_by_hand(regularization):
    """One unknown, the diagonal p: with d the difference of the diagonals, clip or sigmoid."""
    theta = rng.normal(size=(9, 2, 2))
    d = (theta[:, 0, 0] + theta[:, 1, 1] - theta[:, 0, 1] - theta[:, 1, 0]) / 2
    p = np.clip((d + 1) / 2, 0, 1) if regularization == "l2" else 1 / (1 + np.exp(-d))
    got = np.asarray(project_birkhoff(theta, regularization=regularization))
    assert_allclose(got[:, 0, 0], p, atol=1e-12)
    assert_allclose(got[:, 0, 1], 1 - p, atol=1e-12)


@regularizations
@pytest.mark.parametrize("scale", [1e4, 1e9])
def test_scores_far_apart_meet_the_best_permutation(regularization, scale):
    theta = np.resize(THETA[:8], THETA.shape) * scale
    solution = birkhoff(theta, regularization)
    assert solution.converged.all()
    best = [linear_sum_assignment(t, maximize=True)[1] for t in theta]
    assert_allclose(solution.value, np.eye(N)[best], atol=1e-9)


@regularizations
def test_projecting_twice_and_shifting_by_potentials(regularization):
    shift = rng.normal(size=(len(THETA), N, 1)) + rng.normal(size=(len(THETA), 1, N))
    mu = np.asarray(birkhoff(THETA, regularization).value)
    assert_allclose(birkhoff(THETA + shift, regularization).value, mu, atol=1e-10)
    if regularization == "l2":
        assert_allclose(birkhoff(mu).value, mu, atol=1e-11)
        vertices = np.eye(N)[rng.permuted(np.tile(np.arange(N), (len(THETA), 1)), axis=1)]
        assert_allclose(birkhoff(vertices).value, vertices, atol=1e-12)


@regularizations
def test_larger_matrices(regularization):
    theta = rng.normal(size=(2, 40, 40)) * np.array([1.0, 30.0]).reshape(2, 1, 1)
    solution = birkhoff(theta, regularization)
    assert solution.converged.all()
    assert solution.iterations.max() < 100
    if regularization == "l2":
        for mu, t in zip(np.asarray(solution.value), theta, strict=True):
            assert abs(gap(mu, t, regularization)) < 1e-9 * np.abs(t).max()


# -------------------------------------------------------------------------------- derivatives


@regularizations
def test_derivatives(regularization):
    function = lambda t: project_birkhoff(t, regularization=regularization)

    @jax.jit
    def both(theta, d, u):
        mu, forward = jax.jvp(function, (theta,), (d,))
        gradient = lambda t: jax.vjp(function, t)[1](u)[0]
        backward, second = jax.jvp(gradient, (theta,), (d,))
        return mu, forward, backward, second

    theta = np.concatenate([THETA[:8], THETA[20:33]])
    d, u = rng.normal(size=(2, *theta.shape))
    _, forward, backward, second = (np.asarray(a) for a in both(theta, d, u))
    assert np.isfinite(second).all()
    assert_allclose((u * forward).sum((1, 2)), (d * backward).sum((1, 2)), atol=1e-9)
    assert_allclose(forward.sum(1), 0, atol=1e-9)  # sums stay
    assert_allclose(forward.sum(2), 0, atol=1e-9)
    step = 1e-6
    ahead, behind = (both(theta + sign * step * d, d, u) for sign in (1, -1))
    slope, slope2 = (np.asarray(ahead[i] - behind[i]) / (2 * step) for i in (0, 2))
    assert_allclose(forward[:8], slope[:8], atol=1e-6)
    assert_allclose(second[:8], slope2[:8], atol=1e-6)
    assert np.abs(slope[:8]).max() > 0.1


@regularizations
def test_derivative_of_a_transport_plan(regularization):
    theta = rng.normal(size=(3, 5))
    function = partial(project_transport, rows=ROWS, columns=COLUMNS, regularization=regularization)
    jacobian = jax.jacrev(function)(theta)
    assert_allclose(jacobian, jax.jacfwd(function)(theta), atol=1e-10)
    assert_allclose(jacobian, oracles.jacobian(function, theta), atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
@regularizations
def test_derivative_in_the_sums(regularization, shape):
    """Along the sums of other plans, so that totals stay equal; in batches and both modes."""
    random = np.random.default_rng(4)
    theta = random.normal(size=(4, *shape))
    plan, other, u = random.uniform(0.5, 1.5, size=(3, *theta.shape))
    sums = plan.sum(-1), plan.sum(-2)
    d = other.sum(-1), other.sum(-2)
    d = tuple(x - y * (other.sum() / plan.sum()) for x, y in zip(d, sums, strict=True))
    factor = (d[0].sum(-1) / d[1].sum(-1))[:, None]
    d = d[0], d[1] * factor

    @jax.jit
    def both(rows, columns):
        function = lambda a, b: project_transport(theta, a, b, regularization=regularization)
        mu, forward = jax.jvp(function, (rows, columns), d)
        return mu, forward, jax.vjp(function, rows, columns)[1](u)

    mu, forward, backward = both(*sums)
    step = 1e-6
    ahead, behind = (both(*(s + k * step * x for s, x in zip(sums, d, strict=True)))[0]
                     for k in (1, -1))  # fmt: skip
    if regularization == "l2":
        assert (np.asarray(mu) == 0).any()  # some pairs are not in use
    assert_allclose(forward, (ahead - behind) / (2 * step), atol=1e-6)
    assert_allclose(np.sum(forward, -1), d[0], atol=1e-9)
    assert_allclose(np.sum(forward, -2), d[1], atol=1e-9)
    assert_allclose(
        (u * forward).sum(), sum((x * y).sum() for x, y in zip(d, backward, strict=True))
    )
    assert np.abs(forward).max() > 0.1


# -------------------------------------------------------------------------------------- edges


@regularizations
def test_shapes_and_types(regularization, x64):
    theta = jnp.asarray(THETA[:4].reshape(2, 2, N, N), jnp.result_type(float))
    function = partial(project_birkhoff, regularization=regularization)
    out = function(theta)
    assert out.dtype == theta.dtype
    assert out.shape == theta.shape
    atol = 1e-10 if x64 else 1e-5
    assert_allclose(out, birkhoff(np.asarray(theta), regularization).value, atol=atol)
    if x64:
        assert_allclose(jax.vmap(function, 1, 1)(theta), out, atol=atol)
        assert function(jnp.zeros((0, 2, 2))).shape == (0, 2, 2)
        assert_array_equal(function(jnp.full((2, 1, 1), 7)), np.ones((2, 1, 1)))
    else:
        half = function(theta.astype(jnp.bfloat16))
        assert half.dtype == jnp.bfloat16
        assert_allclose(half.astype(jnp.float32).sum(-1), 1, atol=0.02)


@regularizations
def test_forbidden_pairs_empty_rows_and_nan(regularization):
    theta = jnp.asarray(THETA[:2])
    forbidden = theta.at[0, 0, 1].set(-jnp.inf).at[0, 0, 2].set(-jnp.inf)
    out = np.asarray(project_birkhoff(forbidden, regularization=regularization))
    assert_array_equal(out[0, 0, 1:3], 0)
    assert_allclose(out.sum(-1), 1)
    large = theta.at[0, 0, 1].set(-1e3).at[0, 0, 2].set(-1e3)
    assert_allclose(out, project_birkhoff(large, regularization=regularization), atol=1e-10)
    gradient = jax.grad(lambda t: project_birkhoff(t, regularization=regularization)[0, 1, 2])
    assert np.isfinite(gradient(forbidden)).all()
    rows = jnp.array([0.0, 2.0, 1.0, 1.0])
    out = project_transport(theta[0], rows, jnp.ones(N), regularization=regularization)
    assert_array_equal(out[0], 0)
    assert_allclose(out.sum(-1), rows)
    spoilt = theta.at[1, 2, 3].set(jnp.nan)
    out = np.asarray(project_birkhoff(spoilt, regularization=regularization))
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[0]).all()


@regularizations
def test_units_of_mass(regularization):
    theta = rng.normal(size=(3, 5))
    options = {"regularization": regularization}
    small = project_transport(theta, ROWS, COLUMNS, **options)
    factor = 1e6 if regularization == "kl" else 1.0
    scaled = project_transport(theta, ROWS * 1e6, COLUMNS * 1e6, **options)
    if regularization == "l2":
        scaled = project_transport(theta * 1e6, ROWS * 1e6, COLUMNS * 1e6, **options)
        factor = 1e6
    assert_allclose(scaled, small * factor, rtol=1e-8, atol=1e-6)


def test_a_small_strength_meets_the_linear_program():
    theta = rng.normal(size=(3, 5))
    sums = np.concatenate([np.kron(np.eye(3), np.ones(5)), np.kron(np.ones(3), np.eye(5))])
    plan = linprog(-theta.ravel(), A_eq=sums, b_eq=np.concatenate([ROWS, COLUMNS])).x
    for regularization in ("l2", "kl"):
        got = project_transport(theta * 1e5, ROWS, COLUMNS, regularization=regularization)
        assert_allclose(got.ravel(), plan, atol=1e-9)


def test_what_the_solver_tells():
    hard = solve_transport(THETA[:3] * 1e3, np.ones(N), np.ones(N), max_iter=3)
    assert not hard.converged.any()
    assert (hard.iterations == 3).all()
    assert (hard.error > 1e-6).all()
    loose = solve_transport(THETA[:3], np.ones(N), np.ones(N), tol=1e-2)
    assert loose.converged.all()
    assert (loose.error <= 1e-2).all()
    sums = np.asarray(loose.value).sum(-1)
    assert np.abs(sums - 1).max() <= 1e-2 + 1e-12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: project_birkhoff(jnp.zeros((2, 3))), "theta.*square.*2, 3"),
        (lambda: project_birkhoff(jnp.zeros(3)), "theta.*last two axes"),
        (lambda: project_transport(jnp.zeros((2, 2)), [1.0, 1.0], [1.0, 2.0]), "same total.*empty"),
        (lambda: project_transport(jnp.zeros((2, 2)), [-1.0, 3.0], [1.0, 1.0]), "rows.*negative"),
        (lambda: project_transport(jnp.zeros((2, 2)), [1.0], np.ones(3)), "columns.*theta"),
        (lambda: project_birkhoff(jnp.eye(2), regularization="l1"), "regularization.*'l1'"),
        (lambda: project_birkhoff(jnp.eye(2), tol=0.0), "tol.*positive"),
    ],
)
def test_wrong_use(call, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        call()
