r"""Derivatives of coordinate descent for the CPU, compiled by numba.

One pass of coordinate descent updates each coefficient in turn, by a proximal step whose size is
the inverse of a bound of the curvature, and then the intercept. Three things are done with it:

- `jacobian`: its Jacobian in K directions is carried along, row by row; or, at a solution that
  stays where it is, the same passes are made on the Jacobian alone;
- `descent`: every iterate is stored;
- `reverse`: the stored iterates are gone through backwards, with a cotangent.

The problem is that of :mod:`diffopt.sparse_linear.problem`. The arrays ``l1, ridge, low, high,
tilt`` come as one, `penalty`, [5 p]; their tangents as `tangents`, [5 p K]; a Jacobian has
[(p + 1) K] entries, the row of the intercept last. As :mod:`diffopt.kernels.coordinates`, imported
by the bridge alone.
"""

import collections

import numpy as np

from diffopt.kernels.designs import (
    _all_products,
    _copy_columns,
    _dense,
    _move,
    _product,
    _scores,
    _sparse,
    _square,
    _wide,
)
from diffopt.kernels.objectives import (
    _LOGISTIC,
    _conjugate_point,
    _gap,
    _Penalty,
    _prox,
    _sigmoid,
    _slopes,
)
from diffopt.kernels.vectors import _copy, _fill, _jit, _leaf, _sum

_CHECK = 5  # passes between two looks at the duality gap

# What passes share: design, targets, weights, loss, whether there is an intercept, step sizes.
_Setting = collections.namedtuple("_Setting", "A y weights P loss fit steps intercept_step ones")


@_jit
def _copied(X, k, n, p):
    """Design whose columns are all copied."""
    A, _ = _copy_columns(_dense(X, k, p), n, np.arange(p), 0)
    return A


@_jit
def _penalty(values, p):
    return _Penalty(
        values[:p], values[p : 2 * p], values[2 * p : 3 * p], values[3 * p : 4 * p], values[4 * p :]
    )


@_jit
def _setting(A, y, weights, P, loss, fit):
    bound = weights * y * y / 4 if loss == _LOGISTIC else weights
    steps = np.empty(P.l1.size)
    for j in range(steps.size):
        steps[j] = 1 / _square(A, j, bound)
    total = _sum(bound)
    step = 1 / total if fit and total > 0 else 0.0
    return _Setting(A, y, weights, P, loss, fit, steps, step, np.ones(y.size))


# --- one coordinate -----------------------------------------------------------------------------


@_leaf
def _slope_at(S, i, z):
    """Derivatives of one weighted loss."""
    if S.loss == _LOGISTIC:
        share = _sigmoid(-S.y[i] * z)
        curvature = S.weights[i] * S.y[i] ** 2 * share * (1 - share)
        return -S.weights[i] * S.y[i] * share, curvature
    return S.weights[i] * (z - S.y[i]), S.weights[i]


@_leaf
def _shift(S, j, step, z, r, d):
    """Add a column times a step to the scores; derivatives of the loss follow."""
    _move(S.A, j, step, S.ones, z)
    if S.A.X.size:
        for i in range(z.size):
            r[i], d[i] = _slope_at(S, i, z[i])
    else:
        for t in range(S.A.starts[j], S.A.starts[j + 1]):
            i = S.A.rows[t]
            r[i], d[i] = _slope_at(S, i, z[i])


@_leaf
def _shift_all(S, step, z, r, d):
    for i in range(z.size):
        z[i] += step
        r[i], d[i] = _slope_at(S, i, z[i])


@_leaf
def _updated(S, j, beta, slope):
    """Proximal step of a coordinate, given the derivative of the loss."""
    P, c = S.P, slope + S.P.tilt[j]
    if np.isinf(S.steps[j]):  # the column is zero
        best = _conjugate_point(P, j, -c)
        return best if np.isfinite(best) else beta
    step = S.steps[j]
    return _prox(beta - step * c, step, P.l1[j], P.ridge[j], P.low[j], P.high[j])


@_leaf
def _kind(S, j, beta):
    """What a coordinate follows: -1 the lower bound, 1 the upper, 2 nothing, 0 its step."""
    P = S.P
    if beta <= P.low[j]:
        return -1
    if beta >= P.high[j]:
        return 1
    if (beta == 0 and P.l1[j] > 0) or (np.isinf(S.steps[j]) and P.ridge[j] == 0):
        return 2
    return 0


@_leaf
def _rates(S, j):
    """How much an updated coordinate follows the old one, and the derivative of the loss."""
    if np.isinf(S.steps[j]):
        return 0.0, 1 / S.P.ridge[j]
    keep = 1 / (1 + S.steps[j] * S.P.ridge[j])
    return keep, keep * S.steps[j]


