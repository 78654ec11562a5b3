r"""Coordinate descent for the CPU, compiled by numba: losses of linear scores, separable penalties.

The problem is that of :mod:`diffopt.sparse_linear.problem`. Outer iterations look at all features:
they compute the duality gap, and choose a working set, those in the solution and those that
violate the conditions of optimality most. Inner iterations minimise a quadratic model of the loss
on that set (the loss itself if it is squared), by passes of coordinate descent, and by Newton's
method on the coordinates that are free, neither zero nor at a bound: the model is quadratic there,
so that one step ends it once the right coordinates are free.

A dense design is read by rows; columns of the working set are copied once, side by side. As
:mod:`diffopt.kernels.native`, imported by the bridge alone.
"""

import math

import numpy as np

from diffopt.kernels.designs import (
    _all_products,
    _combine,
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
    _SQUARED,
    _conjugate_point,
    _gap,
    _is_free,
    _objective,
    _Penalty,
    _prox,
    _slopes,
    _value,
    _violation,
)
from diffopt.kernels.vectors import (
    _add,
    _cholesky,
    _copy,
    _dot,
    _eight_dots,
    _fill,
    _jit,
    _leaf,
    _substitute,
    _sum,
    _where,
)

_DIRECT = 2000  # up to so many free coordinates, Newton's equations are factorised
_PROXIMAL = 1e-6  # relative, on the diagonal where there are more coordinates than items
_PASSES = 50  # of coordinate descent on one working set, at most
_PATIENCE = 10  # iterations without any progress before rounding is taken for the cause


# --- Newton's method on the free coordinates ----------------------------------------------------


@_jit
def _extend_gram(A, members, d, known, places, gram):
    """Append the rows of new columns to the lower triangle of the Gram matrix, weighted by d.

    `known` lists the columns that are there; ``places[j]`` says where, or is negative.
    """
    n, old, new = d.size, known.size, 0
    for j in members:
        new += places[j] < 0
    if new == 0:
        return known, gram
    total = old + new
    if total * (total + 1) // 2 > gram.size:
        larger = np.empty(total * (total + 1))
        _copy(gram, larger)
        gram = larger
    grown = np.empty(total, np.int64)
    _copy(known, grown)
    for j in members:
        if places[j] < 0:
            places[j], grown[old] = old, j
            old += 1
    x, y = np.empty(n), np.empty(n)
    for at in range(total - new, total, 2):
        last = min(at + 1, total - 1)
        _fill(x, 0.0)
        _fill(y, 0.0)
        _move(A, grown[at], 1.0, d, x)
        _move(A, grown[last], 1.0, d, y)
        _products_of_pair(A, n, grown, at, last, x, y, gram)
    return grown, gram


@_leaf
def _products_of_pair(A, n, grown, at, last, x, y, gram):
    """Write two rows of the Gram matrix."""
    row, next_row, b = at * (at + 1) // 2, last * (last + 1) // 2, 0
    while A.X.size and b + 4 <= at + 1:
        c = A.columns[A.slots[grown[b]]]
        d = A.columns[A.slots[grown[b + 1]]]
        e = A.columns[A.slots[grown[b + 2]]]
        f = A.columns[A.slots[grown[b + 3]]]
        products = _eight_dots(c, d, e, f, x, y)
        for k in range(4):
            gram[row + b + k] = products[k]
            gram[next_row + b + k] = products[4 + k]
        b += 4
    while b <= last:
        if b <= at:
            gram[row + b] = _product(A, grown[b], x)
        gram[next_row + b] = _product(A, grown[b], y)
        b += 1


