r"""Convex problems with a smooth loss of linear scores and a separable penalty.

.. math::

    \min_{\beta \in \mathbb{R}^p,\, b} \; \sum_{i=1}^n w_i\, \ell(x_i^\top \beta + b, y_i)
    + \sum_{j=1}^p \Bigl[ q_j \beta_j + \lambda_j |\beta_j| + \tfrac12 \rho_j \beta_j^2
    + \iota_{[l_j, u_j]}(\beta_j) \Bigr]

Every model of one output is such a problem: the Lasso, the elastic net, sparse logistic
regression, and the duals of support vector machines.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffopt.kernels import Kernel, proximal
from diffopt.sparse_linear.design import SparseDesign, matvec, rmatvec

__all__ = ["LOSSES", "Problem", "Solution", "knot_margin", "solve"]

LOSSES = ("squared", "logistic")


class Problem(NamedTuple):
    """The arrays of a problem."""

    X: Any  # [n, p], or a SparseDesign
    y: jax.Array  # [n]
    weights: jax.Array  # [n], w
    l1: jax.Array  # [p], lambda
    ridge: jax.Array  # [p], rho
    low: jax.Array  # [p], l
    high: jax.Array  # [p], u
    tilt: jax.Array  # [p], q


class Solution(NamedTuple):
    """A solution, its certificate, and what happened.

    Attributes
    ----------
    coef : array of shape [p]
        The coefficients, which can be differentiated.
    intercept : array of shape []
        The intercept, which can be differentiated; 0 without one.
    gap : array of shape []
        The duality gap, a bound on the excess of the objective.
    num_iter : int array of shape []
        Number of iterations.
    converged : bool array of shape []
        Whether the gap is at most the tolerance.
    margin : array of shape []
        Distance to the nearest knot, relative, in [0, 1]: where it is 0, or no more than the error
        of the solution, the derivative is one element of the generalised Jacobian.
    """

    coef: jax.Array
    intercept: jax.Array
    gap: jax.Array
    num_iter: jax.Array
    converged: jax.Array
    margin: jax.Array


# --- losses -------------------------------------------------------------------------------------


def loss_value(loss, z, y):
    """Loss of a score."""
    if loss == "squared":
        return 0.5 * (z - y) ** 2
    return jnp.logaddexp(0, -y * z)


def loss_slope(loss, z, y):
    """Derivative of the loss in the score."""
    if loss == "squared":
        return z - y
    return -y * jax.nn.sigmoid(-y * z)


def loss_curvature(loss, z, y):
    """Second derivative of the loss in the score."""
    if loss == "squared":
        return jnp.ones_like(z)
    return y * y * jax.nn.sigmoid(y * z) * jax.nn.sigmoid(-y * z)


# --- solving ------------------------------------------------------------------------------------

_dense = Kernel(
    "coordinates_dense",
    proximal.accelerated_dense,
    lambda init, *rest: (init, init, init),
    like=(0, 0, 8),
)
_sparse = Kernel(
    "coordinates_sparse",
    proximal.accelerated_sparse,
    lambda init, *rest: (init, init, init),
    like=(0, 0, 8),
)
_free_dense = Kernel("free_system_dense", proximal.free_system_dense, lambda b, *rest: (b,))
_free_sparse = Kernel("free_system_sparse", proximal.free_system_sparse, lambda b, *rest: (b,))


def solve(problem, *, loss="squared", fit_intercept=False, init=None, tol=1e-10, max_iter=1000):
    """Solve a problem; the solution can be differentiated in every array of it.

    Parameters
    ----------
    problem : Problem
        Its arrays, of one floating type.
    loss : {"squared", "logistic"}
        The loss; targets of the logistic loss are -1 and 1.
    fit_intercept : bool, default False
        Whether to fit b, which is not penalised.
    init : tuple (coef, intercept), optional
        Where to start.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol`, in units of the objective.
    max_iter : int, default 1000
        Bound on the number of iterations: gradients of the whole objective on a CPU, proximal steps
        elsewhere.

    Returns
    -------
    Solution
    """
    p = problem.l1.shape[-1]
    dtype = problem.y.dtype
    if init is None:
        start = jnp.zeros(p + 1, dtype)
    else:
        start = jnp.append(init[0], init[1]).astype(dtype)
    settings = jnp.asarray([tol, max_iter, 0, 0], dtype)
    flags = (LOSSES.index(loss), int(fit_intercept))
    coef, gradient, info = _solve(flags, problem, start, settings)
    margin = knot_margin(problem, coef[:p], gradient[:p])
    return Solution(coef[:p], coef[p], info[0], info[1].astype(int), info[3] > 0, margin)


def _run(flags, problem, start, settings):
    X, *arrays = problem
    if isinstance(X, SparseDesign):
        return _sparse(start, *arrays, settings, X.data, X.rows, X.starts, flags=flags)
    return _dense(start, *arrays, settings, X.reshape(-1), flags=flags)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(flags, problem, start, settings):
    return tuple(_run(flags, *jax.lax.stop_gradient((problem, start, settings))))


@_solve.defjvp
def _solve_jvp(flags, primals, tangents):
    problem, *rest = primals
    solution = _solve(flags, problem, *rest)
    coef = solution[0]
    tangent = implicit_tangent(flags, problem, coef, tangents[0])
    zeros = [jnp.zeros_like(x) for x in solution[1:]]
    return solution, (tangent, *zeros)


def knot_margin(problem, coef, gradient):
    """Relative distance of a solution to the nearest change of what rests at a corner or bound."""
    l1, low, high = problem.l1, problem.low, problem.high
    slope = gradient + problem.tilt + problem.ridge * coef
    scale = jnp.maximum(jnp.abs(gradient), jnp.abs(problem.tilt))
    side = jnp.where(coef == 0, jnp.where(coef <= low, 1, -1), jnp.sign(coef))
    force = slope + l1 * side
    at_bound = jnp.where(coef <= low, force, -force) / jnp.where(scale > 0, scale, 1)
    at_zero = (l1 - jnp.abs(slope)) / jnp.where(l1 > 0, l1, 1)
    size = jnp.abs(coef).max(initial=0)
    room = jnp.minimum(coef - low, high - coef)
    room = jnp.where(l1 > 0, jnp.minimum(jnp.abs(coef), room), room)
    free = room / jnp.where(size > 0, size, 1)
    inside = jnp.where((coef == 0) & (l1 > 0), at_zero, free)
    margin = jnp.where((low < coef) & (coef < high), inside, at_bound)
    return jnp.clip(jnp.where(low == high, 1, margin).min(initial=1), 0, 1)


# --- the derivative -----------------------------------------------------------------------------


def stationarity(flags, problem, coef):
    """Gradient of the objective in the coefficients and the intercept, where it is smooth."""
    loss, fit = LOSSES[flags[0]], flags[1]
    beta, b = coef[:-1], coef[-1]
    r = problem.weights * loss_slope(loss, matvec(problem.X, beta) + b, problem.y)
    g = rmatvec(problem.X, r) + problem.tilt + problem.ridge * beta
    return jnp.append(g + problem.l1 * jnp.sign(jax.lax.stop_gradient(beta)), fit * r.sum())


def free_mask(flags, problem, coef):
    """Tell which coefficients, and the intercept last, move when the problem does."""
    beta = coef[:-1]
    inside = (problem.low < beta) & (beta < problem.high)
    free = inside & ((beta != 0) | (problem.l1 == 0))
    return jnp.append(free, bool(flags[1]))


def implicit_tangent(flags, problem, coef, dproblem):
    """Derivative of the coefficients along a tangent of the problem."""
    fixed = jax.lax.stop_gradient(coef)
    free = free_mask(flags, problem, fixed)
    low, high = fixed[:-1] <= problem.low, fixed[:-1] >= problem.high
    moved = jnp.append(jnp.where(low, dproblem.low, jnp.where(high, dproblem.high, 0)), 0)
    along = lambda coef, problem: stationarity(flags, problem, coef)
    _, slope = jax.jvp(along, (coef, problem), (moved, dproblem))
    step = restricted_solve(flags, problem, coef, free, jnp.where(free, -slope, 0))
    return moved + step


def restricted_solve(flags, problem, coef, free, rhs):
    """Solve with the Hessian restricted to what is free; zero elsewhere, as `rhs` is there."""
    X, ridge = problem.X, problem.ridge
    z = matvec(X, coef[:-1]) + coef[-1]
    d = problem.weights * loss_curvature(LOSSES[flags[0]], z, problem.y)

    def hessian(v):
        inside = jnp.where(free, v, 0)
        u = d * (matvec(X, inside[:-1]) + inside[-1])
        product = jnp.append(rmatvec(X, u) + ridge * inside[:-1], u.sum())
        return jnp.where(free, product, v)

    def solve(_, b):
        parts = jax.lax.stop_gradient((d, ridge))
        if isinstance(X, SparseDesign):
            return _free_sparse(b, *parts, free, X.data, X.rows, X.starts)
        return _free_dense(b, *parts, free, X.reshape(-1))

    return jax.lax.custom_linear_solve(hessian, rhs, solve, symmetric=True)
