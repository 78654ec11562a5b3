"""Sums over all alignments of two series, for the CPU, compiled by numba.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. The weight of an alignment is the
product of ``exp(-cost / gamma)`` over its cells. Sums of weights are carried as pairs of a mantissa
and an exponent, so that they never overflow: a cell costs one exponential and no logarithm.

The table is cut into strips of :data:`_LANES` rows. A strip is swept along its anti-diagonals, the
cells of which do not depend on each other: one lane for each row, in vectors. What is carried is a
`state`, of three diagonals in turn: the mantissas at ``128 * turn`` and the exponents 64 further
on, each with the row above the strip before the first lane. Constant distances tell the compiler
that a loop may be vectorised. Columns at both ends of a strip whose costs are all infinite are left
out, so a band saves time.

The mean alignment is the chance that a path drawn backwards from the last cell meets a cell. Which
step it takes is the share of a predecessor in the sum, kept for the last strips, as many as
:data:`_KEPT` numbers hold: the others are swept again from the sums on their borders. Beyond that
store, operand and result, ``m + nm / 16`` sums are held.
"""

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from diffopt.kernels.native import (
    _INFINITE,
    _LN2,
    _LN2_HIGH,
    _LN2_LOW,
    _LN2_MIDDLE,
    _LOG2_E,
    _ROUND,
    _TAYLOR,
)

_fused = numba.njit(
    error_model="numpy", fastmath={"contract"}, no_cpython_wrapper=True, no_cfunc_wrapper=True
)

_LANES = 16
_AHEAD = 12  # diagonals whose exponentials are computed at once; a multiple of three
_KEPT = 2**20
_NONE = -1e305  # exponent of a sum over nothing
_WIDE = 300.0  # mantissas are brought back between 2**-300 and 2**300 every _AHEAD diagonals
_LARGE, _SMALL = 2.0**300, 2.0**-300


@intrinsic
def _power_of_two(typingctx, t):
    """``2**t`` for a whole t in [-1022, 1023], and 0 for -1023: its bits, without a branch."""

    def codegen(context, builder, signature, args):
        shifted = builder.fadd(args[0], ir.Constant(ir.DoubleType(), _ROUND + 1023.0))
        bits = builder.shl(
            builder.bitcast(shifted, ir.IntType(64)), ir.Constant(ir.IntType(64), 52)
        )
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.float64), codegen


@_fused
def _shrink(t):
    return _power_of_two(t if t > -1023.0 else -1023.0)


@_fused
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


@_fused
def _weights(costs, m, row, rows, first, width, d, rate, weight):
    """``exp(-rate * cost)`` on the diagonals from `d` on: mantissas, then exponents."""
    base = row * m + first + d
    if rows == _LANES and d >= _LANES - 1 and d + _AHEAD <= width:
        for t in range(_AHEAD):
            for i in range(_LANES):
                weight[t * _LANES + i] = -float(costs[base + t + i * (m - 1)]) * rate
    else:
        for t in range(_AHEAD):
            for i in range(_LANES):
                x = -_INFINITE
                if i < rows and 0 <= d + t - i < width:
                    x = -float(costs[base + t + i * (m - 1)]) * rate
                weight[t * _LANES + i] = x
    for i in range(_AHEAD * _LANES):
        weight[i], weight[_AHEAD * _LANES + i] = _exp_pair(weight[i])


def _make_step(turn, keep):
    """Sums on a diagonal, stored in turn, from those on the two before; the shares, if kept."""
    new, last, corner = 128 * turn, 128 * ((turn + 2) % 3), 128 * ((turn + 1) % 3)

    @_fused
    def step(state, weight, at, shares, keep_at):
        for i in range(_LANES):
            left_exp, up_exp = state[last + 65 + i], state[last + 64 + i]
            corner_exp = state[corner + 64 + i]
            exp = left_exp if left_exp > up_exp else up_exp
            exp = exp if exp > corner_exp else corner_exp
            left = state[last + 1 + i] * _shrink(left_exp - exp)
            up = state[last + i] * _shrink(up_exp - exp)
            diagonal = state[corner + i] * _shrink(corner_exp - exp)
            total = left + up + diagonal
            if keep:
                share = 1.0 / total if total > 0.0 else 0.0
                shares[keep_at + i] = left * share
                shares[keep_at + _LANES + i] = up * share
                shares[keep_at + 2 * _LANES + i] = diagonal * share
            state[new + 1 + i] = total * weight[at + i]
            state[new + 65 + i] = exp + weight[at + _AHEAD * _LANES + i]

    return step


@_fused
def _above(state, last, d, width, first, above, above_exp):
    """Put the sum above the first lane on diagonal `d` in front of the diagonal before it."""
    inside = d < width
    state[last] = above[first + d] if inside else 0.0
    state[last + 64] = above_exp[first + d] if inside else _NONE


@_fused
def _slot(m):
    """How many numbers the shares of a strip take."""
    return (m + _LANES + _AHEAD) * 3 * _LANES


