"""The counterpart in XLA of :mod:`diffopt.kernels.jacobians`.

Here the passes of coordinate descent are differentiated by JAX. A sparse design is made dense.
Operands and results are as there.
"""

import jax
import jax.numpy as jnp

from diffopt.kernels.proximal import _NO_PENALTY, _gap, _slopes

__all__ = [
    "descent_dense",
    "descent_sparse",
    "jacobian_dense",
    "jacobian_sparse",
    "reverse_dense",
    "reverse_sparse",
]

_SQUARED = 0
_CHECK = 5  # passes between two looks at the duality gap


def _dense(data, rows, starts, n, p):
    columns = jnp.searchsorted(starts, jnp.arange(data.size), side="right") - 1
    return jnp.zeros((n, p), data.dtype).at[rows, columns].add(data)


def _curvature(loss, z, y, weights):
    if loss == _SQUARED:
        return weights
    return weights * y * y * jax.nn.sigmoid(y * z) * jax.nn.sigmoid(-y * z)


def _steps(X, y, weights, flags):
    """Step sizes of the coordinates, infinite where a column is zero, and of the intercept."""
    bound = _slopes(flags[0], y, y, weights)[1]
    total = flags[1] * bound.sum()
    step = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    return 1 / (bound @ jnp.square(X)), step


def _updated(beta, slope, step, l1, ridge, low, high):
    """Proximal step of a coordinate."""
    flat = jnp.isinf(step)
    step = jnp.where(flat, 1, step)
    x = jnp.where(flat, 0, beta) - step * slope
    shrunk = jnp.sign(x) * jnp.maximum(jnp.abs(x) - step * l1, 0)
    ahead = jnp.clip(shrunk / (1 + step * ridge), low, high)
    side = jnp.where(shrunk > 0, high, jnp.where(shrunk < 0, low, jnp.clip(0, low, high)))
    side = jnp.where(jnp.isfinite(side), side, beta)
    spread = jnp.where(ridge > 0, ridge, 1)
    alone = jnp.where(ridge > 0, jnp.clip(shrunk / spread, low, high), side)
    return jnp.where(flat, alone, ahead)


def _make_pass(X, y, weights, flags):
    """Make the function of coefficients and penalty that is one pass."""
    loss, fit = flags
    p = X.shape[1]
    steps, intercept_step = _steps(X, y, weights, flags)

    def update(j, state, penalty):
        coef, z = state
        l1, ridge, low, high, tilt = (v[j] for v in penalty)
        slope = X[:, j] @ _slopes(loss, z, y, weights)[0] + tilt
        new = _updated(coef[j], slope, steps[j], l1, ridge, low, high)
        return coef.at[j].set(new), z + (new - coef[j]) * X[:, j]

    def one_pass(coef, penalty):
        penalty = penalty.reshape(5, p)
        start = coef, X @ coef[:-1] + fit * coef[-1]
        coef, z = jax.lax.fori_loop(0, p, lambda j, state: update(j, state, penalty), start)
        return coef.at[-1].add(-intercept_step * _slopes(loss, z, y, weights)[0].sum())

    return one_pass


def _make_linear_pass(X, y, weights, penalty, tangents, coef, flags):
    """Make the function of the Jacobian that is one pass, at coefficients that stay."""
    p = X.shape[1]
    steps, intercept_step = _steps(X, y, weights, flags)
    l1, ridge, low, high, _ = penalty.reshape(5, p)
    dl1, dridge, dlow, dhigh, dtilt = tangents.reshape(5, p, -1)
    beta = coef[:-1]
    d = _curvature(flags[0], X @ beta + flags[1] * coef[-1], y, weights)
    flat = jnp.isinf(steps)
    still = ((beta == 0) & (l1 > 0)) | (flat & (ridge == 0))
    rate = jnp.where(
        flat, 1 / jnp.where(ridge > 0, ridge, 1), steps / (1 + jnp.where(flat, 0, steps) * ridge)
    )
    keep = jnp.where(flat, 0, 1 / (1 + jnp.where(flat, 1, steps) * ridge))
    force = dtilt + jnp.sign(beta)[:, None] * dl1 + beta[:, None] * dridge
    low, high = (beta <= low)[:, None], (beta >= high)[:, None]
    fixed = jnp.where(low, dlow, jnp.where(high, dhigh, 0))
    fixed_mask = low | high | still[:, None]

    def update(j, state):
        J, scores = state
        row = keep[j] * J[j] - rate[j] * ((X[:, j] * d) @ scores + force[j])
        row = jnp.where(fixed_mask[j], fixed[j], row)
        return J.at[j].set(row), scores + jnp.outer(X[:, j], row - J[j])

    def linear_pass(J):
        start = J, X @ J[:-1] + flags[1] * J[-1:]
        J, scores = jax.lax.fori_loop(0, p, update, start)
        return J.at[-1].add(-intercept_step * (d @ scores))

    return linear_pass


def _start(init, penalty, flags):
    _, _, low, high, _ = penalty.reshape(5, -1)
    return (
        jnp.clip(init, jnp.append(low, -jnp.inf), jnp.append(high, jnp.inf))
        .at[-1]
        .multiply(flags[1])
    )


def _certify(X, coef, y, weights, penalty, flags):
    """Compute the duality gap, and the products of the columns with the slopes of the losses."""
    z = X @ coef[:-1] + flags[1] * coef[-1]
    r, _ = _slopes(flags[0], z, y, weights)
    u = jnp.append(r @ X, flags[1] * r.sum())
    pairs = zip(penalty.reshape(5, -1), _NO_PENALTY, strict=True)
    wide = tuple(jnp.append(v, jnp.asarray(e, v.dtype)) for v, e in pairs)
    return _gap(flags[0], z, y, weights, r, u, coef, wide), u


