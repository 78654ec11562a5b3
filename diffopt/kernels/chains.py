"""Total variation along a chain, for the CPU, compiled by numba.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. Dynamic programming from left to
right. The derivative of what items up to k cost, as a function of the value of item k, is
increasing and piecewise linear; a step clips it to [-weight, weight] and adds a line. Each knot
holds by how much slope and intercept change there; those that a clip cuts off are gone for good, so
a row costs O(n).
"""

import numba
import numpy as np

from diffopt.kernels.native import _fill, _has_nan, _row

_jit = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_jit
def _clip_ends(theta, kept, m, weight, knots, ends):
    """Write where each item's function is clipped, to `ends`; return the value of the last."""
    first = last = 0
    for k in range(m):
        y = float(theta[kept[k]])
        slope, shift = 1.0, -y - (weight if k else 0.0)
        left = first
        floor = 0.0 if k == m - 1 else -weight
        while left < last and slope * knots[left, 0] + shift <= floor:
            slope += knots[left, 1]
            shift += knots[left, 2]
            left += 1
        low = (floor - shift) / slope
        if k == m - 1:
            return low
        slope_right, shift_right = 1.0, -y + (weight if k else 0.0)
        right = last
        while right > left and slope_right * knots[right - 1, 0] + shift_right >= weight:
            right -= 1
            slope_right -= knots[right, 1]
            shift_right -= knots[right, 2]
        high = (weight - shift_right) / slope_right
        if k == 0:
            left = right = m
        first, last = left - 1, right + 1
        knots[first, 0], knots[first, 1], knots[first, 2] = low, slope, shift + weight
        knots[right, 0], knots[right, 1], knots[right, 2] = high, -slope_right, weight - shift_right
        ends[k, 0], ends[k, 1] = low, high
    return 0.0


@_jit
def _write_block(theta, kept, lo, hi, pulled, weight, fused):
    """Write the value of the kept items lo to hi, a block; return the pull at each."""
    anchor, total = float(theta[kept[lo]]), 0.0
    for k in range(lo, hi):
        total += theta[kept[k]] - anchor
    share = pulled / (hi - lo)
    value = anchor + (total / (hi - lo) + weight * share)
    for k in range(lo, hi):
        fused[kept[k]] = value
    return share


@_jit
def fuse(theta, weight, fused, block, pull):
    """Proximal step of the total variation; where each block starts, and what pulls at it.

    Items at minus infinity take no part and belong to the block before them.
    """
    n = fused.shape[1]
    kept = np.empty(n, np.int64)
    knots, ends = np.empty((2 * n + 2, 3)), np.empty((n, 2))
    for r in range(fused.shape[0]):
        x, tie = _row(theta, r), float(_row(weight, r)[0])
        out, start_of, pulls = fused[r], block[r], pull[r]
        m = 0
        for i in range(n):
            if x[i] != -np.inf:
                kept[m] = i
                m += 1
        nan = tie != tie or _has_nan(x)
        _fill(out, 0, n, np.nan if nan else -np.inf)
        _fill(start_of, 0, n, 0)
        _fill(pulls, 0, n, 0.0)
        if nan or m == 0:
            continue
        value = _clip_ends(x, kept, m, tie, knots, ends)
        hi, stop, above = m, n, 0.0  # above: whether the block on the right lies above this one
        for k in range(m - 2, -2, -1):
            side = 0.0
            if k >= 0 and value > ends[k, 1]:
                side, value = 1.0, ends[k, 1]
            elif k >= 0 and value < ends[k, 0]:
                side, value = -1.0, ends[k, 0]
            if side != 0 or k < 0:
                share = _write_block(x, kept, k + 1, hi, above - side, tie, out)
                start = kept[k + 1] if k >= 0 else 0
                _fill(pulls, start, stop, share)
                _fill(start_of, start, stop, start)
                hi, stop, above = k + 1, start, side
