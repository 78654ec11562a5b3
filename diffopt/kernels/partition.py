"""Linear maps within the blocks of a partition: what derivatives of pooled solutions are made of.

A partition is a pair of integer arrays. Item ``order[k]`` has place k in sorted order, and
``block[k]`` is the place at which its block starts. Data lie in the order of the items or of the
places; an empty `order` says that both are the same. A frozen block, of items that do not move,
is marked by -1 minus the place at which it starts.
"""

import jax.numpy as jnp

from diffopt.kernels import Kernel, parallel

__all__ = ["IDENTITY", "block_center", "block_expect", "block_mean", "block_sum", "block_tilt"]

IDENTITY = jnp.zeros(0, jnp.int32)  # the order of data that are not permuted

_sum = Kernel(
    "block_sum",
    parallel.block_sum,
    lambda x, order, block: (x,),
    transpose_flags=lambda flags: (flags[1], flags[0], flags[2]),
)


def _expect_tangent(operands, dz, flags):
    x, z, order, block = operands
    z_items, _, transposed = flags
    if transposed:
        mean = _expect(dz, z, order, block, flags=(z_items, z_items, False))
        return _expect(x, z, order, block, flags=flags) * (dz - mean)
    mean = _expect(x, z, order, block, flags=(z_items, z_items, False))
    return _expect((x - mean) * dz, z, order, block, flags=flags)


def _tilt_tangent(operands, dmu, flags):
    x, mu, order, block = operands

    def sums(x):
        return block_sum(x, block, order, from_items=True, to_items=True)

    frozen = block_sum((block < 0).astype(mu.dtype), block, order, to_items=True) > 0
    mass = sums(mu)
    still = jnp.broadcast_to(frozen, mu.shape) | (mass == 0)
    mass = jnp.where(still, 1, mass)
    gap = x - sums(mu * x) / mass
    return jnp.where(still, 0, dmu * gap - mu * (sums(dmu * gap) / mass))


_expect = Kernel(
    "block_expect",
    parallel.block_expect,
    lambda x, z, order, block: (x,),
    transpose_flags=lambda flags: (*flags[:2], not flags[2]),
    tangent=_expect_tangent,
)
_tilt = Kernel(
    "block_tilt",
    parallel.block_tilt,
    lambda x, mu, order, block: (x,),
    transpose_flags=lambda flags: flags,
    tangent=_tilt_tangent,
)


def block_sum(x, block, order=IDENTITY, *, from_items=False, to_items=False):
    """Sum over each block, repeated for each of its members. Linear; O(n)."""
    return _sum(x, order, block, flags=(from_items, to_items, 0))


def block_mean(x, block, order=IDENTITY, *, from_items=False, to_items=False):
    """Mean over each block, repeated for each of its members. Linear; O(n)."""
    return _sum(x, order, block, flags=(from_items, to_items, 1))


def block_center(x, block, order=IDENTITY, *, items=False):
    """Subtract from each item the mean of its block; zero in frozen blocks. Linear; O(n)."""
    return _sum(x, order, block, flags=(items, items, 2))


def block_expect(x, z, block, order=IDENTITY, *, z_items=False, other_items=False, adjoint=False):
    """Mean of x over each block under the softmax of z, repeated for each of its members.

    Takes x in the order of z and returns the other one; the adjoint takes the other one, and
    returns that of z. Linear in x, twice differentiable in z; O(n).
    """
    return _expect(x, z, order, block, flags=(z_items, other_items, adjoint))


def block_tilt(x, mu, block, order=IDENTITY):
    """``mu * (x - <mu, x> / sum(mu))`` within each block; zero in frozen and in empty blocks.

    In the order of items. Linear and self-adjoint in x, twice differentiable in mu; O(n).
    """
    return _tilt(x, mu, order, block, flags=())
