"""Linear maps within the blocks of a partition: what derivatives of pooled solutions are made of.

A partition is a pair of integer arrays. Item ``order[k]`` has place k in sorted order, and
``block[k]`` is the place at which its block starts. Data lie in the order of the items or of the
places; an empty `order` says that both are the same. A frozen block, of items that do not move,
is marked by -1 minus the place at which it starts.
"""

import functools

import jax
import jax.numpy as jnp

from diffopt.kernels import Kernel, parallel

__all__ = ["IDENTITY", "block_center", "block_mean", "block_softmax", "block_sum"]

IDENTITY = jnp.zeros(0, jnp.int32)  # the order of data that are not permuted

_sum = Kernel(
    "block_sum",
    parallel.block_sum,
    lambda x, order, block: (x,),
    transpose_flags=lambda flags: (flags[1], flags[0], flags[2]),
)
_softmax = Kernel("block_softmax", parallel.block_softmax, lambda x, order, block: (x,))


def block_sum(x, block, order=IDENTITY, *, from_items=False, to_items=False):
    """Sum over each block, repeated for each of its members. Linear; O(n)."""
    return _sum(x, order, block, flags=(from_items, to_items, 0))


def block_mean(x, block, order=IDENTITY, *, from_items=False, to_items=False):
    """Mean over each block, repeated for each of its members. Linear; O(n)."""
    return _sum(x, order, block, flags=(from_items, to_items, 1))


def block_center(x, block, order=IDENTITY, *, items=False):
    """Subtract from each item the mean of its block; zero in frozen blocks. Linear; O(n)."""
    return _sum(x, order, block, flags=(items, items, 2))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def block_softmax(x, block, order=IDENTITY, items=False):
    """Softmax within each block, in the order of its operand. O(n), twice differentiable."""
    return _softmax(x, order, block, flags=(items,))


@block_softmax.defjvp
def _block_softmax_jvp(items, primals, tangents):
    _, block, order = primals
    p = block_softmax(*primals, items)
    dx = tangents[0]
    mean = block_sum(p * dx, block, order, from_items=items, to_items=items)
    return p, p * (dx - mean)