# --- forward ------------------------------------------------------------------------------------


@_leaf
def _curved(A, j, d, scores, K, out):
    """Products of one column with the tangents of the scores, [n, K], weighted by d."""
    _fill(out, 0.0)
    if A.X.size:
        column = A.columns[A.slots[j]]
        for i in range(d.size):
            c = column[i] * d[i]
            for k in range(K):
                out[k] += c * scores[i * K + k]
        return
    for t in range(A.starts[j], A.starts[j + 1]):
        i = A.rows[t]
        c = A.data[t] * d[i]
        for k in range(K):
            out[k] += c * scores[i * K + k]


@_leaf
def _spread(A, j, row, n, K, scores):
    """Add one column times a row to the tangents of the scores."""
    if A.X.size:
        column = A.columns[A.slots[j]]
        for i in range(n):
            for k in range(K):
                scores[i * K + k] += column[i] * row[k]
        return
    for t in range(A.starts[j], A.starts[j + 1]):
        i = A.rows[t]
        for k in range(K):
            scores[i * K + k] += A.data[t] * row[k]


@_leaf
def _new_row(S, j, beta, d, T, J, scores, K, out):
    """Write the row of the Jacobian of an updated coordinate into `out`."""
    kind, a = _kind(S, j, beta), j * K
    if kind == 2:
        _fill(out, 0.0)
    elif kind != 0:
        side = T.low if kind < 0 else T.high
        _copy(side[a : a + K], out)
    else:
        keep, rate = _rates(S, j)
        _curved(S.A, j, d, scores, K, out)
        sign = (beta > 0) - (beta < 0)
        for k in range(K):
            force = out[k] + T.tilt[a + k] + sign * T.l1[a + k] + beta * T.ridge[a + k]
            out[k] = keep * J[a + k] - rate * force


@_leaf
def _replace_row(S, j, d, J, scores, K, row, size):
    """Put a row into the Jacobian; return the larger of its change and of `size`, and its size."""
    a, largest, moved = j * K, 0.0, 0.0
    for k in range(K):
        largest = max(largest, abs(row[k]))
        row[k] -= J[a + k]
        moved = max(moved, abs(row[k]))
    if moved > 0:
        _spread(S.A, j, row, d.size, K, scores)
        for k in range(K):
            J[a + k] += row[k]
    return max(size, moved), largest


@_leaf
def _intercept_row(S, p, d, J, scores, K, row):
    """Update the row of the intercept; return its change and its size."""
    _fill(row, 0.0)
    for i in range(d.size):
        for k in range(K):
            row[k] -= S.intercept_step * d[i] * scores[i * K + k]
    for i in range(d.size):
        for k in range(K):
            scores[i * K + k] += row[k]
    change, largest = 0.0, 0.0
    for k in range(K):
        J[p * K + k] += row[k]
        change, largest = max(change, abs(row[k])), max(largest, abs(J[p * K + k]))
    return change, largest


@_leaf
def _jacobian_pass(S, T, coef, z, r, d, J, scores, K, moving, row):
    """Update all coordinates, if they are `moving`, and all rows of the Jacobian."""
    p, change, size = S.P.l1.size, 0.0, 0.0
    for j in range(p):
        beta = _updated(S, j, coef[j], _product(S.A, j, r)) if moving else coef[j]
        _new_row(S, j, beta, d, T, J, scores, K, row)
        change, largest = _replace_row(S, j, d, J, scores, K, row, change)
        size = max(size, largest)
        if beta != coef[j]:
            _shift(S, j, beta - coef[j], z, r, d)
            coef[j] = beta
    if S.fit:
        moved, largest = _intercept_row(S, p, d, J, scores, K, row)
        change, size = max(change, moved), max(size, largest)
        if moving:
            step = -S.intercept_step * _sum(r)
            coef[p] += step
            _shift_all(S, step, z, r, d)
    return change, size


@_jit
def _certify(S, coef, z, r, d, u):
    """Recompute the scores, the products and the duality gap."""
    p = S.P.l1.size
    _scores(S.A, coef, p, z)
    _slopes(S.loss, z, S.y, S.weights, r, d)
    _all_products(S.A, r, p, u)
    u[p] = _sum(r) if S.fit else 0.0
    return _gap(S.loss, z, S.y, S.weights, r, u, coef, S.P)


@_jit
def _tangent_scores(S, J, K, n):
    scores, p = np.zeros(n * K), S.P.l1.size
    for j in range(p):
        _spread(S.A, j, J[j * K : (j + 1) * K], n, K, scores)
    for i in range(n):
        for k in range(K):
            scores[i * K + k] += J[p * K + k]
    return scores


