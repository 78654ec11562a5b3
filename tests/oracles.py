"""Slow, plain references in NumPy that share no code and no algorithm with the package.

Three independent routes lead to the projection onto the permutahedron:

* ``project_by_faces`` enumerates every face of the polytope (an ordered partition of the items),
  projects onto its affine hull in closed form, and keeps the best feasible point: exact, n <= 5;
* ``project_by_minmax`` uses the min-max formula of isotonic regression: any n;
* ``duality_gap`` certifies any candidate without solving anything, by the Frank-Wolfe gap over
  the vertices.
"""

from itertools import combinations, permutations

import numpy as np
from scipy.special import logsumexp

# ---------------------------------------------------------------- isotonic regression


def _isotonic_by_minmax(block_value, n, increasing):
    """v_i = max_{j <= i} min_{k >= i} value(j..k), the min-max formula (Robertson et al., 1988)."""
    if not increasing:
        return -_isotonic_by_minmax(lambda j, k: -block_value(j, k), n, True)
    if n == 0:
        return np.zeros(0)
    table = np.full((n, n), np.inf)
    for j in range(n):
        for k in range(j, n):
            table[j, k] = block_value(j, k + 1)
    # suffix[j, i] = min_{k >= i} table[j, k]
    suffix = np.minimum.accumulate(table[:, ::-1], axis=1)[:, ::-1]
    return np.array([suffix[: i + 1, i].max() for i in range(n)])


def isotonic_l2(y, weights=None, increasing=True):
    """argmin_v sum_i weights_i (v_i - y_i)^2 over monotone v, for one row."""
    y = np.asarray(y, np.float64)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)

    def mean(j, k):
        return np.dot(weights[j:k], y[j:k]) / np.sum(weights[j:k])

    return _isotonic_by_minmax(mean, len(y), increasing)


def isotonic_kl(y, w, increasing=True):
    """argmin_v sum_i exp(y_i - v_i) + exp(w_i) v_i over monotone v, for one row."""
    y, w = np.asarray(y, np.float64), np.asarray(w, np.float64)
    # scipy's logsumexp is slow on tiny blocks: max-shifted sums, by hand
    top_y, top_w = (np.max(a, initial=-np.inf) for a in (y, w))
    top_y, top_w = (t if np.isfinite(t) else 0.0 for t in (top_y, top_w))

    def level(j, k):
        if np.ptp(y) < 600 and np.ptp(w) < 600:
            with np.errstate(divide="ignore"):
                return (top_y + np.log(np.sum(np.exp(y[j:k] - top_y)))) - (
                    top_w + np.log(np.sum(np.exp(w[j:k] - top_w)))
                )
        return logsumexp(y[j:k]) - logsumexp(w[j:k])

    return _isotonic_by_minmax(level, len(y), increasing)


# ---------------------------------------------------------------- permutahedron


def ordered_partitions(items):
    """Every ordered partition of a tuple of items into non-empty blocks (Fubini numbers)."""
    if not items:
        yield ()
        return
    for size in range(1, len(items) + 1):
        for block in combinations(items, size):
            rest = tuple(i for i in items if i not in block)
            for tail in ordered_partitions(rest):
                yield (block, *tail)


def in_permutahedron(mu, w, tol=1e-9):
    """Membership by Rado's inequalities, one for each subset of the items."""
    mu, w = np.asarray(mu, np.float64), np.sort(np.asarray(w, np.float64))[::-1]
    n, scale = len(mu), 1 + np.max(np.abs(w))
    if abs(mu.sum() - w.sum()) > tol * scale:
        return False
    return all(
        sum(mu[list(subset)]) <= w[:size].sum() + tol * scale
        for size in range(1, n)
        for subset in combinations(range(n), size)
    )


def objective(mu, theta, regularization):
    """What the projection minimises over P(w)."""
    if regularization == "l2":
        return 0.5 * np.sum((mu - theta) ** 2)
    entropy = np.where(mu > 0, mu * np.log(np.where(mu > 0, mu, 1.0)), 0.0)
    return np.sum(entropy - mu - theta * mu)


def project_by_faces(theta, w, regularization="l2"):
    """Exact projection: the best feasible candidate among all faces of the polytope."""
    theta = np.asarray(theta, np.float64)
    w = np.sort(np.asarray(w, np.float64))[::-1]
    best, best_value = None, np.inf
    for partition in ordered_partitions(tuple(range(len(theta)))):
        mu, start = np.empty(len(theta)), 0
        for block in partition:
            index, stop = list(block), start + len(block)
            if regularization == "l2":
                mu[index] = theta[index] - theta[index].mean() + w[start:stop].mean()
            else:
                mu[index] = np.exp(theta[index] - logsumexp(theta[index])) * w[start:stop].sum()
            start = stop
        value = objective(mu, theta, regularization)
        if value < best_value and in_permutahedron(mu, w):
            best, best_value = mu, value
    return best


