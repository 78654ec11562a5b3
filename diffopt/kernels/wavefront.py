"""Sums over all alignments in XLA: all cells of an anti-diagonal at once.

The counterpart of :mod:`diffopt.kernels.alignments`, with operands and results as there; made of
operations with derivatives of every order.
"""

import jax
import jax.numpy as jnp

__all__ = [
    "alignment_curve",
    "alignment_mean",
    "alignment_value",
    "cut",
    "inner",
    "series_sharp_slope",
    "series_slope",
    "series_value",
]


def alignment_value(gamma, costs, flags):
    """Soft minimum over alignments of the sum of costs, for one pair."""
    value = _value(costs, gamma[0], *flags)[None]
    return jnp.where(jnp.isnan(costs).any(), jnp.nan, value)


def alignment_mean(costs, gamma, flags):
    """Mean alignment, and the value."""
    value, mean = jax.value_and_grad(_value)(costs, gamma[0], *flags)
    nan = jnp.isnan(costs).any()
    mean = jnp.where(nan, jnp.nan, jnp.where(value < jnp.inf, mean, 0))
    return mean, jnp.where(nan, jnp.nan, value)[None]


def alignment_curve(direction, costs, flags):
    """Derivative of the mean alignment at gamma = 1, in a direction of the costs."""

    def mean(costs):
        return alignment_mean(costs, jnp.ones(1, costs.dtype), flags)[0]

    return jax.jvp(mean, (costs,), (jnp.where(costs < jnp.inf, direction, 0),))[1]


def series_value(gamma, x, y, lengths, flags):
    """Soft minimum over alignments of two series, for the squared Euclidean cost."""
    costs = _costs(x, y, lengths, flags)
    return alignment_value(gamma, costs.ravel(), costs.shape)


def series_slope(x, y, gamma, lengths, flags):
    """Value, mean cost of alignments, and gradients of the value."""
    costs, pull = jax.vjp(lambda x, y: _costs(x, y, lengths, flags), x, y)
    mean, value = alignment_mean(costs.ravel(), gamma, costs.shape)
    mean = mean.reshape(costs.shape)
    return value, inner(mean, costs)[None], *pull(mean)


def series_sharp_slope(x, y, gamma, lengths, flags):
    """Mean cost of alignments, minus gamma times its derivative in gamma, and gradients."""

    def sharp(x, y, gamma):
        costs = _costs(x, y, lengths, flags)
        mean = alignment_mean(costs.ravel(), gamma, costs.shape)[0]
        return inner(mean.reshape(costs.shape), costs)

    value, (gx, gy, change) = jax.value_and_grad(sharp, (0, 1, 2))(x, y, gamma)
    return value[None], -gamma * change, gx, gy


def _costs(x, y, lengths, flags):
    x, y = x.reshape(-1, *flags), y.reshape(-1, *flags)
    costs = sum((a[:, None] - b[None]) ** 2 for a, b in zip(x.T, y.T, strict=True))
    return cut(costs, lengths[0], lengths[1])


def cut(costs, x_length, y_length):
    """Let the last cell that counts lead to the last of all, through one row of free cells."""
    n, m = costs.shape
    x_length, y_length = jnp.asarray(x_length, jnp.int32), jnp.asarray(y_length, jnp.int32)
    rows, columns = (jnp.arange(size + 1, dtype=jnp.int32) for size in (n, m))
    i, j = rows[:, None] - x_length, columns[None] - y_length
    beyond_x, beyond_y = n - x_length, m - y_length
    free = (i == j) | ((i == beyond_x) & (j >= beyond_x)) | ((j == beyond_y) & (i >= beyond_y))
    outside = jnp.where(free & (i >= 0) & (j >= 0), 0, jnp.inf).astype(costs.dtype)
    padded = jnp.pad(costs, ((0, 1), (0, 1)))
    return jnp.where((i < 0) & (j < 0), padded, outside)


def inner(mean, costs):
    """Inner product in which an infinite cost that is never used does not count."""
    used = mean > 0
    return jnp.sum(jnp.where(used, mean * jnp.where(used, costs, 0), 0))


def _value(costs, gamma, n, m):
    """Sweep over the n + m - 1 anti-diagonals, in vectors indexed by the place in the first."""
    here = jnp.arange(n)

    def step(carry, k):
        before, last = carry  # sums on the two diagonals before; entry 0 is outside
        inside = (k - here >= 0) & (k - here < m)
        cost = jnp.where(inside, costs[here * m + jnp.clip(k - here, 0, m - 1)], jnp.inf)
        found = cost + _soft_min(before[:-1], last[:-1], last[1:], gamma)
        return (last, jnp.append(outside, jnp.where(cost < jnp.inf, found, jnp.inf))), None

    outside = jnp.full(1, jnp.inf, costs.dtype)
    nowhere = jnp.full(n + 1, jnp.inf, costs.dtype)
    start = (nowhere.at[0].set(0), nowhere)
    (_, last), _ = jax.lax.scan(step, start, jnp.arange(n + m - 1))
    return last[-1]


def _soft_min(corner, up, left, gamma):
    """Soft minimum of three; the minimum where gamma is 0, at ties the corner, then above."""
    terms = jnp.stack([corner, up, left])
    pick = jnp.argmin(jax.lax.stop_gradient(terms), axis=0, keepdims=True)
    low = jnp.take_along_axis(terms, pick, axis=0)
    anchor = jax.lax.stop_gradient(jnp.where(low < jnp.inf, low, 0))
    finite = terms < jnp.inf
    soft, tiny = gamma > 0, jnp.finfo(terms.dtype).tiny
    scale = jnp.where(soft, gamma, 1)
    parts = jnp.exp((anchor - jnp.where(finite, terms, anchor)) / scale)
    total = jnp.where(finite, parts, 0).sum(0, keepdims=True)
    smooth = anchor - scale * jnp.log(jnp.maximum(total, tiny))
    return jnp.where(low < jnp.inf, jnp.where(soft, smooth, low), jnp.inf)[0]
