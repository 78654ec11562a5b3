"""The counterpart in XLA of :mod:`diffopt.kernels.coordinates`: accelerated proximal steps.

Every coordinate has a step of its own, the inverse of its curvature, times a common one that
backtracks; the momentum restarts where it points uphill. Operands and results are as there.
"""

import jax
import jax.numpy as jnp

__all__ = ["accelerated_dense", "accelerated_sparse", "free_system_dense", "free_system_sparse"]

_SQUARED = 0


def _products(X, n, p):
    X = X.reshape(n, p)
    return (lambda v: X @ v), (lambda u: u @ X), (lambda d: d @ jnp.square(X))


def _sparse_products(data, rows, starts, n, p):
    places = jnp.arange(data.size, dtype=starts.dtype)
    columns = jnp.searchsorted(starts, places, side="right") - 1
    sum_columns = lambda t: jnp.zeros(p, t.dtype).at[columns].add(t, indices_are_sorted=True)
    return (
        lambda v: jnp.zeros(n, v.dtype).at[rows].add(data * v[columns]),
        lambda u: sum_columns(data * u[rows]),
        lambda d: sum_columns(jnp.square(data) * d[rows]),
    )


def accelerated_dense(init, y, weights, l1, ridge, low, high, tilt, settings, X, flags):
    """Solve one problem with a dense design."""
    maps = _products(X, y.size, l1.size)
    return _accelerated(maps, init, y, weights, (l1, ridge, low, high, tilt), settings, flags)


def accelerated_sparse(
    init, y, weights, l1, ridge, low, high, tilt, settings, data, rows, starts, flags
):
    """Solve one problem with a sparse design."""
    maps = _sparse_products(data, rows, starts, y.size, l1.size)
    return _accelerated(maps, init, y, weights, (l1, ridge, low, high, tilt), settings, flags)


def _slopes(loss, z, y, weights):
    """Derivatives of the weighted losses, and bounds of the second derivatives."""
    if loss == _SQUARED:
        return weights * (z - y), weights
    return -weights * y * jax.nn.sigmoid(-y * z), weights * jnp.square(y) / 4


def _loss(loss, z, y, weights):
    if loss == _SQUARED:
        return jnp.sum(weights * jnp.square(z - y)) / 2
    return jnp.sum(weights * jnp.logaddexp(jnp.zeros_like(z), -y * z))


def _prox(x, step, penalty):
    l1, ridge, low, high, tilt = penalty
    x = x - step * tilt
    x = jnp.sign(x) * jnp.maximum(jnp.abs(x) - step * l1, 0) / (1 + step * ridge)
    return jnp.clip(x, low, high)