def project_by_minmax(theta, w, regularization="l2"):
    """Projection through the min-max formula; each block is formed without cancellation."""
    theta, w = np.asarray(theta, np.float64), np.sort(np.asarray(w, np.float64))[::-1]
    order = np.argsort(-theta, kind="stable")
    s = theta[order]
    if regularization == "l2":
        dual = isotonic_l2(s - w, increasing=False)
    else:
        with np.errstate(divide="ignore"):
            dual = isotonic_kl(s, np.log(w), increasing=False)
    mu = np.empty(len(theta))
    mu[order] = s - dual if regularization == "l2" else np.exp(s - dual)
    return mu


def duality_gap(mu, theta, w, regularization="l2"):
    """max_{z in P(w)} <gradient(mu), mu - z> >= objective(mu) - optimum, by rearrangement."""
    mu, theta = np.asarray(mu, np.float64), np.asarray(theta, np.float64)
    gradient = mu - theta if regularization == "l2" else np.log(mu) - theta
    w = np.sort(np.asarray(w, np.float64))
    best_vertex = np.sort(gradient)[::-1] @ w  # the smallest <gradient, vertex>
    return gradient @ mu - best_vertex


def duality_gap_by_vertices(mu, theta, w, regularization="l2"):
    """The same gap with every vertex of the polytope in hand."""
    gradient = mu - theta if regularization == "l2" else np.log(mu) - theta
    return max(gradient @ (mu - np.asarray(vertex)) for vertex in set(permutations(w)))


# ---------------------------------------------------------------- sorting


def soft_sort(values, epsilon=1.0, regularization="l2", descending=False):
    """Definition, equation (5) of the paper: P(rho / epsilon, values)."""
    values = np.asarray(values, np.float64)
    if not descending:
        return -soft_sort(-values, epsilon, regularization, descending=True)
    n = len(values)
    z = np.arange(n, 0, -1) / epsilon
    if regularization == "l2":
        return project_by_minmax(z, values)
    return z - isotonic_kl(z, np.sort(values)[::-1], increasing=False)


def soft_rank(values, epsilon=1.0, regularization="l2", descending=False):
    """Definition, equation (6) of the paper: P(-values / epsilon, rho) when descending."""
    values = np.asarray(values, np.float64)
    sign = -1.0 if descending else 1.0
    return project_by_minmax(sign * values / epsilon, np.arange(1, len(values) + 1), regularization)


def soft_top_k(values, k, epsilon=1.0, regularization="l2"):
    """Bisection on the threshold of the capped simplex {0 <= mu <= 1, sum(mu) = k}."""
    theta = np.asarray(values, np.float64) / epsilon
    if k == 0:
        return np.zeros(len(theta))
    if k == len(theta):
        return np.ones(len(theta))

    def mask(tau):
        if regularization == "l2":
            return np.clip(theta - tau, 0.0, 1.0)
        return np.exp(np.minimum(theta - tau, 0.0))

    spread = 2.0 + np.log(len(theta))
    low, high = theta.min() - spread, theta.max() + spread
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mask(middle).sum() > k else (low, middle)
    return mask(0.5 * (low + high))


def soft_quantile(values, q, epsilon=1.0, regularization="l2"):
    """Linear interpolation of the soft sort, as numpy.quantile does with the hard one."""
    n = len(values)
    return np.interp(q * (n - 1), np.arange(n), soft_sort(values, epsilon, regularization))


def hard_rank(values):
    """1 + how many are smaller, ties sharing the mean: from all pairs."""
    values = np.asarray(values, np.float64)
    smaller = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return smaller + (equal + 1) / 2


# ---------------------------------------------------------------- derivatives


def jacobian(function, x, step=1e-6):
    """Central differences in float64: output shape + input shape."""
    x = np.asarray(x, np.float64)
    columns = []
    for index in np.ndindex(x.shape):
        bump = np.zeros_like(x)
        bump[index] = step
        difference = np.asarray(function(x + bump)) - np.asarray(function(x - bump))
        columns.append(difference / (2 * step))
    out = np.stack(columns, axis=-1)
    return out.reshape(out.shape[:-1] + x.shape)


def rows(function, x, axis=-1):
    """Applies a one-row reference along an axis of an array."""
    return np.apply_along_axis(function, axis, np.asarray(x, np.float64))


def isotonic_violation(v, gradient, increasing=True):
    """Largest violation of the optimality conditions of min f(v) over monotone v.

    With lambda_i = -(gradient_1 + ... + gradient_i) the multiplier of v_i <= v_{i+1}: monotone,
    lambda >= 0, lambda_n = 0, and lambda_i (v_{i+1} - v_i) = 0.
    """
    if not increasing:
        v, gradient = -np.asarray(v), -np.asarray(gradient)
    step, multiplier = np.diff(v), -np.cumsum(gradient)
    return max(
        np.max(-step, initial=0.0),
        np.max(-multiplier, initial=0.0),
        np.max(np.abs(multiplier[-1:]), initial=0.0),
        np.max(np.abs(multiplier[:-1] * step), initial=0.0),
    )


def hard_rank_epsilon(values, regularization="l2"):
    """The largest epsilon at which no two neighbours pool, from the definition of pooling."""
    s = np.sort(np.asarray(values, np.float64))[::-1]
    w = np.arange(len(s), 0, -1.0)
    width = w[:-1] - w[1:] if regularization == "l2" else np.log(w[:-1] / w[1:])
    return np.min((s[:-1] - s[1:]) / width, initial=np.inf)
