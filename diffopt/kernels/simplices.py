"""Softmax, and projections onto boxes cut by a sum: simplices, capped simplices, knapsacks.

On a CPU both run row by row in native code: small arrays would otherwise cost the time of some ten
operations of XLA. In parallel, all rows are solved at once. Data lie along the last axis.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from diffopt.kernels import Kernel

__all__ = ["cut_box", "exp_weights", "finite", "label_loss", "total"]

_BLOCK = 32  # what one partial sum adds, in long rows
_LONG = 1024  # up to this length, one sum has enough digits
_FEW = 2**14  # entries up to which one core, natively, is no slower than XLA on several
_MAX_ITER = 1000


def total(x):
    """Sum over the last axis, which stays; partial sums keep the digits of long rows."""
    n = x.shape[-1]
    if n <= _LONG:
        return x.sum(-1, keepdims=True)
    rows = -(-n // _BLOCK)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, rows * _BLOCK - n)]
    return total(jnp.pad(x, padding).reshape(*x.shape[:-1], _BLOCK, rows).sum(-2))


def exp_weights(x, aim, share):
    """Exponentials of x in each row, brought to a sum of `aim`, of size 1 on the last axis.

    Plus infinity takes all, in equal shares. A row of nothing but minus infinities shares, too, or
    is zero unless `share`. This has no derivative of its own.
    """
    if x.size > _FEW:
        return _exp_weights_in_parallel(x, aim, flags=(share,))
    return _exp_weights_kernel(x, _of_rows(aim, x), flags=(int(share),))


def _exp_weights_in_parallel(x, aim, flags):
    top = x.max(-1, keepdims=True, initial=-jnp.inf)
    ratio = jnp.exp(jnp.where(x == top, 0, x - top))
    scale = aim / total(ratio)
    return ratio * (scale if flags[0] else jnp.where(top == -jnp.inf, 0, scale))


def label_loss(x, y):
    """Logistic loss of one-hot rows y, and what is zero only where y is one-hot.

    Both have size 1 on the last axis, and no derivative of their own. In parallel this takes four
    passes over the data, which only shows where there is much of it.
    """
    if x.size <= _FEW:
        return _label_loss_in_parallel(x, y, None)
    return tuple(_label_loss_kernel(x, y, jnp.ones(1, x.dtype)))


def _label_loss_in_parallel(x, y, unit, flags=()):
    del unit, flags
    top = x.max(-1, keepdims=True, initial=-jnp.inf)
    infinite = jnp.where(top == jnp.inf, top, jnp.nan)
    u = jnp.where(x == infinite, 0, x - jnp.where(top == -jnp.inf, 0, top))
    score = total(jnp.where(y == 0, 0, jnp.where(y == 0, 0, u) * y))
    others = total(jnp.where(y > 0, 0, jnp.exp(u)))
    odds = others * jnp.exp(-jnp.maximum(score, -1))
    loss = jnp.where(score > -1, jnp.log1p(odds), jnp.log(others + jnp.exp(score)) - score)
    return jnp.where(score == -jnp.inf, jnp.inf, loss), total(jnp.abs(y * (1 - y)))


def _of_rows(value, x):
    """Return what has size 1 on the last axis as a kernel takes it: shared by all rows, or not."""
    return value.reshape(1) if value.size == 1 else jnp.broadcast_to(value, (*x.shape[:-1], 1))


@jax.custom_jvp
def cut_box(x, cap, low, high):
    r"""Project onto :math:`0 \le p \le c, \; l \le \sum_i p_i \le h`.

    Bounds have the rank of x and size 1 on the last axis. Infinite scores are far ones.

    Returns
    -------
    p : array of the shape of x
        The projection.
    side : array of size 1 on the last axis
        -1 where the lower bound on the sum is active, 1 where the upper one is, else 0.
    """
    return tuple(_cut_box_kernel(x, *(_of_rows(bound, x) for bound in (cap, low, high))))


@functools.partial(cut_box.defjvp, symbolic_zeros=True)
def _cut_box_jvp(primals, tangents):
    x, cap = primals[:2]
    p, side = cut_box(*primals)
    dx, dcap, dlow, dhigh = (
        jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t
        for x, t in zip(primals, tangents, strict=True)
    )
    free, full = (p > 0) & (p < cap), (p > 0) & (p >= cap)
    move = jnp.where(free & jnp.isfinite(x), dx, 0)
    rest = move.sum(-1, keepdims=True) - jnp.where(side < 0, dlow, dhigh)
    if not isinstance(tangents[1], SymbolicZero):
        rest = rest + jnp.where(full, dcap, 0).sum(-1, keepdims=True)
    count = free.sum(-1, keepdims=True, dtype=jnp.int32).astype(p.dtype)
    shift = jnp.where(side == 0, 0, rest / jnp.maximum(count, 1))
    dp = jnp.where(free, move - shift, 0)
    if not isinstance(tangents[1], SymbolicZero):
        dp = dp + jnp.where(full, dcap, 0)
    return (p, side), (dp, jnp.zeros_like(side))


def _cut_box_in_parallel(x, cap, low, high, flags=()):
    del flags
    x = finite(x, cap)
    size = jnp.clip(x, 0, cap).sum(-1, keepdims=True)
    side = jnp.where(size < low, -1, jnp.where((size > high) | (low == high), 1, 0))
    side = side.astype(x.dtype)
    goal = jnp.where(side > 0, high, jnp.where(side < 0, low, size))
    # Rows inside start at a threshold of zero with the sum they have: they are done at once.
    start = jnp.where(side == 0, 0, (x.sum(-1, keepdims=True) - goal) / max(x.shape[-1], 1))
    far = x.max(-1, keepdims=True, initial=-jnp.inf) - goal  # left of the threshold, if alone
    start = jnp.where((side != 0) & (cap >= goal), jnp.maximum(start, far), start)
    # At a large scale the threshold lies between two floats: scores less the nearest are exact.
    x = x - _threshold(x, cap, goal, start)
    p = _on_face(x, _threshold(x, cap, goal, jnp.zeros_like(start)), cap, goal)
    return jnp.where(jnp.isnan(size), size, p), side


def _threshold(x, cap, goal, start):
    """Find t with sum(clip(x - t, 0, cap)) = goal, for every row.

    The sum is piecewise linear and decreases with t: Newton's method, kept inside a bracket, ends
    after finitely many steps. It is enough to end near: the face is what counts.
    """
    left = jnp.min(x - cap, -1, keepdims=True, initial=jnp.inf)
    right = jnp.max(x, -1, keepdims=True, initial=-jnp.inf)
    rounding = float(jnp.finfo(x.dtype).eps) * (4 + x.shape[-1] ** 0.5 / 4) * goal

    def step(state):
        t, left, right, _, i = state
        v = x - t
        clipped = jnp.clip(v, 0, cap)
        excess = clipped.sum(-1, keepdims=True) - goal
        free = (clipped == v).astype(x.dtype).sum(-1, keepdims=True)
        left, right = jnp.where(excess > 0, t, left), jnp.where(excess < 0, t, right)
        middle = left + (right - left) / 2
        new = t + excess / jnp.maximum(free, 1)
        done = (jnp.abs(excess) <= rounding) | ~jnp.isfinite(excess) | (new == t)
        done |= (middle <= left) | (middle >= right)
        newton = (free > 0) & (new > left) & (new < right) & (i % 8 < 7)
        t = jnp.where(done, t, jnp.where(newton, new, middle))
        return t, left, right, done, i + 1

    def unfinished(state):
        return ~state[-2].all() & (state[-1] < _MAX_ITER)

    t = jnp.broadcast_to(start, left.shape)
    return jax.lax.while_loop(unfinished, step, (t, left, right, jnp.zeros(t.shape, bool), 0))[0]


def _on_face(x, t, cap, goal):
    """Project onto the face that the threshold t names, in closed form."""
    v = x - t  # exact near the threshold, whatever the scale of x
    free = (v > 0) & (v < cap)
    bound = jnp.where(v >= cap, cap, 0)
    rest = jnp.where(free, v, bound).sum(-1, keepdims=True) - goal
    count = jnp.maximum(free.sum(-1, keepdims=True, dtype=jnp.int32), 1).astype(x.dtype)
    inner = jnp.clip(v - rest / count, 0, cap)
    return jnp.where(free, inner, bound)


def finite(x, width):
    """Replace infinite scores by finite ones, too far from the others to change the face."""
    return jnp.where(jnp.isinf(x), jax.lax.stop_gradient(_far(x, width)), x)


def _far(x, width):
    infinite = jnp.isinf(x)
    top = jnp.max(jnp.where(infinite, -jnp.inf, x), -1, keepdims=True, initial=-jnp.inf)
    bottom = jnp.min(jnp.where(infinite, jnp.inf, x), -1, keepdims=True, initial=jnp.inf)
    top, bottom = (jnp.where(jnp.isinf(a), 0, a) for a in (top, bottom))
    gap = 2000 + 2 * width + jnp.abs(top) + jnp.abs(bottom)  # exp(-2000) is zero
    return jnp.where(x > 0, top + gap, bottom - gap)


_exp_weights_kernel = Kernel("exp_weights", _exp_weights_in_parallel, lambda x, aim: (x,))
_cut_box_kernel = Kernel(
    "cut_box", _cut_box_in_parallel, lambda x, cap, low, high: (x, x), like=(0, 1)
)
_label_loss_kernel = Kernel(
    "label_loss", _label_loss_in_parallel, lambda x, y, unit: (x, x), like=(2, 2)
)
