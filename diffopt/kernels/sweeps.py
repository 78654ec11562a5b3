"""Sweeps over tables of alignments, strip by strip: what :mod:`diffopt.kernels.alignments` runs.

The weight of an alignment is the product of ``exp(-cost / gamma)`` over its cells. A table is cut
into strips of :data:`LANES` rows. A strip is swept along its anti-diagonals, the cells of which do
not depend on each other: one lane for each row, in vectors.

Twelve diagonals make a block, and have a record of fourteen: the two before them come first. A
record holds the sums of weights over the paths to each cell, as mantissas and then as exponents, so
that they never overflow; for derivatives of second order then also the derivative of minus the
cost, in units of gamma, of reaching the cell. A diagonal has :data:`_STRIDE` numbers: one for each
lane, from place 8 on, and that of the row above the strip at place 7. Where all sums of a block
are in the range of floating-point numbers relative to the largest, all share its exponent, and
a cell costs an exponential, two additions and a product; else each cell has its own.

The mean alignment is the chance that a path drawn backwards from the last cell meets a cell. Which
step it takes is the share of a predecessor in the sum, found again from the records. They are
kept for the last strips; the others are swept again from the sums on their borders.
"""

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from diffopt.kernels.native import (
    _INFINITE,
    _LN2_HIGH,
    _LN2_LOW,
    _LN2_MIDDLE,
    _LOG2_E,
    _ROUND,
    _TAYLOR,
)

_options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
fused = numba.njit(fastmath={"contract"}, **_options)

LANES = 16
AHEAD = 12  # diagonals in a block
CELLS = AHEAD * LANES
PAD = 32  # that borders and series are longer, so that blocks may reach beyond their end
_STRIDE = 24
_FIRST = 8  # place of the first lane
_LAST = AHEAD * _STRIDE  # the two last diagonals of a record start here
PART = (AHEAD + 2) * _STRIDE
_HIGH = 3 * CELLS  # place, behind the weights, of what bounds them
_KEPT = 2**19  # numbers in the records that are kept
NONE = -1e305  # exponent of a sum over nothing
_NEVER = -1e299  # below it is the exponent of a sum over nothing, times weights
_RANGE = 990.0  # powers of two between sums that share an exponent


# --- numbers as mantissas and exponents ---------------------------------------------------------


def _bits(make):
    """Make a function of one double from one of its bits."""

    @intrinsic
    def function(typingctx, t):
        def codegen(context, builder, signature, args):
            return make(builder, args[0])

        return types.float64(types.float64), codegen

    return function


@intrinsic
def get(typingctx, array, index):
    """Item of an array, for an index that is not negative: loops over it vectorise."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]], inbounds=True))

    return array.dtype(array, types.int64), codegen


@intrinsic
def put(typingctx, array, index, value):
    """Set it."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]], inbounds=True))
        return context.get_dummy_value()

    return types.void(array, types.int64, array.dtype), codegen


_WORD, _DOUBLE = ir.IntType(64), ir.DoubleType()


def _make_power(builder, t):
    shifted = builder.fadd(t, ir.Constant(_DOUBLE, _ROUND + 1023.0))
    bits = builder.shl(builder.bitcast(shifted, _WORD), ir.Constant(_WORD, 52))
    return builder.bitcast(bits, _DOUBLE)


def _make_mantissa(builder, a):
    bits = builder.and_(builder.bitcast(a, _WORD), ir.Constant(_WORD, (1 << 52) - 1))
    return builder.bitcast(builder.or_(bits, ir.Constant(_WORD, 1023 << 52)), _DOUBLE)


def _make_exponent(builder, a):
    bits = builder.lshr(builder.bitcast(a, _WORD), ir.Constant(_WORD, 52))
    bits = builder.or_(bits, ir.Constant(_WORD, 1075 << 52))  # 2**52 plus the biased exponent
    return builder.fsub(builder.bitcast(bits, _DOUBLE), ir.Constant(_DOUBLE, 2.0**52 + 1023.0))


_power_of_two = _bits(_make_power)  # for a whole number in [-1022, 1023], and 0 for -1023
_mantissa = _bits(_make_mantissa)  # in [1, 2), of a positive number
_exponent = _bits(_make_exponent)