def _accelerated(maps, init, y, weights, penalty, settings, flags):
    matvec, rmatvec, square = maps
    loss, fit = flags
    tol, max_iter = settings[0], settings[1]
    penalty = tuple(jnp.append(v, e) for v, e in zip(penalty, _NO_PENALTY, strict=True))
    scores = lambda coef: matvec(coef[:-1]) + fit * coef[-1]
    gradient = lambda r: jnp.append(rmatvec(r), fit * r.sum())
    bound = _slopes(loss, y, y, weights)[1]
    curvature = jnp.append(square(bound), fit * bound.sum())
    scale = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 1)
    norm = _norm(scores, gradient, bound, scale)
    certify = lambda coef, z, r, u: _gap(loss, z, y, weights, r, u, coef, penalty)

    def step(state):
        coef, z, point, scores_point, inertia, factor, _, num_iter = state
        r, _ = _slopes(loss, scores_point, y, weights)
        u = gradient(r)
        size = scale / factor
        new = _prox(point - size * u, size, penalty)
        new_z = scores(new)
        move = new - point
        model = _loss(loss, scores_point, y, weights) + jnp.vdot(u, move)
        model += jnp.sum(jnp.square(move) / size) / 2
        actual = _loss(loss, new_z, y, weights)
        fine = actual <= model + 1e-6 * jnp.abs(actual) * float(loss != _SQUARED)
        if loss == _SQUARED:
            fine = jnp.sum(weights * jnp.square(new_z - scores_point)) <= jnp.sum(
                jnp.square(move) / size
            ) * (1 + 1e-6)
        uphill = jnp.vdot((point - new) / size, new - coef) > 0
        after = jnp.where(uphill, 1.0, 0.5 * (1 + jnp.sqrt(1 + 4 * jnp.square(inertia))))
        beta = jnp.where(uphill, 0.0, (inertia - 1) / after)
        ahead = new + beta * (new - coef)
        r, _ = _slopes(loss, new_z, y, weights)
        gap = certify(new, new_z, r, gradient(r))
        kept = (new, new_z, ahead, new_z + beta * (new_z - z), after, factor, gap)
        retry = (coef, z, coef, z, jnp.ones_like(inertia), 2 * factor, state[6])
        chosen = jax.tree.map(lambda a, b: jnp.where(fine, a, b), kept, retry)
        return (*chosen, num_iter + 1)

    start = jnp.clip(init, penalty[2], penalty[3]).at[-1].multiply(fit)
    z = scores(start)
    r, _ = _slopes(loss, z, y, weights)
    gap = certify(start, z, r, gradient(r))
    state = (start, z, start, z, jnp.ones((), y.dtype), norm, gap, jnp.zeros((), y.dtype))
    going = lambda state: (state[6] > tol) & (state[7] < max_iter)
    coef, z, *_, gap, num_iter = jax.lax.while_loop(going, step, state)
    r, _ = _slopes(loss, z, y, weights)
    nan = jnp.isnan(gap)
    coef, u = (jnp.where(nan, jnp.nan, x) for x in (coef, gradient(r)))
    return coef, u, jnp.stack([gap, num_iter, num_iter, (gap <= tol).astype(gap.dtype)])


_NO_PENALTY = (0.0, 0.0, -jnp.inf, jnp.inf, 0.0)  # that of the intercept


def _norm(scores, gradient, bound, scale):
    """Largest eigenvalue of the scaled Hessian, by the power method; it may be a little low."""
    root = jnp.sqrt(scale)

    def step(_, v):
        v = root * gradient(bound * scores(root * v))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    v = jax.lax.fori_loop(0, 20, step, jnp.cos(jnp.arange(scale.size, dtype=scale.dtype)))
    top = jnp.vdot(v, root * gradient(bound * scores(root * v)))
    return jnp.maximum(1.05 * top, 1e-3)


def _gap(loss, z, y, weights, r, u, coef, penalty):
    """Duality gap, as a sum of terms none of which is negative."""
    l1, ridge, low, high, tilt = penalty
    pure = (ridge == 0) & (l1 > 0)
    size = jnp.where(u == 0, 1, jnp.abs(u))
    limit = (l1 - jnp.sign(u) * tilt) / size
    bounded = jnp.where(u > 0, low > -jnp.inf, high < jnp.inf)
    limit = jnp.where(pure & ~bounded & (u != 0), limit, 1)
    scale = jnp.clip(limit.min(), 0, 1)
    c = -(scale * u + tilt)
    unpenalised = (ridge == 0) & (l1 == 0) & jnp.isinf(jnp.where(c > 0, high, low))
    cut = jnp.sign(c) * jnp.maximum(jnp.abs(c) - l1, 0)
    far = jnp.where(c > 0, high, low)
    slightly = jnp.abs(c) <= l1 * (1 + 1e-6)
    end = jnp.where(
        (jnp.abs(c) > l1) & (jnp.isfinite(far) | ~slightly), far, jnp.clip(0, low, high)
    )
    best = jnp.where(ridge > 0, jnp.clip(cut / jnp.where(ridge > 0, ridge, 1), low, high), end)
    value = lambda b: c * b - l1 * jnp.abs(b) - 0.5 * ridge * jnp.square(b)
    finite = jnp.isfinite(best)
    terms = jnp.where(finite, value(jnp.where(finite, best, 0)) - value(coef), jnp.inf)
    terms = jnp.where(unpenalised, jnp.abs(c) * jnp.maximum(jnp.abs(coef), 1), terms)
    gap = jnp.sum(jnp.maximum(terms, 0))
    there = weights > 0
    if loss == _SQUARED:
        loss_terms = jnp.square((1 - scale) * r) / (2 * jnp.where(there, weights, 1))
    else:
        share, other = jax.nn.sigmoid(-y * z), jax.nn.sigmoid(y * z)
        loss_terms = (1 - scale * share) * jnp.log1p((1 - scale) * share / other)
        loss_terms += scale * share * jnp.log(jnp.where(scale > 0, scale, 1))
        loss_terms = weights * jnp.maximum(loss_terms, 0)
    loss_terms = jnp.where(there, loss_terms, 0)
    return gap + jnp.where(scale == 1, 0, jnp.sum(loss_terms))


