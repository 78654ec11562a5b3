r"""Block coordinate descent for the CPU, compiled by numba: several outputs, and groups.

The problem is that of :mod:`diffopt.sparse_linear.blocks`. Its coefficients are entries (feature j,
output c), numbered ``j * k + c``, and every entry belongs to a group, whose norm is penalised: a
penalty of absolute values is one whose groups are single entries. Outer iterations compute the
duality gap and choose a working set of groups; inner ones minimise a quadratic model of the loss on
it (the loss itself if it is squared), by passes over the groups and by Newton's method, with
conjugate gradients, on the groups that are not zero, where the penalty is smooth.

Scores and what belongs to them are arrays of shape [k, n]. The design and its products are those of
:mod:`diffopt.kernels.coordinates`.
"""

import collections
import math

import numpy as np

from diffopt.kernels.designs import (
    _all_products,
    _copy_columns,
    _dense,
    _Design,
    _product,
    _scores,
    _sparse,
    _square,
    _whole,
    _wide,
)
from diffopt.kernels.objectives import (
    _LOGISTIC,
    _SQUARED,
    _sigmoid,
)
from diffopt.kernels.vectors import (
    _add,
    _copy,
    _dot,
    _fill,
    _inline,
    _jit,
    _leaf,
    _sum,
    _where,
)

_MULTINOMIAL = 2  # after `_SQUARED` and `_LOGISTIC`
_PASSES = 50  # over one working set, at most
_PATIENCE = 10  # iterations without a smaller gap before rounding is taken for the cause

# The entries of group g are ``entries[starts[g]:starts[g + 1]]``.
_Groups = collections.namedtuple("_Groups", "lam entries starts k")
# Second derivatives of the loss: D [k, n] itself, or probabilities where `mass` [n] is not empty.
_Curvature = collections.namedtuple("_Curvature", "D mass")


# --- groups -------------------------------------------------------------------------------------


@_jit
def _sort_entries(labels, lam, k):
    """List the entries group by group."""
    starts = np.zeros(lam.size + 1, np.int64)
    for g in labels:
        starts[g + 1] += 1
    for g in range(lam.size):
        starts[g + 1] += starts[g]
    ends, entries = np.zeros(lam.size, np.int64), np.empty(labels.size, np.int64)
    for e in range(labels.size):
        g = labels[e]
        entries[starts[g] + ends[g]] = e
        ends[g] += 1
    return _Groups(lam, entries, starts, k)


@_inline
def _members(G, g):
    return G.entries[G.starts[g] : G.starts[g + 1]]


@_leaf
def _norm(members, x):
    total = 0.0
    for e in members:
        total += x[e] * x[e]
    return math.sqrt(total)


@_leaf
def _violation(lam, members, coef, u):
    """Distance of minus the gradient of a group to the subdifferential of its penalty."""
    size = _norm(members, coef)
    if size == 0:
        return _norm(members, u) - lam
    total = 0.0
    for e in members:
        total += (u[e] + lam * coef[e] / size) ** 2
    return math.sqrt(total)


# --- the loss -----------------------------------------------------------------------------------


@_leaf
def _top(Z, i):
    top = Z[0, i]
    for c in range(1, Z.shape[0]):
        top = max(top, Z[c, i])
    return top


@_leaf
def _slopes(loss, Z, Y, weights, R, C):
    """Write derivatives of the weighted losses into R, and second derivatives."""
    k, n = Z.shape
    for i in range(n):
        if loss == _MULTINOMIAL:
            top, total = _top(Z, i), 0.0
            for c in range(k):
                C.D[c, i] = math.exp(Z[c, i] - top)
                total += C.D[c, i]
            for c in range(k):
                C.D[c, i] /= total
                R[c, i] = C.mass[i] * C.D[c, i] - weights[i] * Y[c, i]
            continue
        for c in range(k):
            if loss == _SQUARED:
                R[c, i], C.D[c, i] = weights[i] * (Z[c, i] - Y[c, i]), weights[i]
            else:
                y = Y[c, i]
                share = _sigmoid(-y * Z[c, i])
                R[c, i] = -weights[i] * y * share
                C.D[c, i] = weights[i] * y * y * share * (1 - share)