@fused
def _shrink(t):
    return _power_of_two(t if t > -1023.0 else -1023.0)


@fused
def _exp_pair(x):
    """``exp(x)`` as a mantissa in [0.7, 1.42] and an exponent."""
    x = x if x > -_INFINITE else -_INFINITE
    x = x if x < _INFINITE else _INFINITE
    k = (x * _LOG2_E + _ROUND) - _ROUND
    r = ((x - k * _LN2_HIGH) - k * _LN2_MIDDLE) - k * _LN2_LOW
    r = r if r > -0.35 else -0.35
    r = r if r < 0.35 else 0.35
    c = _TAYLOR
    r2 = r * r
    r4 = r2 * r2
    low = (c[0] + r) + r2 * (c[2] + r * c[3])
    middle = (c[4] + r * c[5]) + r2 * (c[6] + r * c[7])
    high = (c[8] + r * c[9]) + r2 * (c[10] + r * c[11])
    return low + r4 * (middle + r4 * (high + r4 * (c[12] + r * c[13]))), k


# --- forwards -----------------------------------------------------------------------------------


@fused
def _start(records, at, place, sums, above):
    """Put nothing before the first diagonal, except for the sum diagonally above it."""
    row, first = place[0], place[2]
    for i in range(2 * _STRIDE):
        records[at + i], records[at + PART + i] = 0.0, NONE
    if sums.shape[0] > 2:
        for i in range(2 * _STRIDE):
            records[at + 2 * PART + i] = 0.0
    corner = at + _FIRST - 1
    if row == 0:
        records[corner], records[corner + PART] = 1.0, 0.0
    elif first > 0:
        for part in range(sums.shape[0]):
            records[corner + part * PART] = sums[part, above, first - 1]


@fused
def _carry(records, before, at):
    """Take the last two diagonals of a record to the front of the next one, normalised."""
    for i in range(2 * _STRIDE):
        a, exp = get(records, before + _LAST + i), get(records, before + PART + _LAST + i)
        live = a > 0.0 and exp > _NEVER
        put(records, at + i, _mantissa(a) if live else 0.0)
        put(records, at + PART + i, exp + _exponent(a) if live else NONE)
    above = at + _STRIDE + _FIRST - 1  # not yet known when the last record was filled
    put(records, above, 0.0)
    put(records, above + PART, NONE)


@fused
def _largest(records, at, sums, above, j, weight):
    """Largest exponent on a block's border, and whether all sums of the block may share it."""
    for i in range(LANES):
        high, low, far = NONE, -NONE, 0.0
        for k in range(2):
            exp = get(records, at + PART + k * _STRIDE + _FIRST + i)
            high = exp if exp > high else high
            exp = exp if exp > _NEVER else -NONE
            low = exp if exp < low else low
        for t in range(AHEAD):
            x = weight[t * LANES + i]
            x = x if x > _NEVER else 0.0
            x = x if x > 0.0 else -x
            far = x if x > far else far
        weight[_HIGH + i], weight[_HIGH + LANES + i], weight[_HIGH + 2 * LANES + i] = high, low, far
    high, low, far = get(records, at + PART + _FIRST - 1), -NONE, 0.0
    if high > _NEVER:
        low = high
    for t in range(AHEAD):
        exp = sums[1, above, j + t]
        if exp > _NEVER:
            high, low = max(high, exp), min(low, exp)
    half = LANES // 2
    while half > 0:
        for i in range(half):
            a, b, c = _HIGH + i, _HIGH + LANES + i, _HIGH + 2 * LANES + i
            x, y, z = weight[a + half], weight[b + half], weight[c + half]
            weight[a] = x if x > weight[a] else weight[a]
            weight[b] = y if y < weight[b] else weight[b]
            weight[c] = z if z > weight[c] else weight[c]
        half //= 2
    high, low = max(high, weight[_HIGH]), min(low, weight[_HIGH + LANES])
    far = weight[_HIGH + 2 * LANES]
    if high <= _NEVER:
        high = low = 0.0
    return high, (high - low) + AHEAD * (far * _LOG2_E + 2.0) < _RANGE


