"""Probabilities and faces of boxes cut by a sum, for the CPU, compiled by numba.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. Loops that only add or count may be
reordered by the compiler, so that they run in vectors; sums over long rows are carried in double
precision, from partial sums over :data:`_BLOCK` items.
"""

import math

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from diffopt.kernels.native import (
    _LN2_HIGH,
    _LN2_LOW,
    _LN2_MIDDLE,
    _LOG2_E,
    _ROUND,
    _TAYLOR,
    _fill,
    _row,
)

_options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_jit = numba.njit(**_options)
_fused = numba.njit(fastmath={"contract"}, **_options)
_reordered = numba.njit(fastmath={"contract", "reassoc"}, **_options)

_BLOCK = 1024
_MAX_ITER = 1000
_FAR = 1e4  # caps from zero at which a threshold has lost digits


# --- exponentials and bits ------------------------------------------------------------------------
#
# The same as in double precision, shorter: a power of two comes from its bits, without a branch.

_F = np.float32
_ROUND_F, _LOG2_E_F = _F(1.5 * 2.0**23), _F(_LOG2_E)
_LN2_HIGH_F, _LN2_LOW_F = _F(0.693359375), _F(math.log(2) - 0.693359375)
_TAYLOR_F = tuple(_F(t) for t in _TAYLOR[:8])
_LEAST, _LEAST_F = -708.0, _F(-87.0)  # where exponentials become zero
_ZERO_F = _F(0)


def _from_bits(kind, bits, shift, offset):
    """Make an intrinsic that is ``2**t`` for a whole t, held in a float, where that is normal."""

    @intrinsic
    def power(typingctx, t):
        def codegen(context, builder, signature, args):
            number = context.get_value_type(kind)
            integer = ir.IntType(bits)
            moved = builder.fadd(args[0], ir.Constant(number, offset))
            moved = builder.shl(builder.bitcast(moved, integer), ir.Constant(integer, shift))
            return builder.bitcast(moved, number)

        return kind(kind), codegen

    return power


_power_of_two = _from_bits(types.float64, 64, 52, _ROUND + 1023.0)
_power_of_two_f = _from_bits(types.float32, 32, 23, 1.5 * 2.0**23 + 127.0)


@intrinsic
def _rank(typingctx, x):
    """Bits of a float as an integer that grows with it: integers have a fast maximum."""
    number = types.int64 if x == types.float64 else types.int32

    def codegen(context, builder, signature, args):
        integer = context.get_value_type(number)
        bits = builder.bitcast(args[0], integer)
        sign = builder.ashr(bits, ir.Constant(integer, integer.width - 1))
        low = builder.and_(sign, ir.Constant(integer, 2 ** (integer.width - 1) - 1))
        return builder.xor(bits, low)

    return number(x), codegen


def _exp(x):
    """``exp(x)`` for x of at most zero, in the precision of x; zero where it is tiny."""
    raise NotImplementedError