def _info(gap, num_iter, converged):
    count = num_iter.astype(gap.dtype)
    return jnp.stack([gap, count, count, converged.astype(gap.dtype)])


def _jacobian(X, init, start, y, weights, settings, penalty, tangents, flags):
    """Solve, and carry the Jacobian along."""
    flags, fixed = flags[:2], flags[2]
    tol, settled = settings[0], settings[2]
    max_iter = settings[1].astype(int)
    coef = _start(init, penalty, flags)
    J = start.reshape(coef.size, -1)
    one_pass = _make_pass(X, y, weights, flags)
    linear_pass = _make_linear_pass(X, y, weights, penalty, tangents, coef, flags)
    gap, _ = _certify(X, coef, y, weights, penalty, flags)
    directions = tangents.reshape(penalty.size, -1)

    def along(coef, J):
        push = lambda j, t: jax.jvp(one_pass, (coef, penalty), (j, t))
        new, moved = jax.vmap(push, in_axes=1, out_axes=(None, 1))(J, directions)
        return new, moved

    def step(state):
        coef, J, gap, num_iter, _ = state
        after, moved = (coef, linear_pass(J)) if fixed else along(coef, J)
        num_iter = num_iter + 1
        small = jnp.abs(moved - J).max() <= settled * jnp.abs(moved).max()
        if fixed:
            return after, moved, gap, num_iter, small
        look = (num_iter % _CHECK == 0) | (num_iter >= max_iter)
        now = _certify(X, after, y, weights, penalty, flags)[0]
        gap = jnp.where(look, now, gap)
        return after, moved, gap, num_iter, look & small & (gap <= tol)

    going = lambda state: (state[3] < max_iter) & ~state[4] & ~jnp.isnan(state[2])
    state = (coef, J, gap, jnp.zeros((), int), jnp.zeros((), bool))
    coef, J, gap, num_iter, converged = jax.lax.while_loop(going, step, state)
    _, u = _certify(X, coef, y, weights, penalty, flags)
    return coef, J.reshape(-1), u, _info(gap, num_iter, converged)


def jacobian_dense(init, start, y, weights, settings, penalty, tangents, X, flags):
    """Compute a solution and its Jacobian, for a dense design."""
    X = X.reshape(y.size, init.size - 1)
    return _jacobian(X, init, start, y, weights, settings, penalty, tangents, flags)


def jacobian_sparse(
    init, start, y, weights, settings, penalty, tangents, data, rows, starts, flags
):
    """Compute a solution and its Jacobian, for a sparse design."""
    X = _dense(data, rows, starts, y.size, init.size - 1)
    return _jacobian(X, init, start, y, weights, settings, penalty, tangents, flags)


def _descent(X, init, store, y, weights, settings, penalty, flags):
    coef = _start(init, penalty, flags)
    iterates = jnp.zeros((store.size // coef.size, coef.size), store.dtype).at[0].set(coef)
    one_pass = _make_pass(X, y, weights, flags)
    limit = jnp.minimum(settings[1].astype(int), iterates.shape[0] - 1)
    gap, _ = _certify(X, coef, y, weights, penalty, flags)

    def step(state):
        coef, iterates, gap, num_iter = state
        coef, num_iter = one_pass(coef, penalty), num_iter + 1
        look = (num_iter % _CHECK == 0) | (num_iter >= limit)
        now = _certify(X, coef, y, weights, penalty, flags)[0]
        return coef, iterates.at[num_iter].set(coef), jnp.where(look, now, gap), num_iter

    going = lambda state: (state[3] < limit) & (state[2] > settings[0])
    state = (coef, iterates, gap, jnp.zeros((), int))
    coef, iterates, gap, num_iter = jax.lax.while_loop(going, step, state)
    _, u = _certify(X, coef, y, weights, penalty, flags)
    return coef, iterates.reshape(-1), u, _info(gap, num_iter, gap <= settings[0])


def descent_dense(init, store, y, weights, settings, penalty, X, flags):
    """Coordinate descent that stores its iterates, for a dense design."""
    X = X.reshape(y.size, init.size - 1)
    return _descent(X, init, store, y, weights, settings, penalty, flags)


def descent_sparse(init, store, y, weights, settings, penalty, data, rows, starts, flags):
    """Coordinate descent that stores its iterates, for a sparse design."""
    X = _dense(data, rows, starts, y.size, init.size - 1)
    return _descent(X, init, store, y, weights, settings, penalty, flags)


def _reverse(X, cotangent, y, weights, counts, penalty, iterates, flags):
    iterates = iterates.reshape(-1, cotangent.size)
    one_pass = _make_pass(X, y, weights, flags)

    def step(state):
        bar, total, t = state
        _, pull = jax.vjp(one_pass, iterates[t - 1], penalty)
        bar, more = pull(bar)
        return bar, total + more, t - 1

    going = lambda state: state[2] > 0
    state = (cotangent, jnp.zeros_like(penalty), counts[1].astype(int))
    return (jax.lax.while_loop(going, step, state)[1],)


def reverse_dense(cotangent, y, weights, counts, penalty, iterates, X, flags):
    """Go backwards through stored iterates, for a dense design."""
    X = X.reshape(y.size, cotangent.size - 1)
    return _reverse(X, cotangent, y, weights, counts, penalty, iterates, flags)


def reverse_sparse(cotangent, y, weights, counts, penalty, iterates, data, rows, starts, flags):
    """Go backwards through stored iterates, for a sparse design."""
    X = _dense(data, rows, starts, y.size, cotangent.size - 1)
    return _reverse(X, cotangent, y, weights, counts, penalty, iterates, flags)