def _make_block(curve):
    """Make the function that fills a record, with or without derivatives."""

    @fused
    def together(records, at, sums, above, j, weight, common):
        for i in range(CELLS):
            a, k = _exp_pair(weight[i])
            weight[i] = a * _shrink(k)
        for i in range(2 * _STRIDE):
            a, exp = get(records, at + i), get(records, at + PART + i)
            put(records, at + i, a * _shrink(exp - common))
        for t in range(AHEAD):
            slot = at + (t + 1) * _STRIDE + _FIRST - 1
            put(records, slot, sums[0, above, j + t] * _shrink(sums[1, above, j + t] - common))
            if curve:
                put(records, slot + 2 * PART, sums[2, above, j + t])
        for t in range(AHEAD):
            corner = at + t * _STRIDE + _FIRST - 1
            up, new = corner + _STRIDE, corner + 2 * _STRIDE + 1
            for i in range(LANES):
                a, b = get(records, up + 1 + i), get(records, up + i)
                c = get(records, corner + i)
                total = a + b + c
                put(records, new + i, total * weight[t * LANES + i])
                if curve:
                    share = 1.0 / (total if total > 0.0 else 1.0)
                    s = get(records, up + 2 * PART + 1 + i)
                    gap_b, gap_c = (
                        get(records, up + 2 * PART + i) - s,
                        get(records, corner + 2 * PART + i) - s,
                    )
                    mean = s + share * (b * gap_b + c * gap_c)
                    put(records, new + 2 * PART + i, mean - weight[2 * CELLS + t * LANES + i])
        for i in range(2 * _STRIDE):
            put(records, at + PART + _LAST + i, common)

    @fused
    def apart(records, at, sums, above, j, weight):
        for i in range(CELLS):
            weight[i], weight[CELLS + i] = _exp_pair(weight[i])
        for t in range(AHEAD):
            slot = at + (t + 1) * _STRIDE + _FIRST - 1
            put(records, slot, sums[0, above, j + t])
            put(records, slot + PART, sums[1, above, j + t])
            if curve:
                put(records, slot + 2 * PART, sums[2, above, j + t])
        for t in range(AHEAD):
            corner = at + t * _STRIDE + _FIRST - 1
            up, new = corner + _STRIDE, corner + 2 * _STRIDE + 1
            for i in range(LANES):
                a_exp, b_exp = get(records, up + PART + 1 + i), get(records, up + PART + i)
                c_exp = get(records, corner + PART + i)
                exp = a_exp if a_exp > b_exp else b_exp
                exp = exp if exp > c_exp else c_exp
                a = get(records, up + 1 + i) * _shrink(a_exp - exp)
                b = get(records, up + i) * _shrink(b_exp - exp)
                c = get(records, corner + i) * _shrink(c_exp - exp)
                total = a + b + c
                put(records, new + i, total * weight[t * LANES + i])
                put(records, new + PART + i, exp + weight[CELLS + t * LANES + i])
                if curve:
                    share = 1.0 / (total if total > 0.0 else 1.0)
                    s = get(records, up + 2 * PART + 1 + i)
                    gap_b, gap_c = (
                        get(records, up + 2 * PART + i) - s,
                        get(records, corner + 2 * PART + i) - s,
                    )
                    mean = s + share * (b * gap_b + c * gap_c)
                    put(records, new + 2 * PART + i, mean - weight[2 * CELLS + t * LANES + i])

    @fused
    def block(records, at, sums, above, j, weight):
        common, near = _largest(records, at, sums, above, j, weight)
        if near:
            together(records, at, sums, above, j, weight, common)
        else:
            apart(records, at, sums, above, j, weight)
        records[at], records[at + 1] = (1.0 if near else 0.0), common

    return block