@overload(_exp, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _exp_of_type(x):
    def double(x):
        y = _LEAST if x < _LEAST else x
        k = (y * _LOG2_E + _ROUND) - _ROUND
        r = ((y - k * _LN2_HIGH) - k * _LN2_MIDDLE) - k * _LN2_LOW
        c = _TAYLOR
        r2 = r * r
        r4 = r2 * r2
        low = (c[0] + r) + r2 * (c[2] + r * c[3])
        middle = (c[4] + r * c[5]) + r2 * (c[6] + r * c[7])
        high = (c[8] + r * c[9]) + r2 * (c[10] + r * c[11])
        value = low + r4 * (middle + r4 * (high + r4 * (c[12] + r * c[13])))
        return 0.0 if x < _LEAST else value * _power_of_two(k)

    def single(x):
        y = _LEAST_F if x < _LEAST_F else x
        k = (y * _LOG2_E_F + _ROUND_F) - _ROUND_F
        r = (y - k * _LN2_HIGH_F) - k * _LN2_LOW_F
        c = _TAYLOR_F
        r2 = r * r
        low = (c[0] + r) + r2 * (c[2] + r * c[3])
        high = (c[4] + r * c[5]) + r2 * (c[6] + r * c[7])
        value = low + (r2 * r2) * high
        return _ZERO_F if x < _LEAST_F else value * _power_of_two_f(k)

    return single if x == types.float32 else double


@intrinsic
def _unrank(typingctx, bits, like):
    """Undo :func:`_rank`, to the type of `like`."""

    def codegen(context, builder, signature, args):
        integer = args[0].type
        sign = builder.ashr(args[0], ir.Constant(integer, integer.width - 1))
        low = builder.and_(sign, ir.Constant(integer, 2 ** (integer.width - 1) - 1))
        return builder.bitcast(builder.xor(args[0], low), context.get_value_type(like))

    return like(bits, like), codegen


@_jit
def _highest(x):
    """Largest entry of a row that is not empty; of NaNs, some count as larger, some as smaller."""
    best = _rank(x[0])
    for k in range(x.size):
        best = max(best, _rank(x[k]))
    return _unrank(best, x[0])


@_reordered
def _add(x):
    """Sum in the precision of x."""
    total = x.dtype.type(0)
    for k in range(x.size):
        total += x[k]
    return total


# --- softmax --------------------------------------------------------------------------------------


@_fused
def _exponentials(x, top, out):
    for k in range(out.size):
        out[k] = _exp(x[k] - top)


@_fused
def _scale(out, factor):
    for k in range(out.size):
        out[k] *= factor


@_jit
def _weigh(x, out):
    """Write exponentials relative to the largest; return the largest score and their sum."""
    top, mass = _highest(x), 0.0
    if abs(top) == np.inf:
        for k in range(x.size):
            out[k] = 1.0 if x[k] == top else (0.0 if x[k] == x[k] else np.nan)
    elif x.size <= _BLOCK:
        _exponentials(x, top, out)
        return top, float(_add(out))
    for lo in range(0, x.size, _BLOCK):
        part = out[lo : lo + _BLOCK]
        if abs(top) != np.inf:
            _exponentials(x[lo : lo + _BLOCK], top, part)
        mass += _add(part)
    return top, mass


@_jit
def exp_weights(x, aim, flags, out):
    """Exponentials of x in each row, brought to a sum; ``flags`` says what minus infinity does.

    A row of nothing but minus infinities is zero if that is 0, else shares the sum equally.
    """
    share = flags[0, 0] != 0
    for r in range(out.shape[0]):
        if out.shape[1] == 0:
            return
        top, mass = _weigh(_row(x, r), out[r])
        scale = 0.0 if top == -np.inf and not share else float(_row(aim, r)[0]) / mass
        _scale(out[r], out.dtype.type(scale))


# --- the logistic loss of labels ------------------------------------------------------------------


@_reordered
def _tally(x, top, weight, y):
    """Sums of the weights off the labels, of the scores of labels, and of ``|y (1 - y)|``."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    others, score, odd = zero, zero, zero
    for k in range(x.size):
        others += weight[k] if y[k] <= zero else zero
        score += (x[k] - top) * y[k] if y[k] != zero else zero
        odd += abs(y[k] * (one - y[k]))
    return others, score, odd


@_jit
def label_loss(x, y, unit, out, odd):
    """Logistic loss of a label, and zero where each row of y is one, whatever it is if not.

    Where the loss may be small, it is formed from the odds, so that no digits cancel.
    """
    n = x.shape[1]
    weight = np.empty(min(n, _BLOCK), x.dtype)
    for r in range(out.shape[0]):
        row, label = _row(x, r), _row(y, r)
        top = _highest(row) if n else row.dtype.type(0)
        others, score, wrong = 0.0, 0.0, 0.0
        for lo in range(0, n, _BLOCK):
            part, here = row[lo : lo + _BLOCK], label[lo : lo + _BLOCK]
            _exponentials(part, top, weight[: part.size])
            sums = _tally(part, top, weight[: part.size], here)
            others += sums[0]
            score += sums[1]
            wrong += sums[2]
        if not abs(score) < np.inf or not abs(others) < np.inf:  # something is not finite
            others, score = 0.0, 0.0
            for k in range(n):
                u = row[k] - (top if top != -np.inf else row.dtype.type(0))
                u = 0.0 if row[k] == np.inf and top == np.inf else float(u)
                others += math.exp(u) if label[k] <= 0 else 0.0
                score += u * label[k] if label[k] != 0 else 0.0
        odd[r, 0] = wrong
        if score == -np.inf:
            out[r, 0] = np.inf
        elif score > -1:
            out[r, 0] = math.log1p(others * math.exp(-score))
        else:
            out[r, 0] = math.log(others + math.exp(score)) - score


# --- boxes cut by a sum ---------------------------------------------------------------------------


@_jit
def _over(x, anchor, t):
    """``(x - anchor) - t``, in this order wherever it is called from."""
    return (x - anchor) - t


@_reordered
def _clipped(x, anchor, t, cap):
    """Sum of ``clip(x - anchor - t, 0, cap)``, and how many entries are not clipped."""
    total, free = 0.0, 0.0
    for k in range(x.size):
        v = _over(x[k], anchor, t)
        w = min(max(v, 0.0), cap)
        total += w
        free += 1.0 if v == w else 0.0
    return total, free


@_reordered
def _survey(x):
    """Mean of a row, and zero plus whatever is not finite."""
    total, wrong = 0.0, 0.0
    for k in range(x.size):
        total += x[k]
        wrong += x[k] - x[k]
    return total / x.size, wrong


@_jit
def _above(x, anchor, t, kept):
    """Copy what lies above anchor + t to the front of `kept`; return how many that are."""
    m = 0
    for k in range(x.size):
        kept[m] = x[k]
        m += (x[k] - anchor) > t
    return m


@_jit
def _threshold(x, cap, goal, top, mean, epsilon, kept):
    """Find t with ``sum(clip(x - anchor - t, 0, cap)) = goal``; return the anchor and t.

    It is enough to end near: the face is what counts. Where the cap is beyond reach, the largest
    score is the anchor, whatever its scale; t rises towards the root, and items once below it stay
    there: they are left behind.
    """
    if cap >= goal:
        near = kept[: _above(x, top, -goal, kept)]
        return top, _root(near, top, cap, goal, -goal, -goal, 0.0, epsilon)
    t = _root(x, 0.0, cap, goal, mean - goal / x.size, -np.inf, top, epsilon)
    if abs(t) < _FAR * cap:
        return 0.0, t
    # At a large scale the root lies between two floats: scores less the nearest are exact.
    return t, _root(x, t, cap, goal, 0.0, -np.inf, top - t, epsilon)


@_jit
def _root(x, anchor, cap, goal, t, left, right, epsilon):
    """Newton's method from t, inside a bracket that shrinks; its left end may be minus infinity."""
    rounding = epsilon * (4 + x.size**0.5 / 4) * goal
    for i in range(_MAX_ITER):
        total, free = _clipped(x, anchor, t, cap)
        excess = total - goal
        if abs(excess) <= rounding:
            break
        if excess > 0:
            left = t
        else:
            right = t
        if left == -np.inf:
            left = (float(_lowest(x)) - anchor) - cap
        middle = left + (right - left) / 2
        new = t + excess / max(free, 1.0)
        if new == t or middle <= left or middle >= right:
            break
        t = new if free > 0 and left < new < right and i % 8 < 7 else middle
    return t


@_jit
def _lowest(x):
    low = x[0]
    for k in range(x.size):
        low = min(low, x[k])
    return low


@_reordered
def _rest(x, anchor, t, cap):
    """Sum of the free items of a face, how many they are, and how many are full."""
    total, free, full = 0.0, 0.0, 0.0
    for k in range(x.size):
        v = _over(x[k], anchor, t)
        inside = 0.0 < v < cap
        total += v if inside else 0.0
        free += 1.0 if inside else 0.0
        full += 1.0 if v > 0.0 and v >= cap else 0.0
    return total, free, full


@_fused
def _write_face(x, anchor, t, shift, cap, out):
    for k in range(out.size):
        v = _over(x[k], anchor, t)
        w = min(max(v - shift, 0.0), cap)
        out[k] = w if 0.0 < v < cap else (cap if v > 0.0 else 0.0)


@_jit
def _tame(x, cap, out):
    """Copy a row, with infinite scores too far from the others to change the face."""
    top, bottom = -np.inf, np.inf
    for k in range(x.size):
        if abs(x[k]) < np.inf:
            top, bottom = max(top, float(x[k])), min(bottom, float(x[k]))
    if top == -np.inf:
        top = bottom = 0.0
    gap = 2000 + 2 * cap + abs(top) + abs(bottom)
    for k in range(x.size):
        out[k] = x[k]
        if abs(x[k]) == np.inf:
            out[k] = top + gap if x[k] > 0 else bottom - gap


@_jit
def _cut(x, cap, low, high, epsilon, kept, out):
    """Project a row of finite numbers; tell which of the bounds on the sum is active."""
    size = _clipped(x, 0.0, 0.0, cap)[0]
    if low <= size <= high and low < high:
        _write_face(x, 0.0, 0.0, 0.0, cap, out)
        return 0.0
    side = -1.0 if size < low else 1.0
    goal = low if size < low else high
    top = float(_highest(x))
    anchor, t = _threshold(x, cap, goal, top, _survey(x)[0], epsilon, kept)
    total, free, full = _rest(x, anchor, t, cap)
    shift = (total + cap * full - goal) / max(free, 1.0)
    _write_face(x, anchor, t, shift, cap, out)
    return side


@_jit
def cut_box(x, cap, low, high, out, side):
    """Project rows onto ``0 <= p <= cap`` with a sum between two bounds.

    `side` is -1 where the lower bound is active, 1 where the upper one is, and 0 elsewhere.
    """
    n = out.shape[1]
    kept, tame = np.empty(n, x.dtype), np.empty(n)
    epsilon = 2.0**-52 if out.itemsize == 8 else 2.0**-23
    for r in range(out.shape[0]):
        row = _row(x, r)
        most = float(_row(cap, r)[0])
        least, bound = float(_row(low, r)[0]), float(_row(high, r)[0])
        side[r, 0] = 0.0
        if n == 0:
            continue
        if _survey(row)[1] == 0:
            side[r, 0] = _cut(row, most, least, bound, epsilon, kept, out[r])
            continue
        nan = False
        for k in range(n):
            nan |= row[k] != row[k]
        if nan:
            _fill(out[r], 0, n, np.nan)
            continue
        _tame(row, most, tame)
        side[r, 0] = _cut(tame, most, least, bound, epsilon, np.empty(n), out[r])