@_jit
def _jacobian(S, T, settings, moving, coef, J, u, info):
    """Carry the Jacobian along until the gap and its own change are small."""
    n, p = S.y.size, S.P.l1.size
    K, num_iter = J.size // (p + 1), 0
    _clip(S, coef)
    z, r, d, row = np.empty(n), np.empty(n), np.empty(n), np.empty(K)
    gap = _certify(S, coef, z, r, d, u)
    scores, converged = _tangent_scores(S, J, K, n), False
    while num_iter < settings[1] and not converged and gap == gap:
        num_iter += 1
        change, size = _jacobian_pass(S, T, coef, z, r, d, J, scores, K, moving, row)
        if moving and (num_iter % _CHECK == 0 or num_iter >= settings[1]):
            gap = _certify(S, coef, z, r, d, u)
        settled = change <= settings[2] * size
        looked = not moving or num_iter % _CHECK == 0 or num_iter >= settings[1]
        converged = settled and looked and (not moving or gap <= settings[0])
    info[0], info[1], info[2], info[3] = gap, num_iter, num_iter, converged


@_leaf
def _clip(S, coef):
    p = S.P.l1.size
    for j in range(p):
        coef[j] = min(max(coef[j], S.P.low[j]), S.P.high[j])
    if not S.fit:
        coef[p] = 0.0


@_jit
def _jacobian_row(A, k, init, start, y, weights, settings, P, T, flags, coef, J, gradient, info):
    c, u, i = _wide(init, k), np.empty(coef.shape[1]), np.empty(4)
    S = _setting(A, y, weights, P, flags[0], flags[1])
    jacobian = _wide(start, k)
    _jacobian(S, T, _wide(settings, k), flags[2] == 0, c, jacobian, u, i)
    coef[k], J[k], gradient[k], info[k] = c, jacobian, u, i


@_jit
def jacobian_dense(
    init, start, y, weights, settings, penalty, tangents, X, flags, coef, J, gradient, info
):
    """Solutions and Jacobians, dense design; flags: the loss, the intercept, whether `init` stays.

    `settings` are the tolerance of the gap, the largest number of passes, and the largest change
    of the Jacobian, relative to its largest entry, in the last of them.
    """
    p = init.shape[1] - 1
    K = start.shape[1] // (p + 1)
    for k in range(coef.shape[0]):
        A = _copied(X, k, y.shape[1], p)
        P, T = _penalty(_wide(penalty, k), p), _penalty(_wide(tangents, k), p * K)
        targets, w = _wide(y, k), _wide(weights, k)
        _jacobian_row(
            A, k, init, start, targets, w, settings, P, T, flags[0], coef, J, gradient, info
        )


@_jit
def jacobian_sparse(
    init, start, y, weights, settings, penalty, tangents, data, rows, starts, flags, coef, J,
    gradient, info,
):  # fmt: skip
    """Solutions and Jacobians with a design in compressed columns, as `jacobian_dense`."""
    p = init.shape[1] - 1
    K = start.shape[1] // (p + 1)
    for k in range(coef.shape[0]):
        A = _sparse(data, rows, starts, k)
        P, T = _penalty(_wide(penalty, k), p), _penalty(_wide(tangents, k), p * K)
        targets, w = _wide(y, k), _wide(weights, k)
        _jacobian_row(
            A, k, init, start, targets, w, settings, P, T, flags[0], coef, J, gradient, info
        )


# --- backward -----------------------------------------------------------------------------------


