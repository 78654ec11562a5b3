"""Sums over all alignments in XLA: all cells of an anti-diagonal at once.

The counterpart of :mod:`diffopt.kernels.alignments`, with operands and results as there; made of
operations with derivatives of every order.
"""

import jax
import jax.numpy as jnp

__all__ = ["alignment_mean", "alignment_value"]


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