@_leaf
def _objective(loss, Z, Y, weights, G, coef):
    k, n = Z.shape
    total = 0.0
    for i in range(n):
        if loss == _MULTINOMIAL:
            top, mass, inside = _top(Z, i), 0.0, 0.0
            for c in range(k):
                mass += math.exp(Z[c, i] - top)
                inside += Y[c, i]
            value = inside * (math.log(mass) + top)
            for c in range(k):
                value -= Y[c, i] * Z[c, i]
            total += weights[i] * value
            continue
        for c in range(k):
            y, z = Y[c, i], Z[c, i]
            if loss == _SQUARED:
                total += weights[i] * 0.5 * (z - y) ** 2
            else:
                total += weights[i] * (max(-y * z, 0.0) + math.log1p(math.exp(-abs(y * z))))
    for g in range(G.lam.size):
        total += G.lam[g] * _norm(_members(G, g), coef)
    return total


@_leaf
def _conjugate_term(loss, scale, c, i, Z, Y, weights, R, C):
    """Excess of the loss over its linear bound by the scaled dual point, for one score."""
    w = weights[i]
    if w == 0:
        return 0.0
    if loss == _SQUARED:
        return ((1 - scale) * R[c, i]) ** 2 / (2 * w)
    if loss == _LOGISTIC:
        y = Y[c, i]
        share, other = _sigmoid(-y * Z[c, i]), _sigmoid(y * Z[c, i])
        term = (1 - scale * share) * math.log1p((1 - scale) * share / other)
        if scale > 0:
            term += scale * share * math.log(scale)
        return w * max(term, 0.0)
    mass = C.mass[i]
    if mass == 0:
        return 0.0
    share, target = max(C.D[c, i], 1e-300), w * Y[c, i] / mass
    t = (1 - scale) * (target - share) / share
    if t <= -1:
        return mass * share
    return mass * max(share * ((1 + t) * math.log1p(t) - t), 0.0)


@_leaf
def _gap(loss, Z, Y, weights, R, C, G, coef, u):
    """Duality gap, as a sum of terms none of which is negative; the dual point is R, scaled."""
    (k, n), pk, scale, gap = Z.shape, G.entries.size, 1.0, 0.0
    for g in range(G.lam.size):
        size = _norm(_members(G, g), u)
        if G.lam[g] > 0 and size > G.lam[g]:
            scale = min(scale, G.lam[g] / size)
    for g in range(G.lam.size):
        members = _members(G, g)
        size, term = _norm(members, coef), 0.0
        if G.lam[g] == 0:
            gap += _norm(members, u) * max(size, 1.0)
            continue
        for e in members:
            term += u[e] * coef[e]
        gap += max(G.lam[g] * size + scale * term, 0.0)
    for c in range(k):
        gap += abs(u[pk + c]) * max(abs(coef[pk + c]), 1.0)
        if scale < 1:
            for i in range(n):
                gap += _conjugate_term(loss, scale, c, i, Z, Y, weights, R, C)
    return gap


# --- the model ----------------------------------------------------------------------------------


@_leaf
def _add_column(A, j, step, out):
    if A.X.size:
        _add(step, A.columns[A.slots[j]], out)
        return
    for t in range(A.starts[j], A.starts[j + 1]):
        out[A.rows[t]] += step * A.data[t]