@_leaf
def _equations(A, members, d, ridge, places, gram, fit, H):
    """Write the lower triangle of the Hessian of the free coordinates, the intercept last."""
    s = members.size
    m = s + fit
    for k in range(s):
        a = places[members[k]]
        for l in range(k + 1):
            b = places[members[l]]
            high, low = max(a, b), min(a, b)
            H[k * m + l] = gram[high * (high + 1) // 2 + low]
        H[k * m + k] += ridge[members[k]]
        if m > d.size:  # more coordinates than equations: a proximal step
            H[k * m + k] *= 1 + _PROXIMAL
    if fit:
        for k in range(s):
            H[s * m + k] = _product(A, members[k], d)
        H[s * m + s] = _sum(d)


@_jit
def _conjugate_gradients(A, members, d, ridge, fit, b, diagonal, tol, max_iter):
    """Solve the equations of the free coordinates, preconditioned by the diagonal."""
    s, m = members.size, b.size
    x, rest, v = np.zeros(m), b.copy(), np.empty(d.size)
    inverse, product = np.zeros(m), np.zeros(m)
    for k in range(m):
        inverse[k] = 1 / diagonal[k] if diagonal[k] > 0 else 0.0
    direction = np.empty(m)
    for k in range(m):
        direction[k] = inverse[k] * rest[k]
    before = _dot(rest, direction)
    start = before
    for _ in range(max_iter):
        if not before > tol * tol * start:
            break
        _combine(A, members, direction, direction[s] if fit else 0.0, v)
        for i in range(d.size):
            v[i] *= d[i]
        for k in range(s):
            j = members[k]
            product[k] = _product(A, j, v) + ridge[j] * direction[k]
        if fit:
            product[s] = _sum(v)
        curvature = _dot(direction, product)
        if not curvature > 0:
            break
        step, after = before / curvature, 0.0
        for k in range(m):
            x[k] += step * direction[k]
            rest[k] -= step * product[k]
            after += rest[k] * inverse[k] * rest[k]
        for k in range(m):
            direction[k] = inverse[k] * rest[k] + after / before * direction[k]
        before = after
    return x


@_jit
def _newton_direction(A, members, d, P, fit, slope, squares, known, places, gram):
    """Minimise the model on the free coordinates; return the step and the Gram matrix."""
    s, m = members.size, slope.size
    if A.X.size and m <= _DIRECT:
        known, gram = _extend_gram(A, members, d, known, places, gram)
        H = np.empty(m * m)
        _equations(A, members, d, P.ridge, places, gram, fit, H)
        _cholesky(H, m)
        step = np.empty(m)
        for k in range(m):
            step[k] = -slope[k]
        _substitute(H, m, step)
    else:
        diagonal = np.empty(m)
        for k in range(s):
            diagonal[k] = squares[members[k]] + P.ridge[members[k]]
        if fit:
            diagonal[s] = _sum(d)
        step = _conjugate_gradients(A, members, d, P.ridge, fit, slope, diagonal, 1e-4, 200)
        for k in range(m):
            step[k] = -step[k]
    return step, known, gram


@_jit
def _newton(A, work, coef, d, rho, P, fit, squares, known, places, gram):
    """Make a step of Newton's method on the free coordinates of a working set.

    A coordinate stops at zero, or at its bound; the step is halved until the model decreases.
    """
    n, p = d.size, P.l1.size
    free = np.empty(work.size, np.int64)
    s = 0
    for j in work:
        if _is_free(P, j, coef[j]):
            free[s] = j
            s += 1
    members, m = free[:s], s + fit
    if m == 0:
        return known, gram
    slope = np.empty(m)
    for k in range(s):
        j = members[k]
        slope[k] = _product(A, j, rho) + P.tilt[j] + P.ridge[j] * coef[j]
        slope[k] += math.copysign(P.l1[j], coef[j])
    if fit:
        slope[s] = _sum(rho)
    step, known, gram = _newton_direction(
        A, members, d, P, fit, slope, squares, known, places, gram
    )
    change, v, size = np.empty(s), np.empty(n), 1.0
    for trial in range(6):
        if trial == 5:  # up to the first bound, which always descends
            size = _room(members, step, coef, P)
        decrease, cut = 0.0, False
        for k in range(s):
            j, old = members[k], coef[members[k]]
            new = old + size * step[k]
            if P.l1[j] > 0 and (new * old < 0 or abs(new) < 1e-15 * abs(old)):
                new, cut = 0.0, True
            if new < P.low[j] or new > P.high[j]:
                new, cut = min(max(new, P.low[j]), P.high[j]), True
            change[k] = new - old
            decrease += _value(P, j, new) - _value(P, j, old)
        _combine(A, members, change, size * step[s] if fit else 0.0, v)
        for i in range(n):
            decrease += rho[i] * v[i] + 0.5 * d[i] * v[i] * v[i]
        if decrease < 0 or (size == 1 and not cut):
            for k in range(s):
                j = members[k]
                new = coef[j] + change[k]
                coef[j] = 0.0 if abs(new) < 1e-15 * abs(change[k]) else new  # where it stopped
            if fit:
                coef[p] += size * step[s]
            for i in range(n):
                rho[i] += d[i] * v[i]
            break
        size *= 0.4
    return known, gram


@_leaf
def _room(members, step, coef, P):
    """Largest share of a step that neither changes a sign nor leaves the bounds."""
    size = 1.0
    for k in range(members.size):
        j, beta = members[k], coef[members[k]]
        if P.l1[j] > 0 and step[k] * beta < 0:
            size = min(size, -beta / step[k])
        if step[k] > 0 and P.high[j] < np.inf:
            size = min(size, (P.high[j] - beta) / step[k])
        if step[k] < 0 and P.low[j] > -np.inf:
            size = min(size, (P.low[j] - beta) / step[k])
    return size


# --- coordinate descent -------------------------------------------------------------------------


@_leaf
def _pass(A, work, coef, d, rho, P, fit, squares):
    """Minimise the model in one coordinate after the other; return the largest violation met,
    and how many coordinates became free or ceased to be."""
    p = P.l1.size
    worst, changed = 0.0, 0
    for j in work:
        curvature = squares[j]
        old, slope = coef[j], _product(A, j, rho) + P.tilt[j]
        if curvature == 0 and P.ridge[j] == 0:  # the column is zero
            best = _conjugate_point(P, j, -slope)
            coef[j] = best if abs(best) < np.inf else old
            continue
        scale = math.sqrt(curvature + P.ridge[j])
        worst = max(worst, _violation(P, j, old, slope - P.tilt[j]) / scale)
        if curvature > 0:
            step = 1 / curvature
            new = _prox(old - step * slope, step, P.l1[j], P.ridge[j], P.low[j], P.high[j])
        else:
            cut = max(abs(slope) - P.l1[j], 0.0)
            new = min(max(-math.copysign(cut, slope) / P.ridge[j], P.low[j]), P.high[j])
        if new != old:
            coef[j] = new
            _move(A, j, new - old, d, rho)
            changed += _is_free(P, j, new) != _is_free(P, j, old)
    if fit:
        total, slope = _sum(d), _sum(rho)
        if total > 0:
            worst = max(worst, abs(slope) / math.sqrt(total))
            coef[p] -= slope / total
            for i in range(d.size):
                rho[i] -= d[i] * slope / total
    return worst, changed


@_jit
def _minimise_model(A, work, coef, d, rho, P, fit, squares, known, places, gram):
    """Minimise the model on a working set; return the number of passes and the Gram matrix.

    Ends when violations, in units of the root of the curvature, are a tenth of the first ones, or
    what rounding makes of them.
    """
    made, tol = 0, 0.0
    for i in range(d.size):
        tol += rho[i] ** 2 / d[i] if d[i] > 0 else 0.0
    tol = 1e-15 * math.sqrt(tol)
    for k in range(_PASSES):
        made += 1
        worst, changed = _pass(A, work, coef, d, rho, P, fit, squares)
        if worst <= tol:
            break
        if made == 1:
            tol = max(tol, 0.1 * worst)
        if changed <= 0.05 * work.size or k % 5 == 4:
            known, gram = _newton(A, work, coef, d, rho, P, fit, squares, known, places, gram)
    return made, known, gram


@_leaf
def _kth_largest(x, k):
    """The k-th largest item, by Hoare's selection, which moves items around."""
    lo, hi = 0, x.size - 1
    while lo < hi:
        pivot, i, j = x[(lo + hi) >> 1], lo, hi
        while i <= j:
            while x[i] > pivot:
                i += 1
            while x[j] < pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            hi = j
        elif k - 1 >= i:
            lo = i
        else:
            break
    return x[k - 1]


@_jit
def _choose(P, coef, u):
    """Choose a working set: free coordinates, and as many that violate, or nearly violate."""
    p = P.l1.size
    excess, others, chosen, count = np.empty(p), np.empty(p), np.zeros(p, np.uint8), 0
    for j in range(p):
        if _is_free(P, j, coef[j]):
            chosen[j] = 1
        else:
            excess[j] = others[count] = _violation(P, j, coef[j], u[j])
            count += 1
    wanted = min(max(p - count, 16 - (p - count)), count)
    if wanted > 0:
        cut = _kth_largest(others[:count], wanted)
        for j in range(p):
            if chosen[j] == 0 and excess[j] >= cut:
                chosen[j] = 1
    return _where(chosen, p)


@_leaf
def _fit_intercept(loss, z, y, weights, r, d, coef):
    """Minimise in the intercept alone, by Newton's method; r and d follow."""
    p = coef.size - 1
    for _ in range(30):
        slope, curvature, size = 0.0, 0.0, 0.0
        for i in range(z.size):
            slope += r[i]
            curvature += d[i]
            size += abs(r[i])
        if not abs(slope) > 1e-15 * size or curvature == 0:
            break
        step = -slope / curvature
        step = min(max(step, -2.0), 2.0) if loss == _LOGISTIC else step
        coef[p] += step
        for i in range(z.size):
            z[i] += step
        _slopes(loss, z, y, weights, r, d)
        if loss == _SQUARED:
            break


@_jit
def _line_search(A, loss, y, weights, coef, start, P, z, before):
    """Halve the step from `start` until the objective has decreased; z follows."""
    p = P.l1.size
    for _ in range(20):
        _scores(A, coef, p, z)
        if _objective(loss, z, y, weights, coef, P) <= before:
            break
        for j in range(p + 1):
            coef[j] = start[j] + 0.5 * (coef[j] - start[j])


@_jit
def _solve(A, y, weights, P, fit, loss, tol, max_iter, coef, u, info):
    """Solve one problem, from `coef` on."""
    n, p = y.size, P.l1.size
    for j in range(p):
        coef[j] = min(max(coef[j], P.low[j]), P.high[j])
    if not fit:
        coef[p] = 0.0
    z, r, d, rho = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    squares, start = np.empty(p), np.empty(p + 1)
    places, known, gram = np.empty(p, np.int64), np.empty(0, np.int64), np.empty(0)
    _fill(squares, -1.0)
    _fill(places, -1)
    count, passes, num_iter, stuck = 0, 0, 0, 0
    gap, best, lowest = np.inf, np.inf, np.inf
    _scores(A, coef, p, z)
    while True:
        _slopes(loss, z, y, weights, r, d)
        if fit:
            _fit_intercept(loss, z, y, weights, r, d, coef)
        _all_products(A, r, p, u)
        u[p] = _sum(r) if fit else 0.0
        gap = _gap(loss, z, y, weights, r, u, coef, P)
        value = _objective(loss, z, y, weights, coef, P)
        if gap < 0.9 * best or value < lowest - 1e-12 * abs(lowest):
            stuck = 0
        best, lowest = min(best, gap), min(lowest, value)
        stuck += 1
        if gap <= tol or num_iter >= max_iter or gap != gap or stuck > _PATIENCE:
            break
        num_iter += 1
        work = _choose(P, coef, u)
        if A.X.size:
            A, count = _copy_columns(A, n, work, count)
        for j in work:
            if loss != _SQUARED or squares[j] < 0:
                squares[j] = _square(A, j, d)
        if loss != _SQUARED:
            _fill(places, -1)
            known = known[:0]
            _copy(coef, start)
        _copy(r, rho)
        made, known, gram = _minimise_model(
            A, work, coef, d, rho, P, fit, squares, known, places, gram
        )
        passes += made
        if loss != _SQUARED:
            _line_search(A, loss, y, weights, coef, start, P, z, value)
        else:
            _scores(A, coef, p, z)
    if gap != gap:
        _fill(coef, np.nan)
        _fill(u, np.nan)
    info[0], info[1], info[2], info[3] = gap, num_iter, passes, gap <= tol


@_jit
def _solve_row(A, k, init, y, weights, l1, ridge, low, high, tilt, settings, flags):
    """Solve problem k; return its coefficients, the gradient, and what happened."""
    P = _Penalty(_wide(l1, k), _wide(ridge, k), _wide(low, k), _wide(high, k), _wide(tilt, k))
    coef, u, info, setting = (
        _wide(init, k),
        np.empty(l1.shape[1] + 1),
        np.empty(4),
        _wide(settings, k),
    )
    fit, loss, tol, max_iter = int(flags[0, 1]), int(flags[0, 0]), setting[0], setting[1]
    _solve(A, _wide(y, k), _wide(weights, k), P, fit, loss, tol, max_iter, coef, u, info)
    return coef, u, info


@_jit
def coordinates_dense(
    init, y, weights, l1, ridge, low, high, tilt, settings, X, flags, coef, gradient, info
):
    """Solve problems with a dense design, by rows; flags: the loss, whether there is an intercept.

    `settings` are the tolerance and the largest number of iterations; `info` the gap, the numbers
    of iterations and passes, and whether it converged.
    """
    A = _dense(X, 0, l1.shape[1])
    for k in range(coef.shape[0]):
        if X.shape[0] > 1:
            A = _dense(X, k, l1.shape[1])
        found = _solve_row(A, k, init, y, weights, l1, ridge, low, high, tilt, settings, flags)
        _copy(found[0], coef[k])
        _copy(found[1], gradient[k])
        _copy(found[2], info[k])
        _fill(A.slots, -1)


@_jit
def coordinates_sparse(
    init, y, weights, l1, ridge, low, high, tilt, settings, data, rows, starts, flags, coef,
    gradient, info,
):  # fmt: skip
    """Solve problems with a design in compressed columns; otherwise as `coordinates_dense`."""
    A = _sparse(data, rows, starts, 0)
    for k in range(coef.shape[0]):
        if data.shape[0] > 1:
            A = _sparse(data, rows, starts, k)
        found = _solve_row(A, k, init, y, weights, l1, ridge, low, high, tilt, settings, flags)
        _copy(found[0], coef[k])
        _copy(found[1], gradient[k])
        _copy(found[2], info[k])


# --- linear systems of the free coordinates -----------------------------------------------------


@_jit
def _solve_free(A, b, d, ridge, free, x):
    """Solve the equations of the free coordinates into x, which is b elsewhere."""
    n, p = d.size, ridge.size
    _copy(b, x)
    members, fit = _where(free, p), int(free[p])
    s = members.size
    m = s + fit
    if m == 0:
        return
    right = np.empty(m)
    for k in range(s):
        right[k] = b[members[k]]
    if fit:
        right[s] = b[p]
    if A.X.size:
        A, _ = _copy_columns(A, n, members, 0)
    if A.X.size and m <= _DIRECT:
        places = np.empty(p, np.int64)
        _fill(places, -1)
        _, gram = _extend_gram(A, members, d, np.empty(0, np.int64), places, np.empty(0))
        H = np.empty(m * m)
        _equations(A, members, d, ridge, places, gram, fit, H)
        factor = np.empty(m * m)
        _copy(H, factor)
        _cholesky(factor, m)
        found, rest = np.empty(m), np.empty(m)
        _copy(right, found)
        _substitute(factor, m, found)
        for _ in range(2):  # refine, which matters where the equations are nearly singular
            for k in range(m):
                rest[k] = right[k] - _dot(H[k * m : k * m + k + 1], found[: k + 1])
            for k in range(m):
                for l in range(k):
                    rest[l] -= H[k * m + l] * found[k]
            _substitute(factor, m, rest)
            _add(1.0, rest, found)
    else:
        diagonal = np.empty(m)
        for k in range(s):
            diagonal[k] = _square(A, members[k], d) + ridge[members[k]]
        if fit:
            diagonal[s] = _sum(d)
        found = _conjugate_gradients(A, members, d, ridge, fit, right, diagonal, 1e-15, 20 * m)
    for k in range(s):
        x[members[k]] = found[k]
    if fit:
        x[p] = found[s]


@_jit
def _whole_mask(free, k):
    row = free[k if free.shape[0] > 1 else 0]
    mask = np.empty(row.size, np.uint8)
    _copy(row, mask)
    return mask


@_jit
def free_system_dense(b, d, ridge, free, X, x):
    """Solve the equations of the free coordinates, for a dense design."""
    found = np.empty(b.shape[1])
    A = _dense(X, 0, ridge.shape[1])
    for k in range(x.shape[0]):
        if X.shape[0] > 1:
            A = _dense(X, k, ridge.shape[1])
        _fill(A.slots, -1)
        _solve_free(A, _wide(b, k), _wide(d, k), _wide(ridge, k), _whole_mask(free, k), found)
        _copy(found, x[k])


@_jit
def free_system_sparse(b, d, ridge, free, data, rows, starts, x):
    """Solve the equations of the free coordinates, for a sparse design."""
    found = np.empty(b.shape[1])
    A = _sparse(data, rows, starts, 0)
    for k in range(x.shape[0]):
        if data.shape[0] > 1:
            A = _sparse(data, rows, starts, k)
        _solve_free(A, _wide(b, k), _wide(d, k), _wide(ridge, k), _whole_mask(free, k), found)
        _copy(found, x[k])