def _make_sweep(keep):
    step_0, step_1, step_2 = (_make_step(turn, keep) for turn in range(3))

    @_fused
    def sweep(
        costs, m, row, rows, first, width, rate, above, above_exp, below, below_exp, scratch, slot
    ):
        """Sums along the last row of a strip, from those along the row above it."""
        state, weight, shares = scratch
        for i in range(state.size):
            state[i] = 0.0 if (i // 64) % 2 == 0 else _NONE
        if row == 0:
            state[128] = 1.0
            state[128 + 64] = 0.0
        elif first > 0:
            state[128], state[128 + 64] = above[first - 1], above_exp[first - 1]
        size, start = (3 * _LANES, slot * _slot(m)) if keep else (0, 0)
        for d in range(0, width + rows - 1, _AHEAD):
            _weights(costs, m, row, rows, first, width, d, rate, weight)
            for t in range(0, _AHEAD, 3):
                at, keep_at = t * _LANES, start + (d + t) * size
                _above(state, 256, d + t, width, first, above, above_exp)
                step_0(state, weight, at, shares, keep_at)
                _above(state, 0, d + t + 1, width, first, above, above_exp)
                step_1(state, weight, at + _LANES, shares, keep_at + size)
                _above(state, 128, d + t + 2, width, first, above, above_exp)
                step_2(state, weight, at + 2 * _LANES, shares, keep_at + 2 * size)
                for turn in range(3):
                    j = d + t + turn - rows + 1
                    if 0 <= j < width:
                        below[first + j] = state[128 * turn + rows]
                        below_exp[first + j] = state[128 * turn + 64 + rows]
            for turn in range(3):
                for i in range(_LANES + 1):
                    a = state[128 * turn + i]
                    by = _SMALL if a > _LARGE else (_LARGE if a < _SMALL else 1.0)
                    state[128 * turn + i] = a * by
                    wide = _WIDE if a > _LARGE else (-_WIDE if a < _SMALL else 0.0)
                    state[128 * turn + 64 + i] += wide

    return sweep


_sweep, _sweep_and_keep = _make_sweep(False), _make_sweep(True)


@_fused
def _scratch(m, kept):
    """Allocate what a sweep writes: state, weights, and the shares of kept strips."""
    return np.empty(3 * 128), np.empty(2 * _AHEAD * _LANES), np.empty(kept * _slot(m))


@_fused
def _window(costs, m, row, rows):
    """First column, and number of columns, outside of which the costs of a strip are infinite."""
    first, end = m, 0
    for i in range(row, row + rows):
        lo, hi = 0, m
        while lo < first and costs[i * m + lo] == np.inf:
            lo += 1
        first = min(first, lo)
        while hi > end and costs[i * m + hi - 1] == np.inf:
            hi -= 1
        end = max(end, hi)
    return first, max(end - first, 0)


@_fused
def _forward(costs, n, m, rate, sums, sums_exp, scratch, kept):
    """Sums along the borders of strips, in as many rows as there are, in turn; where they end.

    The shares of the last `kept` strips are kept.
    """
    borders = sums.shape[0]
    for j in range(m):
        sums[0, j], sums_exp[0, j] = 0.0, _NONE
    strip, strips = 0, (n + _LANES - 1) // _LANES
    for row in range(0, n, _LANES):
        rows = min(_LANES, n - row)
        first, width = _window(costs, m, row, rows)
        above, above_exp = sums[strip % borders], sums_exp[strip % borders]
        strip += 1
        below, below_exp = sums[strip % borders], sums_exp[strip % borders]
        for j in range(m):
            below[j], below_exp[j] = 0.0, _NONE
        if width == 0:
            continue
        slot = strip - 1 - (strips - kept)
        if slot >= 0:
            _sweep_and_keep(
                costs,
                m,
                row,
                rows,
                first,
                width,
                rate,
                above,
                above_exp,
                below,
                below_exp,
                scratch,
                slot,
            )
        else:
            _sweep(
                costs,
                m,
                row,
                rows,
                first,
                width,
                rate,
                above,
                above_exp,
                below,
                below_exp,
                scratch,
                0,
            )
    return strip % borders


@_fused
def _back(shares, start, m, row, rows, first, width, up, corner, state, mean):
    """Chances to meet the cells of a strip, from those to come to its last row from below.

    `up` and `corner` hold these, by the column where a path comes from, and then those to leave the
    strip at its first row. In `state`: chances, then those to step left, up, and diagonally, the
    last also of the diagonal before.
    """
    for i in range(state.size):
        state[i] = 0.0
    held = 0.0  # a strip of one row still reads what the step before would have overwritten
    for d in range(width + rows - 2, -1, -1):
        j = d - rows + 1
        state[128 + rows] = up[first + j] if j >= 0 else 0.0
        state[256 + rows] = corner[first + j + 1] if j >= -1 and first + j + 1 < m else 0.0
        for i in range(_LANES):
            state[i] = state[64 + i] + state[129 + i] + state[257 + i]
        at = start + d * 3 * _LANES
        for i in range(_LANES):
            state[64 + i] = state[i] * shares[at + i]
            state[128 + i] = state[i] * shares[at + _LANES + i]
            state[256 + i] = state[192 + i]
            state[192 + i] = state[i] * shares[at + 2 * _LANES + i]
        base = row * m + first + d
        for i in range(max(0, d - width + 1), min(rows, d + 1)):
            mean[base + i * (m - 1)] = min(state[i], 1.0)
        if d + 1 < width:
            corner[first + d + 1] = held
        held = state[192]
        if d < width:
            up[first + d] = state[128]
    if width > 0:
        corner[first] = held


@_fused
def _any_nan(costs):
    count = 0
    for k in range(costs.size):
        count += costs[k] != costs[k]
    return count > 0


@_fused
def _value(total, total_exp, gamma):
    return -gamma * (total_exp * _LN2 + np.log(total)) if total_exp > -1e299 else np.inf


@_fused
def _shortest(costs, n, m, dist):
    """Least costs of paths to each cell, row by row; with one row in `dist`, of the last only."""
    rows = dist.shape[0]
    for i in range(n):
        corner = 0.0 if i == 0 else np.inf
        left = np.inf
        for j in range(m):
            up = dist[(i - 1) % rows, j] if i > 0 else np.inf
            left = min(min(up, left), corner) + costs[i * m + j]
            corner = up
            dist[i % rows, j] = left
    return dist[(n - 1) % rows, m - 1]


@_fused
def _trace(dist, n, m, path):
    """Mark the cheapest path, from its end; at ties the diagonal step, then the one upwards."""
    i, j = n - 1, m - 1
    path[i * m + j] = 1.0
    while i > 0 or j > 0:
        corner = dist[i - 1, j - 1] if i > 0 and j > 0 else np.inf
        up = dist[i - 1, j] if i > 0 else np.inf
        left = dist[i, j - 1] if j > 0 else np.inf
        if i > 0 and j > 0 and corner <= min(up, left):
            i, j = i - 1, j - 1
        elif i > 0 and (j == 0 or up <= left):
            i -= 1
        else:
            j -= 1
        path[i * m + j] = 1.0


@_fused
def alignment_value(gamma, costs, flags, out):
    """Soft minimum over alignments of the sum of costs; flags: the sizes of the two series."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    scratch = _scratch(m, 0)
    sums, sums_exp, dist = np.empty((2, m)), np.empty((2, m)), np.empty((1, m))
    for r in range(out.shape[0]):
        cost = costs[r if costs.shape[0] > 1 else 0]
        g = float(gamma[r if gamma.shape[0] > 1 else 0, 0])
        if _any_nan(cost):
            out[r, 0] = np.nan
        elif g == 0:
            out[r, 0] = _shortest(cost, n, m, dist)
        else:
            end = _forward(cost, n, m, 1.0 / g, sums, sums_exp, scratch, 0)
            out[r, 0] = _value(sums[end, m - 1], sums_exp[end, m - 1], g)


@_fused
def alignment_mean(table, gamma, flags, out, value):
    """Mean alignment, and the value."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    size, strips = n * m, (n + _LANES - 1) // _LANES
    kept = min(strips, max(1, _KEPT // _slot(m)))
    scratch = _scratch(m, kept)
    sums, sums_exp = np.empty((strips + 1, m)), np.empty((strips + 1, m))
    state, up, corner = np.empty(320), np.empty(m), np.empty(m)
    for r in range(out.shape[0]):
        costs, mean = table[r if table.shape[0] > 1 else 0], out[r]
        g = float(gamma[r if gamma.shape[0] > 1 else 0, 0])
        if _any_nan(costs):
            value[r, 0] = np.nan
            for c in range(size):
                mean[c] = np.nan
            continue
        for c in range(size):
            mean[c] = 0.0
        if g == 0:
            dist = np.empty((n, m))
            value[r, 0] = _shortest(costs, n, m, dist)
            if value[r, 0] < np.inf:
                _trace(dist, n, m, mean)
            continue
        rate = 1.0 / g
        _forward(costs, n, m, rate, sums, sums_exp, scratch, kept)
        value[r, 0] = _value(sums[strips, m - 1], sums_exp[strips, m - 1], g)
        if sums_exp[strips, m - 1] <= -1e299:
            continue
        for j in range(m):
            up[j], corner[j] = 0.0, 0.0
        up[m - 1] = 1.0  # all paths end in the last cell
        for strip in range(strips - 1, -1, -1):
            row = strip * _LANES
            rows = min(_LANES, n - row)
            first, width = _window(costs, m, row, rows)
            slot = strip - (strips - kept)
            if slot < 0:
                slot = 0
                _sweep_and_keep(
                    costs,
                    m,
                    row,
                    rows,
                    first,
                    width,
                    rate,
                    sums[strip],
                    sums_exp[strip],
                    sums[strip + 1],
                    sums_exp[strip + 1],
                    scratch,
                    slot,
                )
            _back(scratch[2], slot * _slot(m), m, row, rows, first, width, up, corner, state, mean)
            for j in range(m):
                if not first <= j < first + width:
                    up[j], corner[j] = 0.0, 0.0
