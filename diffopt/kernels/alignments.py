"""Sums over all alignments of two series, for the CPU, compiled by numba.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. The weight of an alignment is the
product of ``exp(-cost / gamma)`` over its cells. Sums of weights are carried as pairs of a mantissa
and an exponent, so that they never overflow: a cell costs one exponential, in a loop that
vectorises, and no logarithm. Mantissas are only brought back into range where they leave it.
"""

import numba
import numpy as np

from diffopt.kernels.native import _LN2, _POWERS, _add, _exp_parts, _halve, _has_nan

_jit = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_NONE = -1e305  # exponent of a sum over nothing
_WIDE = 300.0  # mantissas stay between 2**-300 and 2**300
_LARGE, _SMALL = 2.0**300, 2.0**-300


@_jit
def _kernel(row, gamma, scratch, mantissa, exponent):
    """``exp(-cost / gamma)`` of a row of costs."""
    for j in range(row.size):
        scratch[j] = -float(row[j]) / gamma
    _exp_parts(scratch, 0, row.size, mantissa, exponent)


@_jit
def _times(a, a_exp, b, b_exp):
    """Product of two pairs, its mantissa back in range."""
    a *= b
    a_exp += b_exp
    if a > _LARGE:
        return a * _SMALL, a_exp + _WIDE
    if a < _SMALL:
        return a * _LARGE, a_exp - _WIDE
    return a, a_exp


@_jit
def _scale(a, times):
    """``a * 2**times`` for a result of moderate size."""
    return _halve(a, -times) if times <= 0 else a / _POWERS[np.int64(min(times, 1000.0))]


@_jit
def _sweep(first, k, k_exp, before, before_exp, out, out_exp):
    """Sums up to each cell of a row, from those of the row before: `k` times all predecessors."""
    left, left_exp = 0.0, _NONE
    corner, corner_exp = (1.0, 0.0) if first else (0.0, _NONE)
    for j in range(k.size):
        a, a_exp = _add(before[j], before_exp[j], corner, corner_exp)
        corner, corner_exp = before[j], before_exp[j]
        a, a_exp = _add(a, a_exp, left, left_exp)
        left, left_exp = _times(a, a_exp, k[j], k_exp[j])
        out[j], out_exp[j] = left, left_exp


@_jit
def _value(total, total_exp, gamma):
    return -gamma * (total_exp * _LN2 + np.log(total)) if total_exp > -1e299 else np.inf


@_jit
def _shortest(costs, n, m, dist):
    """Least costs of paths to each cell, row by row; with one row in `dist`, of the last only."""
    rows = dist.shape[0]
    for i in range(n):
        corner = 0.0 if i == 0 else np.inf
        left = np.inf
        for j in range(m):
            up = dist[(i - 1) % rows, j] if i > 0 else np.inf
            left = min(min(up, left), corner) + costs[i * m + j]
            corner = up
            dist[i % rows, j] = left
    return dist[(n - 1) % rows, m - 1]


@_jit
def _trace(dist, n, m, path):
    """Mark the cheapest path, from its end; at ties the diagonal step, then the one upwards."""
    i, j = n - 1, m - 1
    path[i * m + j] = 1.0
    while i > 0 or j > 0:
        corner = dist[i - 1, j - 1] if i > 0 and j > 0 else np.inf
        up = dist[i - 1, j] if i > 0 else np.inf
        left = dist[i, j - 1] if j > 0 else np.inf
        if i > 0 and j > 0 and corner <= min(up, left):
            i, j = i - 1, j - 1
        elif i > 0 and (j == 0 or up <= left):
            i -= 1
        else:
            j -= 1
        path[i * m + j] = 1.0


@_jit
def alignment_value(gamma, costs, flags, out):
    """Soft minimum over alignments of the sum of costs; flags: the sizes of the two series."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    k, k_exp, scratch = np.empty(m), np.empty(m), np.empty(m)
    old, old_exp, new, new_exp = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    dist = np.empty((1, m))
    for r in range(out.shape[0]):
        cost = costs[r if costs.shape[0] > 1 else 0]
        g = float(gamma[r if gamma.shape[0] > 1 else 0, 0])
        if _has_nan(cost):
            out[r, 0] = np.nan
            continue
        if g == 0:
            out[r, 0] = _shortest(cost, n, m, dist)
            continue
        for j in range(m):
            old[j], old_exp[j] = 0.0, _NONE
        for i in range(n):
            _kernel(cost[i * m : (i + 1) * m], g, scratch, k, k_exp)
            _sweep(i == 0, k, k_exp, old, old_exp, new, new_exp)
            old, new, old_exp, new_exp = new, old, new_exp, old_exp
        out[r, 0] = _value(old[m - 1], old_exp[m - 1], g)


@_jit
def alignment_mean(costs_gamma, flags, out):
    """Mean alignment, then the value; operand and result are tables with one more entry.

    The mean at a cell is the weight of all paths to it, times that of all paths on from it.
    """
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    size = n * m
    k, k_exp, scratch = np.empty(m), np.empty(m), np.empty(m)
    to, to_exp = np.empty((n + 1, m)), np.empty((n + 1, m))
    on, on_exp = np.empty(m), np.empty(m)
    for j in range(m):
        to[n, j], to_exp[n, j] = 0.0, _NONE  # before the first row there is nothing
    for r in range(out.shape[0]):
        cost, mean = costs_gamma[r], out[r]
        g = float(cost[size])
        if _has_nan(cost):
            for c in range(size + 1):
                mean[c] = np.nan
            continue
        if g == 0:
            for c in range(size):
                mean[c] = 0.0
            mean[size] = _shortest(cost, n, m, to)
            if mean[size] < np.inf:
                _trace(to, n, m, mean)
            continue
        for i in range(n):
            _kernel(cost[i * m : (i + 1) * m], g, scratch, k, k_exp)
            _sweep(i == 0, k, k_exp, to[i - 1], to_exp[i - 1], to[i], to_exp[i])
        total, total_exp = to[n - 1, m - 1], to_exp[n - 1, m - 1]
        mean[size] = _value(total, total_exp, g)
        reached = total_exp > -1e299
        for j in range(m):
            on[j], on_exp[j] = 0.0, _NONE
        for i in range(n - 1, -1, -1):
            _kernel(cost[i * m : (i + 1) * m], g, scratch, k, k_exp)
            corner, corner_exp = (1.0, 0.0) if i == n - 1 else (0.0, _NONE)
            right, right_exp = 0.0, _NONE
            for j in range(m - 1, -1, -1):
                b, b_exp = _add(on[j], on_exp[j], corner, corner_exp)
                corner, corner_exp = on[j], on_exp[j]
                b, b_exp = _add(b, b_exp, right, right_exp)
                right, right_exp = _times(b, b_exp, k[j], k_exp[j])
                on[j], on_exp[j] = right, right_exp
                b, b_exp = _times(b, b_exp, to[i, j], to_exp[i, j])
                if reached and b > 0:
                    mean[i * m + j] = min(_scale(b / total, b_exp - total_exp), 1.0)
                else:
                    mean[i * m + j] = 0.0