@_jit
def _descent(S, settings, coef, iterates, u, info):
    """Coordinate descent that stores the start and every iterate."""
    n, p = S.y.size, S.P.l1.size
    z, r, d, num_iter = np.empty(n), np.empty(n), np.empty(n), 0
    limit = min(settings[1], iterates.size // (p + 1) - 1)
    _clip(S, coef)
    gap = _certify(S, coef, z, r, d, u)
    iterates[: p + 1] = coef
    while num_iter < limit and gap > settings[0]:
        num_iter += 1
        for j in range(p):
            beta = _updated(S, j, coef[j], _product(S.A, j, r))
            if beta != coef[j]:
                _shift(S, j, beta - coef[j], z, r, d)
                coef[j] = beta
        if S.fit:
            step = -S.intercept_step * _sum(r)
            coef[p] += step
            _shift_all(S, step, z, r, d)
        iterates[num_iter * (p + 1) : (num_iter + 1) * (p + 1)] = coef
        if num_iter % _CHECK == 0 or num_iter >= limit:
            gap = _certify(S, coef, z, r, d, u)
    info[0], info[1], info[2], info[3] = gap, num_iter, num_iter, gap <= settings[0]


@_jit
def _descent_row(A, k, init, y, weights, settings, P, flags, coef, iterates, gradient, info):
    c, u, i = _wide(init, k), np.empty(coef.shape[1]), np.empty(4)
    stored = np.zeros(iterates.shape[1])
    S = _setting(A, y, weights, P, flags[0], flags[1])
    _descent(S, _wide(settings, k), c, stored, u, i)
    coef[k], iterates[k], gradient[k], info[k] = c, stored, u, i


@_jit
def descent_dense(
    init, store, y, weights, settings, penalty, X, flags, coef, iterates, gradient, info
):
    """Coordinate descent with a dense design; `store` says how many iterates there is room for."""
    p = init.shape[1] - 1
    for k in range(coef.shape[0]):
        A = _copied(X, k, y.shape[1], p)
        targets, w, P = _wide(y, k), _wide(weights, k), _penalty(_wide(penalty, k), p)
        _descent_row(A, k, init, targets, w, settings, P, flags[0], coef, iterates, gradient, info)


@_jit
def descent_sparse(
    init, store, y, weights, settings, penalty, data, rows, starts, flags, coef, iterates, gradient,
    info,
):  # fmt: skip
    """Coordinate descent with a design in compressed columns, as `descent_dense`."""
    p = init.shape[1] - 1
    for k in range(coef.shape[0]):
        A = _sparse(data, rows, starts, k)
        targets, w, P = _wide(y, k), _wide(weights, k), _penalty(_wide(penalty, k), p)
        _descent_row(A, k, init, targets, w, settings, P, flags[0], coef, iterates, gradient, info)


@_leaf
def _reverse_coordinate(S, j, beta, d, bar, zbar, out):
    """Go backwards through the update of one coordinate to `beta`, from scores curved by d."""
    p = S.P.l1.size
    shared = _product(S.A, j, zbar)
    pull, kind = bar[j] + shared, _kind(S, j, beta)
    bar[j] = -shared
    if kind == -1:
        out[2 * p + j] += pull
    elif kind == 1:
        out[3 * p + j] += pull
    elif kind == 0:
        keep, rate = _rates(S, j)
        bar[j] += keep * pull
        _move(S.A, j, -rate * pull, d, zbar)
        out[j] -= rate * pull * ((beta > 0) - (beta < 0))
        out[p + j] -= rate * pull * beta
        out[4 * p + j] -= rate * pull


@_jit
def _reverse(S, iterates, num_iter, bar, out):
    """Go backwards through all iterates; write the cotangents of the penalty into `out`."""
    n, p = S.y.size, S.P.l1.size
    z, r, d, zbar = np.empty(n), np.empty(n), np.empty(n), np.zeros(n)
    _fill(out, 0.0)
    for t in range(num_iter, 0, -1):
        old = iterates[(t - 1) * (p + 1) : t * (p + 1)]
        new = iterates[t * (p + 1) : (t + 1) * (p + 1)]
        _scores(S.A, new, p, z)
        _slopes(S.loss, z, S.y, S.weights, r, d)
        if S.fit:
            _shift_all(S, old[p] - new[p], z, r, d)
            pull = S.intercept_step * (bar[p] + _sum(zbar))
            for i in range(n):
                zbar[i] -= pull * d[i]
        for j in range(p - 1, -1, -1):
            if new[j] != old[j]:
                _shift(S, j, old[j] - new[j], z, r, d)
            _reverse_coordinate(S, j, new[j], d, bar, zbar, out)


@_jit
def _reverse_row(A, k, cotangent, y, weights, counts, P, iterates, flags, out):
    S = _setting(A, y, weights, P, flags[0], flags[1])
    result = np.empty(out.shape[1])
    stored = _wide(iterates, k)
    _reverse(S, stored, int(_wide(counts, k)[1]), _wide(cotangent, k), result)
    out[k] = result


@_jit
def reverse_dense(cotangent, y, weights, counts, penalty, iterates, X, flags, out):
    """From a cotangent of the last iterate to that of the penalty; `counts` is the `info`."""
    p = cotangent.shape[1] - 1
    for k in range(out.shape[0]):
        A = _copied(X, k, y.shape[1], p)
        targets, w, P = _wide(y, k), _wide(weights, k), _penalty(_wide(penalty, k), p)
        _reverse_row(A, k, cotangent, targets, w, counts, P, iterates, flags[0], out)


@_jit
def reverse_sparse(
    cotangent, y, weights, counts, penalty, iterates, data, rows, starts, flags, out
):
    """The same with a design in compressed columns."""
    p = cotangent.shape[1] - 1
    for k in range(out.shape[0]):
        A = _sparse(data, rows, starts, k)
        targets, w, P = _wide(y, k), _wide(weights, k), _penalty(_wide(penalty, k), p)
        _reverse_row(A, k, cotangent, targets, w, counts, P, iterates, flags[0], out)
