"""Total variation in one dimension: which neighbours share a value.

On a CPU this is dynamic programming, in native code. In parallel, a level cuts the solution in two:
the items above it solve a binary problem along a chain, whose dynamic programme composes clipped
shifts and so is an associative scan. Each segment is cut at the mean that it would have, corrected
for what its neighbours pull. A segment that this level does not divide is constant, exactly at that
mean, so the rounds end after finitely many cuts.
"""

import jax
import jax.numpy as jnp

from diffopt.kernels import Kernel
from diffopt.kernels.partition import block_sum

__all__ = ["fuse", "mean_of_kept"]


def fuse(theta, weight):
    r"""Solve :math:`\min_x \tfrac12\|x-\theta\|^2 + \lambda\sum_i|x_{i+1}-x_i|`; find its blocks.

    Works on the last axis; `weight` has size 1 there, or is a scalar. Items at minus infinity take
    no part: their neighbours are neighbours.

    Returns
    -------
    fused : array of the shape of `theta`
        The solution, the mean of theta over each block plus weight * pull.
    block : int array of the shape of `theta`
        The place at which each item's block starts.
    pull : array of the shape of `theta`
        How many neighbours of the block lie above it, minus how many below, per item.
    """
    shared = weight.size == 1
    weight = weight.reshape(1) if shared else jnp.broadcast_to(weight, (*theta.shape[:-1], 1))
    return _kernel(theta, weight)


def _fuse_in_parallel(theta, weight, flags=()):
    del flags
    here = jax.lax.broadcasted_iota(jnp.int32, theta.shape, theta.ndim - 1)
    kept = theta > -jnp.inf
    data = jnp.where(theta == -jnp.inf, 0, theta)
    rigid = jnp.where(kept, weight, jnp.inf).astype(theta.dtype)  # what ties an item to the last

    def cut(state):
        start, sign, _ = state
        block = _block(start, here)
        level = mean_of_kept(data, kept, block) + weight * _mean_pull(sign, kept, block)
        excess = jnp.where(kept, level - data, 0) - weight * _pull(sign)
        message = _messages(excess, rigid, start)
        above = _decide(message, rigid, start)
        step = above.astype(theta.dtype) - _shift(above.astype(theta.dtype), 1)
        divides = (step != 0) & ~start
        return start | divides, jnp.where(divides, step, sign), divides.any()

    start = here == 0
    state = (start, jnp.zeros_like(theta), jnp.ones((), bool) & (theta.size > 0))
    start, sign, _ = jax.lax.while_loop(lambda s: s[2], cut, state)
    block = _block(start, here)
    pull = _mean_pull(sign, kept, block)
    fused = jnp.where(kept, mean_of_kept(data, kept, block) + weight * pull, -jnp.inf)
    return jnp.where(jnp.isnan(theta), theta, fused), block, pull


def mean_of_kept(x, kept, block):
    """Mean over the items of each block that take part; linear in `x`."""
    return block_sum(jnp.where(kept, x, 0), block) / _size(kept, x.dtype, block)


def _size(kept, dtype, block):
    return jnp.maximum(block_sum(kept.astype(dtype), block), 1)


def _mean_pull(sign, kept, block):
    return block_sum(_pull(sign), block) / _size(kept, sign.dtype, block)


def _pull(sign):
    """How many of the two neighbours pull an item up from another block, minus how many down."""
    return _shift(sign, -1) - sign


def _block(start, here):
    return _scan(lambda first, then: (jnp.maximum(*first, *then),), (jnp.where(start, here, 0),))[0]


def _scan(compose, items):
    """Compose every item with all before it, doubling the reach; what is missing is repeated.

    The first item must absorb anything before it. One loop body whatever the length: unrolled,
    this takes seconds to compile.
    """
    n, axis = items[0].shape[-1], items[0].ndim - 1

    def double(k, items):
        def before(x):
            edge = jnp.broadcast_to(x[..., :1], x.shape)
            return jax.lax.dynamic_slice_in_dim(jnp.concatenate([edge, x], axis), n - 2**k, n, axis)

        return compose(tuple(map(before, items)), items)

    return jax.lax.fori_loop(0, max(n - 1, 0).bit_length(), double, items)


def _shift(x, step):
    """Move items by one place, up or down; zero comes in."""
    pad = [(0, 0)] * (x.ndim - 1) + [(1, 0) if step > 0 else (0, 1)]
    moved = x[..., :-1] if step > 0 else x[..., 1:]
    return jnp.pad(moved, pad)


def _messages(excess, rigid, start):
    """Compute m = excess + clip(m of the item before, -rigid, rigid), anew from every start."""
    low = jnp.where(start, excess, excess - rigid)
    high = jnp.where(start, excess, excess + rigid)

    def compose(first, then):
        shift, low, high = then
        lowest, highest = (jnp.clip(x + shift, low, high) for x in first[1:])
        return first[0] + shift, lowest, highest

    return _scan(compose, (excess, low, high))[1]


def _decide(message, rigid, start):
    """Trace the best labels back: true above the level, false at it or below."""
    ends = jnp.concatenate([start[..., 1:], jnp.ones_like(start[..., :1])], -1)
    bound = jnp.where(ends, 0, _shift(rigid, -1))
    label = jnp.where(message < -bound, 1, jnp.where(message >= bound, 0, -1))

    def compose(later, earlier):
        return (jnp.where(earlier[0] < 0, later[0], earlier[0]),)

    return jnp.flip(_scan(compose, (jnp.flip(label, -1),))[0], -1) > 0


_kernel = Kernel("fuse", _fuse_in_parallel, lambda theta, weight: (theta, jnp.int32, theta))