@fused
def _leave(records, at, place, d, sums, below, curve):
    """Write the sums of a block on the last row of its strip."""
    _, rows, first, width, _ = place
    common = records[at + 1]
    near = records[at] > 0.0
    for t in range(max(0, rows - 1 - d), min(AHEAD, width + rows - 1 - d)):
        slot, j = at + (t + 2) * _STRIDE + _FIRST - 1 + rows, first + d + t - rows + 1
        a, exp = records[slot], common if near else records[slot + PART]
        live = a > 0.0 and exp > _NEVER
        sums[0, below, j] = _mantissa(a) if live else 0.0
        sums[1, below, j] = exp + _exponent(a) if live else NONE
        if curve:
            sums[2, below, j] = records[slot + 2 * PART]


def make_forward(fill, window, curve):
    """Make the sweeps over a strip, and over all of them.

    Parameters
    ----------
    fill : function
        ``fill(source, place, d, rate, weight)`` writes ``-rate * cost`` for the cells of the
        block at diagonal `d`, at most -1e300 where a cell is closed or does not exist; for
        derivatives also the direction, from ``2 * CELLS`` on.
    window : function
        ``window(source, row, rows)`` gives the first column, and the number of columns, outside
        of which cells of a strip are closed.
    curve : bool
        Whether to take derivatives.
    """
    block = _make_block(curve)

    @fused
    def sweep(source, place, rate, sums, above, below, work, at, step):
        """Sums along the last row of a strip, from those along the row above it."""
        records, weight = work
        _, rows, first, width, _ = place
        _start(records, at, place, sums, above)
        for d in range(0, width + rows - 1, AHEAD):
            if d > 0:
                _carry(records, at, at + step)
                if curve:
                    for i in range(2 * _STRIDE):
                        part = at + 2 * PART + i
                        records[part + step] = records[part + _LAST]
                at += step
            fill(source, place, d, rate, weight)
            block(records, at, sums, above, first + d, weight)
            _leave(records, at, place, d, sums, below, curve)

    @fused
    def forward(source, n, lanes, rate, sums, work, kept, slot, step):
        """Sums along the borders of strips, in as many rows as there are; where they end."""
        borders = sums.shape[1]
        for j in range(sums.shape[2]):
            sums[0, 0, j], sums[1, 0, j] = 0.0, NONE
        strip, strips = 0, (n + LANES - 1) // LANES
        for row in range(0, n, LANES):
            rows = min(LANES, n - row)
            first, width = window(source, row, rows)
            above, below = strip % borders, (strip + 1) % borders
            for j in range(sums.shape[2]):
                sums[0, below, j], sums[1, below, j] = 0.0, NONE
            place = row, rows, first, width, lanes
            keep = strip - (strips - kept)
            at = keep * slot if keep >= 0 else 0
            if width > 0:
                sweep(source, place, rate, sums, above, below, work, at, step if kept > 0 else 0)
            strip += 1
        return strip % borders

    return sweep, forward


@fused
def slot_size(m, parts):
    """How many numbers the records of a strip take."""
    return (m + LANES - 1 + AHEAD - 1) // AHEAD * parts * PART


