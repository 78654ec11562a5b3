r"""Losses of linear scores and separable penalties, for kernels compiled by numba.

The problem is that of :mod:`diffopt.sparse_linear.problem`.
"""

import collections
import math

import numpy as np

from diffopt.kernels.vectors import (
    _leaf,
)

_SQUARED, _LOGISTIC = 0, 1
_Penalty = collections.namedtuple("_Penalty", "l1 ridge low high tilt")


@_leaf
def _loss(loss, z, y):
    if loss == _SQUARED:
        return 0.5 * (z - y) ** 2
    return max(-y * z, 0.0) + math.log1p(math.exp(-abs(y * z)))


@_leaf
def _sigmoid(x):
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


@_leaf
def _slopes(loss, z, y, weights, r, d):
    """Write the derivatives of the weighted losses into r, the second derivatives into d."""
    for i in range(z.size):
        if loss == _SQUARED:
            r[i] = weights[i] * (z[i] - y[i])
            d[i] = weights[i]
        else:
            share = _sigmoid(-y[i] * z[i])
            r[i] = -weights[i] * y[i] * share
            d[i] = weights[i] * y[i] * y[i] * share * (1 - share)


@_leaf
def _prox(x, step, l1, ridge, low, high):
    """Minimise ``(beta - x)**2 / (2 step)`` plus the penalty of a coordinate."""
    cut = step * l1
    x = (x - cut if x > cut else (x + cut if x < -cut else 0.0)) / (1 + step * ridge)
    return min(max(x, low), high)


@_leaf
def _value(P, j, beta):
    """Penalty of a coordinate within its bounds."""
    return P.tilt[j] * beta + P.l1[j] * abs(beta) + 0.5 * P.ridge[j] * beta * beta


@_leaf
def _objective(loss, z, y, weights, coef, P):
    total = 0.0
    for i in range(z.size):
        if weights[i] != 0:
            total += weights[i] * _loss(loss, z[i], y[i])
    for j in range(coef.size - 1):
        if coef[j] != 0:
            total += _value(P, j, coef[j])
    return total


@_leaf
def _violation(P, j, beta, u):
    """Excess of minus the gradient over the subdifferential of the penalty; negative inside."""
    g = u + P.tilt[j] + P.ridge[j] * beta
    excess = -np.inf
    if beta > P.low[j]:
        excess = max(excess, g + P.l1[j] if beta > 0 else g - P.l1[j])
    if beta < P.high[j]:
        excess = max(excess, -g + P.l1[j] if beta < 0 else -g - P.l1[j])
    return excess


@_leaf
def _is_free(P, j, beta):
    """Whether the penalty is smooth at the coordinate, and the coordinate may move."""
    return (beta != 0 or P.l1[j] == 0) and P.low[j] < beta < P.high[j]


@_leaf
def _runs_away(P, j, c):
    """Whether nothing at all bounds the coordinate in the direction of c."""
    side = P.high[j] if c > 0 else P.low[j]
    return P.ridge[j] == 0 and P.l1[j] == 0 and abs(side) == np.inf


@_leaf
def _feasible_scale(P, u):
    """Largest number in [0, 1] that makes the products u feasible where nothing else bounds."""
    scale = 1.0
    for j in range(P.l1.size):
        if P.ridge[j] == 0 and P.l1[j] > 0:
            if P.low[j] == -np.inf and u[j] > 0:
                scale = min(scale, (P.l1[j] - P.tilt[j]) / u[j])
            if P.high[j] == np.inf and u[j] < 0:
                scale = min(scale, -(P.l1[j] + P.tilt[j]) / u[j])
    return max(scale, 0.0)


@_leaf
def _conjugate_point(P, j, c):
    """Maximise ``c * beta`` minus the penalty without its tilt; infinite if there is no maximum."""
    if P.ridge[j] > 0:
        cut = max(abs(c) - P.l1[j], 0.0)
        return min(max(math.copysign(cut, c) / P.ridge[j], P.low[j]), P.high[j])
    if c > P.l1[j] and (P.high[j] < np.inf or c > P.l1[j] * (1 + 1e-9)):
        return P.high[j]
    if c < -P.l1[j] and (P.low[j] > -np.inf or c < -P.l1[j] * (1 + 1e-9)):
        return P.low[j]
    return min(max(0.0, P.low[j]), P.high[j])


@_leaf
def _gap(loss, z, y, weights, r, u, coef, P):
    """Duality gap, as a sum of terms none of which is negative.

    The dual point is r, scaled until it is feasible. Where nothing at all bounds a coordinate, its
    gradient should be zero: what it is counts times the coordinate.
    """
    p = P.l1.size
    scale, gap = _feasible_scale(P, u), abs(u[p]) * max(abs(coef[p]), 1.0)
    for j in range(p):
        c, beta = -(scale * u[j] + P.tilt[j]), coef[j]
        if _runs_away(P, j, c):
            gap += abs(c) * max(abs(beta), 1.0)
            continue
        best = _conjugate_point(P, j, c)
        if abs(best) == np.inf:
            return np.inf
        here = c * beta - P.l1[j] * abs(beta) - 0.5 * P.ridge[j] * beta**2
        there = c * best - P.l1[j] * abs(best) - 0.5 * P.ridge[j] * best**2
        gap += max(there - here, 0.0)
    if scale == 1:
        return gap
    for i in range(z.size):
        if weights[i] == 0:
            continue
        if loss == _SQUARED:
            gap += (1 - scale) ** 2 * r[i] ** 2 / (2 * weights[i])
        else:
            share, other = _sigmoid(-y[i] * z[i]), _sigmoid(y[i] * z[i])
            term = (1 - scale * share) * math.log1p((1 - scale) * share / other)
            if scale > 0:
                term += scale * share * math.log(scale)
            gap += weights[i] * max(term, 0.0)
    return gap
