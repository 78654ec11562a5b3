"""The counterpart in XLA of :mod:`diffopt.kernels.blocks`: accelerated proximal steps on groups.

Every group has a step of its own, the inverse of its largest curvature, times a common one that
backtracks; the momentum restarts where it points uphill. Operands and results are as there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["accelerated_dense", "accelerated_sparse"]

_SQUARED, _LOGISTIC, _MULTINOMIAL = 0, 1, 2


class _Maps(NamedTuple):
    """Linear maps of the design, on arrays with one column an output."""

    matvec: Any  # [p, k] -> [n, k]
    rmatvec: Any  # [n, k] -> [p, k]
    square: Any  # [n, k] -> [p, k], with squared entries


def _dense_maps(X, n, p):
    X = X.reshape(n, p)
    return _Maps(lambda W: X @ W, lambda R: X.T @ R, lambda D: jnp.square(X).T @ D)


def _sparse_maps(data, rows, starts, n, p):
    columns = jnp.searchsorted(starts, jnp.arange(data.size, dtype=starts.dtype), side="right") - 1

    def sum_columns(T):
        zeros = jnp.zeros((p, T.shape[1]), T.dtype)
        return zeros.at[columns].add(T, indices_are_sorted=True)

    data = data[:, None]
    return _Maps(
        lambda W: jnp.zeros((n, W.shape[1]), W.dtype).at[rows].add(data * W[columns]),
        lambda R: sum_columns(data * R[rows]),
        lambda D: sum_columns(jnp.square(data) * D[rows]),
    )


def accelerated_dense(init, y, weights, lam, labels, settings, X, flags):
    """Solve one problem with a dense design."""
    p = labels.size // flags[2]
    maps = _dense_maps(X, weights.size, p)
    return _accelerated(maps, init, y, weights, (lam, labels), settings, flags)


def accelerated_sparse(init, y, weights, lam, labels, settings, data, rows, starts, flags):
    """Solve one problem with a sparse design."""
    maps = _sparse_maps(data, rows, starts, weights.size, labels.size // flags[2])
    return _accelerated(maps, init, y, weights, (lam, labels), settings, flags)


# --- losses and penalties -----------------------------------------------------------------------


def _slopes(loss, Z, Y, weights):
    """Derivatives of the weighted losses."""
    w = weights[:, None]
    if loss == _SQUARED:
        return w * (Z - Y)
    if loss == _LOGISTIC:
        return -w * Y * jax.nn.sigmoid(-Y * Z)
    return w * (Y.sum(1, keepdims=True) * jax.nn.softmax(Z, axis=1) - Y)


def _bounds(loss, Y, weights):
    """Bounds of the second derivatives."""
    w = jnp.broadcast_to(weights[:, None], Y.shape)
    if loss == _SQUARED:
        return w
    if loss == _LOGISTIC:
        return w * jnp.square(Y) / 4
    return w * jnp.broadcast_to(Y.sum(1, keepdims=True), Y.shape) / 2


def _loss(loss, Z, Y, weights):
    w = weights[:, None]
    if loss == _SQUARED:
        return jnp.sum(w * jnp.square(Z - Y)) / 2
    if loss == _LOGISTIC:
        return jnp.sum(w * jnp.logaddexp(jnp.zeros_like(Z), -Y * Z))
    return -jnp.sum(w * Y * jax.nn.log_softmax(Z, axis=1))


def _norms(x, labels, num_groups):
    return jnp.sqrt(jnp.zeros(num_groups, x.dtype).at[labels].add(jnp.square(x)))


def _prox(x, step, penalty):
    """Shrink the norm of every group; `step` is the same within a group."""
    lam, labels = penalty
    norms = _norms(x, labels, lam.size)[labels]
    kept = jnp.maximum(norms - step * lam[labels], 0)
    return x * kept / jnp.where(norms > 0, norms, 1)


def _conjugate_terms(loss, scale, Z, Y, weights, R):
    """Excess of every loss over its linear bound by the scaled dual point."""
    w = weights[:, None]
    there = w > 0
    if loss == _SQUARED:
        terms = jnp.square((1 - scale) * R) / (2 * jnp.where(there, w, 1))
    elif loss == _LOGISTIC:
        share, other = jax.nn.sigmoid(-Y * Z), jax.nn.sigmoid(Y * Z)
        terms = (1 - scale * share) * jnp.log1p((1 - scale) * share / other)
        terms += scale * share * jnp.log(jnp.where(scale > 0, scale, 1))
        terms = w * jnp.maximum(terms, 0)
    else:
        mass = Y.sum(1, keepdims=True)
        there &= mass > 0
        share = jnp.maximum(jax.nn.softmax(Z, axis=1), jnp.finfo(Z.dtype).tiny)
        target = Y / jnp.where(mass > 0, mass, 1)
        t = (1 - scale) * (target - share) / share
        inside = t > -1
        safe = jnp.where(inside, t, 0)
        terms = jnp.where(inside, (1 + safe) * jnp.log1p(safe) - safe, 1)
        terms = w * mass * jnp.maximum(share * terms, 0)
    return jnp.where(there, terms, 0)


def _gap(loss, Z, Y, weights, R, u, coef, penalty):
    """Duality gap, as a sum of terms none of which is negative; the dual point is R, scaled."""
    lam, labels = penalty
    pk, free = labels.size, lam == 0
    sizes, slopes = _norms(coef[:pk], labels, lam.size), _norms(u[:pk], labels, lam.size)
    limit = jnp.where(free | (slopes <= lam), 1, lam / jnp.where(slopes > 0, slopes, 1))
    scale = limit.min(initial=1)
    inner = jnp.zeros(lam.size, u.dtype).at[labels].add(u[:pk] * coef[:pk])
    terms = jnp.maximum(lam * sizes + scale * inner, 0)
    gap = jnp.where(free, slopes * jnp.maximum(sizes, 1), terms).sum()
    gap += jnp.sum(jnp.abs(u[pk:]) * jnp.maximum(jnp.abs(coef[pk:]), 1))
    rest = _conjugate_terms(loss, scale, Z, Y, weights, R).sum()
    return gap + jnp.where(scale == 1, 0, rest)


# --- solving ------------------------------------------------------------------------------------


def _accelerated(maps, init, y, weights, penalty, settings, flags):
    loss, fit, k = flags
    lam, labels = penalty
    tol, max_iter, pk = settings[0], settings[1], labels.size
    Y = y.reshape(-1, k)
    scores = lambda coef: maps.matvec(coef[:pk].reshape(-1, k)) + fit * coef[None, pk:]
    gradient = lambda R: jnp.append(maps.rmatvec(R).reshape(-1), fit * R.sum(0))
    bound = _bounds(loss, Y, weights)
    scale = _steps(maps, bound, fit, penalty)
    norm = _norm(scores, gradient, bound, scale)
    wide = (jnp.append(lam, 0), jnp.append(labels, jnp.full(k, lam.size, labels.dtype)))
    certify = lambda coef, Z, R, u: _gap(loss, Z, Y, weights, R, u, coef, penalty)

    def step(state):
        coef, Z, point, Z_point, inertia, factor, _, num_iter = state
        u = gradient(_slopes(loss, Z_point, Y, weights))
        size = scale / factor
        new = _prox(point - size * u, size, wide)
        new_Z = scores(new)
        move = new - point
        fine = _decreases(loss, Z_point, new_Z, Y, weights, u, move, size)
        uphill = jnp.vdot((point - new) / size, new - coef) > 0
        after = jnp.where(uphill, 1.0, 0.5 * (1 + jnp.sqrt(1 + 4 * jnp.square(inertia))))
        beta = jnp.where(uphill, 0.0, (inertia - 1) / after)
        R = _slopes(loss, new_Z, Y, weights)
        gap = certify(new, new_Z, R, gradient(R))
        ahead, Z_ahead = new + beta * (new - coef), new_Z + beta * (new_Z - Z)
        kept = (new, new_Z, ahead, Z_ahead, after, factor, gap)
        retry = (coef, Z, coef, Z, jnp.ones_like(inertia), 2 * factor, state[6])
        chosen = jax.tree.map(lambda a, b: jnp.where(fine, a, b), kept, retry)
        return (*chosen, num_iter + 1)

    start = init.at[pk:].multiply(fit)
    Z = scores(start)
    R = _slopes(loss, Z, Y, weights)
    gap = certify(start, Z, R, gradient(R))
    state = (start, Z, start, Z, jnp.ones((), y.dtype), norm, gap, jnp.zeros((), y.dtype))
    going = lambda state: (state[6] > tol) & (state[7] < max_iter)
    coef, Z, *_, gap, num_iter = jax.lax.while_loop(going, step, state)
    u = gradient(_slopes(loss, Z, Y, weights))
    coef, u = (jnp.where(jnp.isnan(gap), jnp.nan, x) for x in (coef, u))
    return coef, u, jnp.stack([gap, num_iter, num_iter, (gap <= tol).astype(gap.dtype)])


def _decreases(loss, Z, new_Z, Y, weights, u, move, size):
    """Tell whether the step was short enough for its quadratic bound to hold."""
    quadratic = jnp.sum(jnp.square(move) / size)
    if loss == _SQUARED:
        curved = jnp.sum(weights[:, None] * jnp.square(new_Z - Z))
        return curved <= quadratic * (1 + 1e-6)
    model = _loss(loss, Z, Y, weights) + jnp.vdot(u, move) + quadratic / 2
    actual = _loss(loss, new_Z, Y, weights)
    return actual <= model + 1e-6 * jnp.abs(actual)


def _steps(maps, bound, fit, penalty):
    """Inverse of the largest curvature in every group, entry by entry, and of the intercepts."""
    lam, labels = penalty
    curvature = maps.square(bound).reshape(-1)
    largest = jnp.zeros(lam.size, bound.dtype).at[labels].max(curvature)[labels]
    largest = jnp.append(largest, fit * jnp.full(bound.shape[1], bound.sum(0).max()))
    return jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1), 1)


def _norm(scores, gradient, bound, scale):
    """Largest eigenvalue of the scaled Hessian, by the power method; it may be a little low."""
    root = jnp.sqrt(scale)

    def step(_, v):
        v = root * gradient(bound * scores(root * v))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    v = jax.lax.fori_loop(0, 20, step, jnp.cos(jnp.arange(scale.size, dtype=scale.dtype)))
    top = jnp.vdot(v, root * gradient(bound * scores(root * v)))
    return jnp.maximum(1.05 * top, 1e-3)
