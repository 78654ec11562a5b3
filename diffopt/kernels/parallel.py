"""The same cores as :mod:`diffopt.kernels.native`, as parallel XLA operations on one row.

They run on GPU and TPU, and on a CPU without numba. Isotonic regression solves halves and merges
them: with the left half L and the right half R both increasing, merging pools at most one block,
the suffix of L above a level v together with the prefix of R below it. Whether an item belongs to
it can be told for each item alone: it does exactly if the block that would end with it has a mean
beyond its own value. Hence log2(n) merges of logarithmic depth each.
"""

import jax.numpy as jnp
from jax import lax

# How to pool, for each divergence: sums of blocks are kept as a pair. `value` maps a pair to the
# solution on it; `excess` and `deficit` say how far the pair pulls a level x up and down.


class _L2:
    nothing = 0.0

    @staticmethod
    def add(a, b):
        return a[0] + b[0], a[1] + b[1]

    @staticmethod
    def value(a):
        return a[0] / a[1]

    @staticmethod
    def excess(a, x):
        return a[0] - x * a[1]

    @staticmethod
    def deficit(a, x):
        return x * a[1] - a[0]


class _KL:
    """All in logarithms."""

    nothing = -jnp.inf

    @staticmethod
    def add(a, b):
        return jnp.logaddexp(a[0], b[0]), jnp.logaddexp(a[1], b[1])

    @staticmethod
    def value(a):
        return a[0] - a[1]

    @staticmethod
    def excess(a, x):
        return a[0] + jnp.log(jnp.maximum(-jnp.expm1(x - (a[0] - a[1])), 0))

    @staticmethod
    def deficit(a, x):
        return x + a[1] + jnp.log(jnp.maximum(-jnp.expm1((a[0] - a[1]) - x), 0))


def _choose(condition, a, b):
    return tuple(jnp.where(condition, u, v) for u, v in zip(a, b, strict=True))


def _first_true(test, lo, hi, steps):
    """Return the least index in [lo, hi) where `test`, false then true, holds, else `hi`."""

    def halve(_, bounds):
        lo, hi = bounds
        mid = (lo + hi) // 2
        right = (lo < hi) & ~test(mid)
        return jnp.where(right, mid + 1, lo), jnp.where(right, hi, jnp.maximum(lo, mid))

    return lax.fori_loop(0, steps, halve, (lo, hi))[0]


def _isotonic(leaves, rule):
    """Increasing solution of pooled `leaves` (a pair of arrays) and where each block starts."""
    n = leaves[0].size
    if n == 0:
        return rule.value(leaves), jnp.zeros(0, jnp.int32)
    levels = (n - 1).bit_length()
    place = jnp.arange(n, dtype=jnp.int32)

    def merge(level, state):
        x, prefix, suffix, block, end = state
        half = jnp.int32(1) << level
        left = place & half == 0
        lo = (place >> (level + 1)) << (level + 1)
        mid = jnp.minimum(lo + half, n)
        hi = jnp.minimum(lo + 2 * half, n)

        def take(pair, at):
            at = jnp.clip(at, 0, n - 1)
            return pair[0][at], pair[1][at]

        # A block of L joins if what follows it in L pulls its level up by less than the items of R
        # below it pull it down; a block of R, the other way round.
        start, stop = jnp.where(left, mid, lo), jnp.where(left, hi, mid)
        beyond = _first_true(
            lambda at: jnp.where(left, x[at] >= x, x[at] > x), start, stop, level + 1
        )
        above = take(suffix, jnp.where(left, end + 1, beyond))
        below = take(prefix, jnp.where(left, beyond, block) - 1)
        no_above = jnp.where(left, end + 1 >= mid, beyond >= mid)
        no_below = jnp.where(left, beyond <= mid, block <= mid)
        up = jnp.where(no_above, rule.nothing, rule.excess(above, x))
        down = jnp.where(no_below, rule.nothing, rule.deficit(below, x))
        pooled = jnp.where(left, ~no_below & (up < down), ~no_above & (down < up))

        first = _first_true(lambda at: pooled[at], lo, mid, level + 1)
        last = _first_true(lambda at: ~pooled[at], mid, hi, level + 1)
        level_value = rule.value(rule.add(take(suffix, first), take(prefix, last - 1)))
        inside = pooled & (first < mid) & (last > mid)
        x = jnp.where(inside, level_value, x)
        block, end = jnp.where(inside, first, block), jnp.where(inside, last - 1, end)

        # The sums over each prefix and suffix of the merged half.
        prefix = _choose(left, prefix, rule.add(take(prefix, mid - 1), prefix))
        suffix = _choose(left & (mid < n), rule.add(suffix, take(suffix, mid)), suffix)
        return x, prefix, suffix, block, end

    state = rule.value(leaves), leaves, leaves, place, place
    x, _, _, block, _ = lax.fori_loop(0, levels, merge, state)
    return x, block


