r"""Dual block-coordinate ascent for linear models under Fenchel-Young losses, compiled by numba.

The core of the dual solver of :class:`diffopt.classifier.FenchelYoungClassifier`: one pass over
the items, each of which replaces its distribution by a proximity operator. Imported when that
solver is first used.
"""

import math

import numba
import numpy as np

__all__ = ["NO_ENTROPY", "ascend", "proximity"]

NO_ENTROPY = 0.0  # in place of an order: the regularisation is zero
_jit = numba.njit(error_model="numpy", cache=True)


@_jit
def _slope_at(p, sigma, alpha):
    """Compute ``h(p) = p^(alpha - 1) / (alpha - 1) + sigma p``, the derivative in one item."""
    if alpha == NO_ENTROPY:
        return sigma * p
    if alpha == 1:
        return math.log(p) + sigma * p
    return p ** (alpha - 1) / (alpha - 1) + sigma * p


@_jit
def _item(u, sigma, alpha):
    """Solve ``h(p) = u`` for p >= 0; return p and the derivative of p in u."""
    if u <= 0 and alpha != 1:
        return 0.0, 0.0
    if alpha == NO_ENTROPY:
        return u / sigma, 1 / sigma
    if alpha == 2:
        return u / (1 + sigma), 1 / (1 + sigma)
    if alpha == 1.5:
        root = u / (1 + math.sqrt(1 + sigma * u))
        return root * root, root / (1 + sigma * root)
    return _item_by_newton(u, sigma, alpha)


@_jit
def _item_by_newton(u, sigma, alpha):
    """Newton's method in log p, from above, where it descends on a convex function."""
    if alpha == 1:
        s = min(u, max(0.0, math.log(u / sigma))) if sigma > 0 and u > 0 else u
    else:
        s = math.log((alpha - 1) * u) / (alpha - 1)
        s = min(s, math.log(u / sigma)) if sigma > 0 else s
    for _ in range(50):
        p = math.exp(s)
        entropy = s if alpha == 1 else math.exp((alpha - 1) * s) / (alpha - 1)
        slope = (1.0 if alpha == 1 else (alpha - 1) * entropy) + sigma * p
        step = (entropy + sigma * p - u) / slope
        s -= step
        if step <= 1e-15 * max(1.0, abs(s)):
            break
    p = math.exp(s)
    slope = (1.0 if alpha == 1 else math.exp((alpha - 1) * s)) + sigma * p
    return p, p / slope


@_jit
def proximity(z, sigma, alpha, p):
    r"""Write into p the minimiser of :math:`\Omega(p) + \frac\sigma2 \|p\|^2 - \langle z, p\rangle`

    over the simplex, where :math:`\Omega` is the negative Tsallis entropy of the order alpha. The
    condition of optimality, ``h(p_j) = max(z_j - tau, 0)``, leaves one equation in tau, which a
    Newton method within a bracket solves.
    """
    k = z.size
    if alpha == NO_ENTROPY and sigma == 0:
        p[:] = 0.0
        p[z.argmax()] = 1.0
        return
    top = z.max()
    low = top - _slope_at(1.0, sigma, alpha)
    high = top - _slope_at(1.0 / k, sigma, alpha)
    tau = low
    for _ in range(100):
        total = -1.0
        slope = 0.0
        for j in range(k):
            p[j], rate = _item(z[j] - tau, sigma, alpha)
            total += p[j]
            slope += rate
        if total >= 0:
            low = tau
        else:
            high = tau
        if abs(total) <= 1e-15 * k:
            break
        before = tau
        tau += total / slope
        if not low < tau < high:
            tau = 0.5 * (low + high)
        if tau == before or tau == low or tau == high:
            break
    total = 0.0
    for j in range(k):
        total += p[j]
    for j in range(k):
        p[j] /= total


@_jit
def ascend(order, rows, costs, squares, weights, lam, inverse_rho, alpha, p, table, intercept):
    """Make one pass over the items in the given order, updating p, the table and the intercept.

    Parameters
    ----------
    order : int array of shape [n]
        The order in which the items are visited.
    rows : tuple of arrays (indptr, indices, data)
        The features in compressed rows; empty indices mean that the rows are dense.
    costs : array of shape [n, k] or [0, k]
        What to add to the scores of each item, if anything.
    squares, weights : arrays of shape [n]
        Squared norms of the rows, and weights that sum to one.
    lam, inverse_rho, alpha : float
        Penalty, inverse of the weight of the proximal term of the intercept (0: there is none),
        and order of the entropy.
    p : array of shape [n, k]
        The dual variables, a distribution for each item.
    table, intercept : arrays of shapes [num_features, k] and [k]
        The primal variables that belong to p.
    """
    indptr, indices, data = rows
    dense = indices.size == 0
    k = p.shape[1]
    theta, new = np.empty(k), np.empty(k)
    for i in order:
        if weights[i] == 0:
            continue
        sigma = weights[i] * (squares[i] / lam + inverse_rho)
        for j in range(k):
            theta[j] = intercept[j] + sigma * p[i, j] + (costs[i, j] if costs.size else 0.0)
        for t in range(indptr[i], indptr[i + 1]):
            f = t - indptr[i] if dense else indices[t]
            for j in range(k):
                theta[j] += data[t] * table[f, j]
        proximity(theta, sigma, alpha, new)
        moved = False
        for j in range(k):
            theta[j] = weights[i] * (new[j] - p[i, j])
            moved |= theta[j] != 0
            p[i, j] = new[j]
            intercept[j] -= inverse_rho * theta[j]
        if moved:
            for t in range(indptr[i], indptr[i + 1]):
                f = t - indptr[i] if dense else indices[t]
                for j in range(k):
                    table[f, j] -= data[t] / lam * theta[j]