# --- linear systems of the free coordinates -----------------------------------------------------


def free_system_dense(b, d, ridge, free, X, flags=()):
    """Solve the equations of the free coordinates, for one right-hand side."""
    n, p = d.size, ridge.size
    size = min(n, p) + 1
    maps = _products(X, n, p)
    if size < p + 1:
        few = free.sum() <= size
        direct = _factorise(b, d, ridge, free & few, X.reshape(n, p), size)
        return jnp.where(few, direct, _iterate(maps, jnp.where(few, 0, b), d, ridge, free))
    return _factorise(b, d, ridge, free, X.reshape(n, p), size)


def free_system_sparse(b, d, ridge, free, data, rows, starts, flags=()):
    """Solve the equations of the free coordinates, for a sparse design."""
    maps = _sparse_products(data, rows, starts, d.size, ridge.size)
    return _iterate(maps, b, d, ridge, free)


def _factorise(b, d, ridge, free, X, size):
    """Gather the free columns, `size` at most, and solve by a factor of a padded matrix."""
    (places,) = jnp.nonzero(free, size=size, fill_value=free.size)
    there = places < free.size
    wide = jnp.concatenate([X, jnp.ones((X.shape[0], 1), X.dtype)], axis=1)
    columns = wide.at[:, places].get(mode="fill", fill_value=0)
    edge = jnp.append(ridge, 0).at[places].get(mode="fill", fill_value=1)
    H = (columns.T * d[None]) @ columns + jnp.diag(edge)
    scale = jnp.sqrt(jnp.where(jnp.diag(H) > 0, jnp.diag(H), 1))
    H = H / jnp.outer(scale, scale)
    jitter = 50 * jnp.finfo(H.dtype).eps
    factor = jax.scipy.linalg.cho_factor(H + jitter * jnp.eye(size, dtype=H.dtype))
    right = b.at[places].get(mode="fill", fill_value=0) / scale
    x = jnp.zeros_like(right)
    for _ in range(3):
        x = x + jax.scipy.linalg.cho_solve(factor, right - H @ x)
    x = jnp.where(there, x / scale, 0)
    return b.at[places].set(x, mode="drop")


def _iterate(maps, b, d, ridge, free):
    """Solve by conjugate gradients."""
    matvec, rmatvec, square = maps
    ridge = jnp.append(ridge, 0)
    keep = lambda v: jnp.where(free, v, 0)

    def apply(v):
        v = keep(v)
        u = d * (matvec(v[:-1]) + v[-1])
        return keep(jnp.append(rmatvec(u), u.sum()) + ridge * v)

    diagonal = jnp.append(square(d), d.sum()) + ridge
    inverse = jnp.where(free & (diagonal > 0), 1 / jnp.where(diagonal > 0, diagonal, 1), 0)
    tol = 10 * float(jnp.finfo(b.dtype).eps)
    x, _ = jax.scipy.sparse.linalg.cg(
        apply, keep(b), M=lambda v: inverse * v, tol=tol, maxiter=20 * b.size
    )
    return jnp.where(free, x, b)
