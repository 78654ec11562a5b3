"""From the arguments of a user to a solution: checks, types, units of the tolerance."""

import functools

import jax
import jax.numpy as jnp

from diffopt.checks import as_float, check_positive, check_range, working_dtype
from diffopt.sparse_linear.design import as_design
from diffopt.sparse_linear.problem import solve

__all__ = ["check_data", "check_signs", "check_weights", "fit"]


def fit(model, X, y, lam, *, weights=None, init=None, tol=1e-10, max_iter=10_000):
    """Fit a model; return the problem and its solution, in the type of the data.

    Parameters
    ----------
    model : Model
        One of the models of `diffopt.sparse_linear`.
    X : array, sparse matrix of SciPy, or SparseDesign, of shape [n, p]
        The features.
    y : array of shape [n]
        The targets.
    lam : float, array, or tuple of them
        The hyperparameters, as the model takes them.
    weights : array of shape [n], optional
        Weights of the items, which are divided by their sum.
    init : tuple (coef, intercept), or Solution, optional
        Where to start.
    tol : float, default 1e-10
        Largest duality gap, relative to the objective of the coefficient 0.
    max_iter : int, default 10000
        Bound on the number of iterations.

    Returns
    -------
    tuple (Problem, Solution)
    """
    X, y = check_data(X, y)
    check_positive(tol, "tol")
    check_positive(max_iter, "max_iter")
    lam = jax.tree.map(lambda v: as_float(v, "lam").astype(y.dtype), lam)
    for part in jax.tree.leaves(lam):
        check_range(part, 0, jnp.inf, "lam")
        if part.shape not in ((), (X.shape[1],)):
            raise ValueError(f"lam must be a number or have shape {X.shape[1:]}, got {part.shape}")
    weights = check_weights(weights, y)
    start = None if init is None else (jnp.asarray(init[0]), jnp.asarray(init[1]))
    return _fit(model, X, y, lam, weights, start, jnp.asarray(tol, y.dtype), max_iter)


@functools.partial(jax.jit, static_argnames=("model", "max_iter"))
def _fit(model, X, y, lam, weights, init, tol, max_iter):
    problem = model.problem(X, y, lam, weights)
    unit = jax.lax.stop_gradient(model.unit(y, lam, weights))
    found = solve(
        problem,
        loss=model.loss,
        fit_intercept=model.fit_intercept,
        init=init,
        tol=tol * jnp.where(unit > 0, unit, 1),
        max_iter=max_iter,
    )
    return problem, found


def check_data(X, y):
    """Return the features and targets in one floating type, single precision at least."""
    X, y = as_design(X), as_float(y, "y")
    if y.shape != X.shape[:1]:
        raise ValueError(f"y must have shape {X.shape[:1]}, one target a row of X, got {y.shape}")
    dtype = working_dtype(jnp.promote_types(X.dtype, y.dtype))
    return X.astype(dtype), y.astype(dtype)


def check_weights(weights, y):
    """Return weights of sum one."""
    if weights is None:
        return jnp.full(y.shape, 1 / max(y.size, 1), y.dtype)
    weights = as_float(weights, "weights").astype(y.dtype)
    if weights.shape != y.shape:
        raise ValueError(f"weights must have the shape of y, {y.shape}, got {weights.shape}")
    check_range(weights, 0, jnp.inf, "weights")
    check_positive(weights.sum(), "the sum of weights")
    return weights / weights.sum()


def check_signs(y):
    """Return targets that are -1 and 1; booleans stand for these."""
    if jnp.asarray(y).dtype == bool:
        return jnp.where(jnp.asarray(y), 1.0, -1.0)
    y = as_float(y, "y")
    if not isinstance(y, jax.core.Tracer) and not bool((jnp.abs(y) == 1).all()):
        raise ValueError("y must hold -1 and 1 only; 2 * labels - 1 turns 0 and 1 into these")
    return y