@_leaf
def _combine(A, members, x, k, V):
    """Write the scores of entries `members`, of values x, into V."""
    pk = A.slots.size * k
    for c in range(V.shape[0]):
        _fill(V[c], 0.0)
    for m in range(members.size):
        e = members[m]
        if e >= pk:
            for i in range(V.shape[1]):
                V[e - pk, i] += x[m]
        elif x[m] != 0:
            _add_column(A, e // k, x[m], V[e % k])


@_leaf
def _curve(C, V):
    """Multiply scores by the second derivatives, in place; return the quadratic form."""
    (k, n), total = V.shape, 0.0
    if C.mass.size == 0:
        for c in range(k):
            for i in range(n):
                product = C.D[c, i] * V[c, i]
                total += product * V[c, i]
                V[c, i] = product
        return total
    for i in range(n):
        mean, spread = 0.0, 0.0
        for c in range(k):
            mean += C.D[c, i] * V[c, i]
        for c in range(k):
            centred = V[c, i] - mean
            spread += C.D[c, i] * centred * centred
            V[c, i] = C.mass[i] * C.D[c, i] * centred
        total += C.mass[i] * spread
    return total


@_leaf
def _entry_product(A, e, k, V):
    pk = A.slots.size * k
    return _sum(V[e - pk]) if e >= pk else _product(A, e // k, V[e % k])


@_leaf
def _diagonal(A, e, k, C, d):
    """Second derivative of the loss along one entry; d is room for the weights of the items."""
    pk = A.slots.size * k
    c = e % k if e < pk else e - pk
    for i in range(d.size):
        share = C.D[c, i]
        d[i] = share if C.mass.size == 0 else C.mass[i] * share * (1 - share)
    return _sum(d) if e >= pk else _square(A, e // k, d)


@_leaf
def _increase(rho, V):
    for c in range(V.shape[0]):
        _add(1.0, V[c], rho[c])


@_leaf
def _step_group(A, members, lam, bound, coef, rho, C, k, slope, step, V):
    """Make a proximal step on one group; return the violation before, and the bound it took."""
    s = members.size
    for m in range(s):
        slope[members[m]] = _entry_product(A, members[m], k, rho)
    violation = _violation(lam, members, coef, slope)
    for _ in range(40):
        size = 0.0
        for m in range(s):
            step[m] = coef[members[m]] - slope[members[m]] / bound
            size += step[m] ** 2
        shrink = max(1 - lam / (bound * math.sqrt(size)), 0.0) if size > 0 else 0.0
        moved = 0.0
        for m in range(s):
            step[m] = shrink * step[m] - coef[members[m]]
            moved += step[m] ** 2
        if moved == 0:
            break
        _combine(A, members, step, k, V)
        if _curve(C, V) <= bound * moved * (1 + 1e-10):
            for m in range(s):
                old = coef[members[m]]
                coef[members[m]] = 0.0 if shrink == 0 else old + step[m]
            _increase(rho, V)
            break
        bound *= 2
    return violation, bound


@_leaf
def _pass(A, G, work, intercepts, bounds, coef, rho, C, slope, step, V):
    """Step once on every group; return the largest violation and whether the support changed."""
    worst, changed = 0.0, False
    for g in work:
        members = _members(G, g)
        if bounds[g] == 0:  # the loss does not depend on the group
            for e in members:
                coef[e] = 0.0
            continue
        there = _norm(members, coef) > 0
        violation, bounds[g] = _step_group(
            A, members, G.lam[g], bounds[g], coef, rho, C, G.k, slope, step, V
        )
        worst = max(worst, violation)
        changed |= there != (_norm(members, coef) > 0)
    bound = bounds[G.lam.size]
    if intercepts.size and bound > 0:
        violation, bound = _step_group(A, intercepts, 0.0, bound, coef, rho, C, G.k, slope, step, V)
        worst, bounds[G.lam.size] = max(worst, violation), bound
    return worst, changed


# --- Newton's method on the groups that are not zero --------------------------------------------


@_jit
def _free_groups(G, work, coef, fit):
    """List the entries of the groups where the penalty is smooth, and where each group starts."""
    count, kept = 0, 0
    for g in work:
        if G.lam[g] == 0 or _norm(_members(G, g), coef) > 0:
            count, kept = count + G.starts[g + 1] - G.starts[g], kept + 1
    members, starts = np.empty(count + fit * G.k, np.int64), np.zeros(kept + 1, np.int64)
    ratio, kept = np.zeros(kept), 0
    for g in work:
        size = _norm(_members(G, g), coef)
        if G.lam[g] == 0 or size > 0:
            starts[kept + 1] = starts[kept]
            for e in _members(G, g):
                members[starts[kept + 1]] = e
                starts[kept + 1] += 1
            ratio[kept] = G.lam[g] / size if size > 0 else 0.0
            kept += 1
    for c in range(fit * G.k):
        members[count + c] = G.entries.size + c
    return members, starts, ratio


@_jit
def _unit(starts, x):
    """Divide each group by its norm."""
    y = np.zeros(x.size)
    for g in range(starts.size - 1):
        size = 0.0
        for m in range(starts[g], starts[g + 1]):
            size += x[m] ** 2
        for m in range(starts[g], starts[g + 1]):
            y[m] = x[m] / math.sqrt(size) if size > 0 else 0.0
    return y


@_leaf
def _hessian(A, members, starts, ratio, unit, C, k, x, V, out):
    """Multiply by the Hessian of the model and the penalty."""
    _combine(A, members, x, k, V)
    _curve(C, V)
    for m in range(members.size):
        out[m] = _entry_product(A, members[m], k, V)
    for g in range(starts.size - 1):
        along = 0.0
        for m in range(starts[g], starts[g + 1]):
            along += unit[m] * x[m]
        for m in range(starts[g], starts[g + 1]):
            out[m] += ratio[g] * (x[m] - unit[m] * along)


@_jit
def _conjugate_gradients(A, members, starts, ratio, unit, C, k, b, V, tol, max_iter):
    """Solve the equations of the free entries, preconditioned by the diagonal."""
    size = b.size
    inverse, room, x, rest = np.zeros(size), np.empty(V.shape[1]), np.zeros(size), np.empty(size)
    _copy(b, rest)
    for m in range(size):
        inverse[m] = _diagonal(A, members[m], k, C, room)
    for g in range(starts.size - 1):
        for m in range(starts[g], starts[g + 1]):
            inverse[m] += ratio[g] * (1 - unit[m] ** 2)
    for m in range(size):
        inverse[m] = 1 / inverse[m] if inverse[m] > 0 else 0.0
    direction, product = np.empty(size), np.empty(size)
    before = 0.0
    for m in range(size):
        direction[m] = inverse[m] * rest[m]
        before += rest[m] * direction[m]
    start = before
    for _ in range(max_iter):
        if not before > tol * tol * start:
            break
        _hessian(A, members, starts, ratio, unit, C, k, direction, V, product)
        form, scale, after = 0.0, 0.0, 0.0
        for m in range(size):
            form += direction[m] * product[m]
            scale += direction[m] ** 2 / inverse[m] if inverse[m] > 0 else 0.0
        if not form > 1e-14 * scale:
            break
        for m in range(size):
            x[m] += before / form * direction[m]
            rest[m] -= before / form * product[m]
            after += rest[m] * inverse[m] * rest[m]
        for m in range(size):
            direction[m] = inverse[m] * rest[m] + after / before * direction[m]
        before = after
    return x


@_jit
def _newton(A, G, work, coef, rho, C, fit, V):
    """Make a step of Newton's method on the free groups; a group that turns round stops at zero.

    The step is halved until the model decreases.
    """
    members, starts, ratio = _free_groups(G, work, coef, fit)
    if members.size == 0:
        return
    size = members.size
    old, slope, right, change = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for m in range(size):
        old[m] = coef[members[m]]
        slope[m] = _entry_product(A, members[m], G.k, rho)
        right[m] = -slope[m]
    for g in range(starts.size - 1):
        for m in range(starts[g], starts[g + 1]):
            right[m] -= ratio[g] * old[m]
    unit = _unit(starts, old)
    step = _conjugate_gradients(A, members, starts, ratio, unit, C, G.k, right, V, 1e-7, 300)
    for _ in range(8):
        rise, scale = _shorten(starts, ratio, unit, old, step, change)
        _combine(A, members, change, G.k, V)
        linear = _dot(slope, change)
        if linear + 0.5 * _curve(C, V) + rise <= 1e-15 * (abs(linear) + scale):
            for m in range(size):
                coef[members[m]] = old[m] + change[m]
            _increase(rho, V)
            return
        for m in range(size):
            step[m] *= 0.5


@_leaf
def _shorten(starts, ratio, unit, old, step, change):
    """Write the step into `change`, but stop at zero; return the rise of the penalty, and it."""
    rise, total = 0.0, 0.0
    _copy(step, change)
    for g in range(starts.size - 1):
        before, along, after, difference = 0.0, 0.0, 0.0, 0.0
        for m in range(starts[g], starts[g + 1]):
            before += old[m] * unit[m]
            along += unit[m] * (old[m] + step[m])
        for m in range(starts[g], starts[g + 1]):
            if ratio[g] > 0 and along <= 0:
                change[m] = -old[m]
            after += (old[m] + change[m]) ** 2
            difference += change[m] * (2 * old[m] + change[m])
        if ratio[g] > 0:
            rise += ratio[g] * before * difference / (before + math.sqrt(after))
            total += ratio[g] * before * before
    return rise, total


# --- solving ------------------------------------------------------------------------------------


@_jit
def _choose(G, coef, u):
    """Choose a working set: free groups, and as many that violate, or nearly violate."""
    total, count = G.lam.size, 0
    excess = np.empty(total)
    for g in range(total):
        members = _members(G, g)
        excess[g] = _violation(G.lam[g], members, coef, u)
        if G.lam[g] == 0 or _norm(members, coef) > 0:
            excess[g], count = np.inf, count + 1
    size, low, high = max(2 * count, 16), -1.0, 0.0
    for g in range(total):
        if excess[g] < np.inf:
            low, high = min(low, excess[g]), max(high, excess[g])
    for _ in range(30):  # until `size` groups exceed `low`, at least
        cut, found = 0.5 * (low + high), 0
        for g in range(total):
            found += excess[g] >= cut
        low, high = (cut, high) if found >= size else (low, cut)
    work, found = np.empty(total, np.int64), 0
    for g in range(total):
        if excess[g] >= low and (found < 2 * size or excess[g] == np.inf):
            work[found] = g
            found += 1
    return work[:found]


@_leaf
def _bound_groups(A, G, work, C, fit, bounds, room):
    """Start the bound of the curvature of each group at the largest second derivative."""
    pk = G.entries.size
    for g in work:
        bounds[g] = 0.0
        for e in _members(G, g):
            bounds[g] = max(bounds[g], _diagonal(A, e, G.k, C, room))
    bounds[G.lam.size] = 0.0
    for c in range(G.k if fit else 0):
        bounds[G.lam.size] = max(bounds[G.lam.size], _diagonal(A, pk + c, G.k, C, room))


@_jit
def _all_scores(A, coef, Z):
    k, p = Z.shape[0], A.slots.size
    part = np.empty(p + 1)
    for c in range(k):
        for j in range(p + 1):
            part[j] = coef[j * k + c]
        _scores(A, part, p, Z[c])


@_jit
def _gradient(A, R, fit, u):
    k, p = R.shape[0], A.slots.size
    part = np.empty(p + 1)
    for c in range(k):
        _all_products(A, R[c], p, part)
        part[p] = _sum(R[c]) if fit else 0.0
        for j in range(p + 1):
            u[j * k + c] = part[j]


@_jit
def _minimise_model(A, G, work, bounds, coef, rho, C, fit, tol, V):
    """Minimise the model on a working set; return the number of passes."""
    slope, step, pk = np.empty(coef.size), np.empty(coef.size), G.entries.size
    intercepts = np.arange(pk, pk + G.k if fit else pk)
    for made in range(_PASSES):
        worst, changed = _pass(A, G, work, intercepts, bounds, coef, rho, C, slope, step, V)
        if worst <= tol:
            return made + 1
        if not changed or made % 5 == 4:
            _newton(A, G, work, coef, rho, C, fit, V)
    return _PASSES


@_jit
def _line_search(A, loss, Y, weights, G, coef, start, Z, before):
    """Halve the step from `start` until the objective has decreased; Z follows."""
    for _ in range(20):
        _all_scores(A, coef, Z)
        if _objective(loss, Z, Y, weights, G, coef) <= before + 1e-15 * abs(before):
            break
        for e in range(coef.size):
            coef[e] = start[e] + 0.5 * (coef[e] - start[e])


@_inline
def _solve(A, Y, weights, G, fit, loss, tol, max_iter, coef, u, info):
    """Solve one problem, from `coef` on."""
    k, n = Y.shape
    pk, groups = G.entries.size, G.lam.size
    if not fit:
        _fill(coef[pk:], 0.0)
    Z, R, V = np.empty((k, n)), np.empty((k, n)), np.empty((k, n))
    mass = np.zeros(n if loss == _MULTINOMIAL else 0)
    for i in range(mass.size):
        for c in range(k):
            mass[i] += weights[i] * Y[c, i]
    C, bounds = _Curvature(np.empty((k, n)), mass), np.zeros(groups + 1)
    count, passes, num_iter, best, stuck = 0, 0, 0, np.inf, 0
    marked, start = np.zeros(A.slots.size, np.int64), np.empty(coef.size)
    _all_scores(A, coef, Z)
    while True:
        _slopes(loss, Z, Y, weights, R, C)
        _gradient(A, R, fit, u)
        gap = _gap(loss, Z, Y, weights, R, C, G, coef, u)
        if gap < 0.9 * best:
            best, stuck = gap, 0
        stuck += 1
        if gap <= tol or num_iter >= max_iter or gap != gap or stuck > _PATIENCE:
            break
        num_iter += 1
        work, worst, largest = _choose(G, coef, u), 0.0, 0.0
        for e in range(pk + k):
            largest = max(largest, abs(u[e]))
            worst = max(worst, abs(u[e])) if e >= pk else worst
        _fill(marked, 0)
        for g in work:
            members = _members(G, g)
            worst = max(worst, _violation(G.lam[g], members, coef, u))
            for e in members:
                marked[e // k] = 1
        worst = max(worst, 1e-15 * largest)  # rounding allows no less
        if A.X.size:
            A, count = _copy_columns(A, n, _where(marked, marked.size), count)
        _bound_groups(A, G, work, C, fit, bounds, Z[0])
        _all_scores(A, coef, Z)
        before = _objective(loss, Z, Y, weights, G, coef)
        _copy(coef, start)
        passes += _minimise_model(A, G, work, bounds, coef, R, C, fit, 0.1 * worst, V)
        _line_search(A, loss, Y, weights, G, coef, start, Z, before)
    if gap != gap:
        _fill(coef, np.nan)
        _fill(u, np.nan)
    info[0], info[1], info[2], info[3] = gap, num_iter, passes, gap <= tol


@_jit
def _outputs(y, n):
    """Targets [n * k] as an array of shape [k, n]."""
    k = y.size // n
    Y = np.empty((k, n))
    for i in range(n):
        for c in range(k):
            Y[c, i] = y[i * k + c]
    return Y


@_inline
def _solve_row(A, row, init, y, weights, lam, labels, settings, flags, coef, gradient, info):
    w, s = _wide(weights, row), _wide(settings, row)
    G = _sort_entries(_whole(labels, row), _wide(lam, row), int(flags[0, 2]))
    c, u, i = _wide(init, row), np.empty(coef.shape[1]), np.empty(4)
    Y = _outputs(_wide(y, row), w.size)
    _solve(A, Y, w, G, int(flags[0, 1]), int(flags[0, 0]), s[0], s[1], c, u, i)
    _copy(c, coef[row])
    _copy(u, gradient[row])
    _copy(i, info[row])


@_inline
def blocks_dense(init, y, weights, lam, labels, settings, X, flags, coef, gradient, info):
    """Solve problems with a dense design, by rows; flags: the loss, an intercept or none, k.

    `settings` are the tolerance and the largest number of iterations; `info` the gap, the numbers
    of iterations and passes, and whether it converged.
    """
    for row in range(coef.shape[0]):
        A = _dense(X, row, labels.shape[1] // flags[0, 2])
        _solve_row(A, row, init, y, weights, lam, labels, settings, flags, coef, gradient, info)


@_inline
def blocks_sparse(
    init, y, weights, lam, labels, settings, data, rows, starts, flags, coef, gradient, info
):
    """Solve problems with a design in compressed columns; otherwise as `blocks_dense`."""
    for row in range(coef.shape[0]):
        A = _sparse(data, rows, starts, row)
        slots = np.empty(labels.shape[1] // flags[0, 2], np.int64)
        A = _Design(A.X, A.data, A.rows, A.starts, A.columns, slots)
        _solve_row(A, row, init, y, weights, lam, labels, settings, flags, coef, gradient, info)