@fused
def kept_strips(n, m, parts):
    """How many strips have records that are kept."""
    return min((n + LANES - 1) // LANES, max(1, _KEPT // slot_size(m, parts)))


@fused
def workspace(m, parts, kept):
    """Allocate what a sweep writes: records, for one block or for kept strips, and weights."""
    return np.empty(max(parts * PART, kept * slot_size(m, parts))), np.empty(3 * CELLS + 3 * LANES)


# --- backwards ----------------------------------------------------------------------------------
#
# In `state`: at 0 the chances to meet the cells of a diagonal, at 64 and 128 to leave them to the
# left and upwards, at 192 and 256 diagonally, for diagonals of even and of odd numbers. Their
# derivatives are 320 further on.


def _make_back(curve, near, diagonal):
    """Make the step from a diagonal to those before it, by its place in a record."""

    @fused
    def back(records, corner, state, lanes):
        up = corner + _STRIDE
        for i in range(lanes):
            state[i] = state[64 + i] + state[129 + i] + state[diagonal + 1 + i]
            if curve:
                f = state[384 + i] + state[449 + i] + state[diagonal + 321 + i]
                state[320 + i] = f
        for i in range(lanes):
            a, b = get(records, up + 1 + i), get(records, up + i)
            c = get(records, corner + i)
            if not near:
                a_exp, b_exp = get(records, up + PART + 1 + i), get(records, up + PART + i)
                c_exp = get(records, corner + PART + i)
                exp = a_exp if a_exp > b_exp else b_exp
                exp = exp if exp > c_exp else c_exp
                a *= _shrink(a_exp - exp)
                b *= _shrink(b_exp - exp)
                c *= _shrink(c_exp - exp)
            total = a + b + c
            share = 1.0 / (total if total > 0.0 else 1.0)
            e = state[i]
            if not curve:
                e *= share
                state[64 + i], state[128 + i] = a * e, b * e
                state[diagonal + i] = c * e
            else:
                f = state[320 + i]
                a, b, c = a * share, b * share, c * share
                s = get(records, up + 2 * PART + 1 + i)  # differences from it keep digits
                gap_b = get(records, up + 2 * PART + i) - s
                gap_c = get(records, corner + 2 * PART + i) - s
                f -= e * (b * gap_b + c * gap_c)
                state[64 + i], state[128 + i] = a * e, b * e
                state[diagonal + i] = c * e
                state[384 + i], state[448 + i] = a * f, b * (f + e * gap_b)
                state[diagonal + 320 + i] = c * (f + e * gap_c)

    return back


def make_backward(fill, window, emit, curve):
    """Make the pass backwards over all strips, after a pass forwards; see :func:`make_forward`.

    ``emit(source, sink, place, d, state)`` takes the chances, and their derivatives, of a
    diagonal.
    """
    sweep, _ = make_forward(fill, window, curve)
    near_even, near_odd = _make_back(curve, True, 192), _make_back(curve, True, 256)
    far_even, far_odd = _make_back(curve, False, 192), _make_back(curve, False, 256)

    @fused
    def strip_back(source, sink, place, work, at, step, flows, turn, state):
        """Chances in a strip, from those to come to its last row, by the column they come from."""
        records = work[0]
        _, rows, first, width, lanes = place
        for i in range(state.size):
            state[i] = 0.0
        top = width + rows - 2
        at += top // AHEAD * step
        for block in range(top // AHEAD, -1, -1):
            d = block * AHEAD
            near = records[at] > 0.0
            for t in range(AHEAD - 1, -1, -1):
                diagonal = 192 + 64 * (t % 2)
                j = d + t - rows + 1
                for part in range(2 if curve else 1):
                    a = j >= 0 and j < width
                    b = j >= -1 and j < width
                    to = 320 * part + rows
                    state[to + 128] = flows[turn, 2 * part, first + j] if a else 0.0
                    state[to + diagonal] = flows[turn, 2 * part + 1, first + j + 1] if b else 0.0
                corner = at + t * _STRIDE + _FIRST - 1
                if near and t % 2 == 0:
                    near_even(records, corner, state, lanes)
                elif near:
                    near_odd(records, corner, state, lanes)
                elif t % 2 == 0:
                    far_even(records, corner, state, lanes)
                else:
                    far_odd(records, corner, state, lanes)
                emit(source, sink, place, d + t, state)
                if d + t < width:
                    for part in range(2 if curve else 1):
                        of = 320 * part
                        flows[1 - turn, 2 * part, first + d + t] = state[of + 128]
                        flows[1 - turn, 2 * part + 1, first + d + t] = state[of + diagonal]
            at -= step

    @fused
    def backward(source, sink, n, m, lanes, rate, sums, work, kept, slot, step):
        strips, turn = (n + LANES - 1) // LANES, 0
        flows, state = np.zeros((2, 4, m + PAD)), np.empty(768)
        flows[0, 0, m - 1] = 1.0  # all paths end in the last cell
        for strip in range(strips - 1, -1, -1):
            row = strip * LANES
            rows = min(LANES, n - row)
            first, width = window(source, row, rows)
            keep = strip - (strips - kept)
            at = max(keep, 0) * slot
            place = row, rows, first, width, lanes
            if keep < 0:
                sweep(source, place, rate, sums, strip, strip + 1, work, at, step)
            for part in range(4):
                for j in range(m):
                    flows[1 - turn, part, j] = 0.0
            strip_back(source, sink, place, work, at, step, flows, turn, state)
            turn = 1 - turn

    return backward