def isotonic_l2(y, weights, *, flags):
    mass = weights if weights.size else jnp.ones_like(y)
    _, block = _isotonic((y * mass, mass), _L2)
    out = _sum(y * mass, block) / _sum(mass, block)
    return _poison(out, y, weights), block


def isotonic_kl(y, w, *, flags):
    _, block = _isotonic((y, w), _KL)
    return _poison(_log_sum(y, block) - _log_sum(w, block), y, w), block


def sort_descending(values, where, *, flags):
    place = jnp.arange(values.size, dtype=jnp.int32)
    if where.size == 0:
        keys, order = lax.sort((-values, place), num_keys=1, is_stable=True)
        return _poison(-keys, values), order
    dropped, keys, order = lax.sort((~where, -values, place), num_keys=2, is_stable=True)
    zero = jnp.zeros_like(keys)
    return _poison(jnp.where(dropped, zero, -keys), jnp.where(where, values, 0)), order


def project(theta, w, where, *, flags):
    how, items = flags
    sorted_values, order = sort_descending(theta if items else w, where, flags=())
    s, w = (sorted_values, w) if items else (theta, sorted_values)
    place = jnp.arange(s.size, dtype=jnp.int32)
    kept = where.sum(dtype=jnp.int32) if where.size else jnp.int32(s.size)
    s = jnp.where(place < kept, s, -jnp.inf)
    if how == 0:
        _, block = _isotonic((w - s, jnp.ones_like(s)), _L2)
    else:
        _, block = _isotonic((jnp.log(w) if how == 2 else w, s), _KL)
    infinite = (s == -jnp.inf).sum(dtype=jnp.int32)
    block = jnp.where(s == jnp.inf, 0, jnp.where(s == -jnp.inf, s.size - infinite, block))
    block = jnp.where(place < kept, block, kept)
    frozen = jnp.isinf(s)
    s = jnp.where(frozen, 0, s)
    s = s - s[block]
    if how == 0:
        size = _sum(jnp.ones_like(s), block)
        out = s - _sum(s, block) / size + _sum(w, block) / size
    elif how == 1:
        out = s - _log_sum(s, block) + _log_sum(w, block)
    else:
        out = _softmax(s, block) * _sum(w, block)
    out = _poison(jnp.where(place < kept, out, 0), sorted_values, w)
    block = jnp.where(frozen, -1 - block, block)
    return (jnp.zeros_like(out).at[order].set(out) if items else out), order, block


def block_sum(x, order, block, *, flags):
    from_items, to_items, how = flags
    places = x[order] if from_items else x
    start = jnp.where(block < 0, -1 - block, block)
    out = _sum(places, start)
    if how > 0:
        out = out / _sum(jnp.ones_like(x), start)
    if how > 1:
        out = jnp.where(block < 0, 0, places - out)
    return jnp.zeros_like(out).at[order].set(out) if to_items else out


def block_expect(x, z, order, block, *, flags):
    z_items, other_items, transposed = flags
    from_items, to_items = (other_items, z_items) if transposed else (z_items, other_items)
    start = jnp.where(block < 0, -1 - block, block)
    share = _softmax(z[order] if z_items else z, start)
    out = x[order] if from_items else x
    out = share * _sum(out, start) if transposed else _sum(share * out, start)
    return jnp.zeros_like(out).at[order].set(out) if to_items else out


def block_tilt(x, mu, order, block, *, flags):
    start = jnp.where(block < 0, -1 - block, block)
    x, mu = x[order], mu[order]
    mass = _sum(mu, start)
    still = (block < 0) | (mass == 0)
    out = mu * (x - _sum(mu * x, start) / jnp.where(still, 1, mass))
    return jnp.zeros_like(out).at[order].set(jnp.where(still, 0, out))


def _sum(x, block):
    total = jnp.zeros_like(x).at[block].add(x, indices_are_sorted=True)
    return total[block]


def _exp(x, block):
    """Return exponentials relative to the largest entry of each block, and that entry."""
    high = jnp.full_like(x, -jnp.inf).at[block].max(x, indices_are_sorted=True)[block]
    return jnp.exp(jnp.where(x == high, 0, x - high)), high


def _softmax(x, block):
    share, _ = _exp(x, block)
    return share / _sum(share, block)


def _log_sum(x, block):
    share, high = _exp(x, block)
    return jnp.log(_sum(share, block)) + high


def _poison(out, *operands):
    """Return NaN everywhere if an operand holds one."""
    nan = jnp.zeros((), bool)
    for x in operands:
        nan |= jnp.isnan(x).any()
    return jnp.where(nan, jnp.nan, out)
