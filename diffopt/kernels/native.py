"""Sequential cores for the CPU, compiled by numba: sort, pool, unsort, row by row.

Each kernel takes its operands, static flags if it has any, then its results, as two-dimensional
arrays ``(rows, n)``; an operand that all rows share has one row. Imported by
:mod:`diffopt.kernels.bridge` alone, when a kernel is first used, so that importing ``diffopt``
does not import numba. Loops are explicit and bounds are arguments, because slices are slow to
compile. Sums are carried in double precision whatever the type of the data.
"""

import math

import numba
import numpy as np

_jit = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_ONE_PASS = 8192  # up to this length, one pass of a bucket sort stays in the cache
_DIGIT = 11  # bits that each of the two passes looks at, beyond that length
_MAX_MOVES = 8  # moves an item that the final insertion sort may make, on average


@_jit
def _row(array, r):
    """Row `r` of an operand, or its only row where all rows share it."""
    return array[r if array.shape[0] > 1 else 0]


@_jit
def _fill(x, lo, hi, value):
    for k in range(lo, hi):
        x[k] = value


@_jit
def _has_nan(x):
    nan = False
    for k in range(x.size):
        nan |= x[k] != x[k]
    return nan


# --- exponentials ---------------------------------------------------------------------------------
#
# As pairs of a mantissa and an exponent they never overflow, and the loop over them vectorises.
# ln 2 is a sum of three parts, of which the products of the first two with an exponent are exact.

_LN2_HIGH = float.fromhex("0x1.62e42p-1")
_LN2_MIDDLE = float.fromhex("0x1.fdf47p-22")
_LN2_LOW = float.fromhex("0x1.ef35793c7673p-45")
_LN2 = math.log(2)
_LOG2_E = 1 / _LN2
_ROUND = 1.5 * 2.0**52  # adding and subtracting it rounds to an integer
_ROUND_FAR = _ROUND * 2.0**20  # to a multiple of 2**20
_TAYLOR = tuple(1 / math.factorial(i) for i in range(14))
_POWERS = 2.0 ** -np.arange(1080.0)
_INFINITE = 1e300  # stands for infinity, which has no exponent
_NEAR = 64.0  # scores in so small a range are exponentiated relative to the largest


@_jit
def _polynomial(r):
    """``exp(r)`` for r of at most half a ln 2."""
    c = _TAYLOR
    r2 = r * r
    r4 = r2 * r2
    low = (c[0] + r) + r2 * (c[2] + r * c[3])
    middle = (c[4] + r * c[5]) + r2 * (c[6] + r * c[7])
    high = (c[8] + r * c[9]) + r2 * (c[10] + r * c[11])
    return low + r4 * (middle + r4 * (high + r4 * (c[12] + r * c[13])))


@_jit
def _exp_part(x):
    """``exp(x)`` as a mantissa in [0.7, 1.42] and an integer exponent, held in a float."""
    x = min(max(x, -_INFINITE), _INFINITE)
    far = (x * _LOG2_E + _ROUND_FAR) - _ROUND_FAR
    t = (x - far * _LN2_HIGH) - far * _LN2_MIDDLE
    k = (t * _LOG2_E + _ROUND) - _ROUND
    r = ((t - k * _LN2_HIGH) - k * _LN2_MIDDLE) - (k + far) * _LN2_LOW
    return _polynomial(min(max(r, -0.35), 0.35)), k + far


@_jit
def _exp_parts(x, lo, hi, mantissa, exponent):
    for k in range(lo, hi):
        mantissa[k], exponent[k] = _exp_part(float(x[k]))


@_jit
def _exp(x):
    """``exp(x)`` for x of at most zero, as a loop over it vectorises."""
    x = x if x > -745.0 else -745.0
    k = (x * _LOG2_E + _ROUND) - _ROUND
    r = ((x - k * _LN2_HIGH) - k * _LN2_MIDDLE) - k * _LN2_LOW
    return _polynomial(r) * _POWERS[np.int64(-k)]


@_jit
def _halve(x, times):
    """``x * 2**-times``."""
    return x * _POWERS[np.int64(times)] if times < 1080.0 else 0.0


# --- sorting --------------------------------------------------------------------------------------


@_jit
def _keep(where, order):
    """Put the indices of kept items first in `order`, the others last; count the kept ones."""
    n = order.size
    kept = 0
    for i in range(where.size):
        kept += where[i] != 0
    if where.size == 0:
        kept = n
    front, back = 0, kept
    for i in range(n):
        if where.size == 0 or where[i]:
            order[front] = i
            front += 1
        else:
            order[back] = i
            back += 1
    return kept


@_jit
def _insertion(keys, order, lo, hi, budget):
    """Sort `keys` in decreasing order, stably, unless that takes more than `budget` moves."""
    for k in range(lo + 1, hi):
        key = keys[k]
        if keys[k - 1] < key:
            item, j = order[k], k
            while j > lo and keys[j - 1] < key:
                keys[j] = keys[j - 1]
                order[j] = order[j - 1]
                j -= 1
            keys[j] = key
            order[j] = item
            budget -= k - j
            if budget < 0:
                return False
    return True


@_jit
def _offsets(count, lo, hi):
    """Turn counts into the places where each bucket starts."""
    total = np.int32(0)
    for b in range(lo, hi):
        here = count[b]
        count[b] = total
        total += here


@_jit
def _bucket_order(values, order, m, low, high, code, spare):
    """Order kept items by decreasing bucket, a monotone linear map of their values; stable.

    One counting pass with at least two buckets an item for short rows, two passes for long ones.
    """
    if m <= _ONE_PASS:
        buckets = 256
        while buckets < 2 * m:
            buckets *= 2
        count = np.zeros(buckets, np.int32)
        scale = (buckets - 1) / (high - low)
        for k in range(m):
            code[k] = np.int64((high - values[order[k]]) * scale)
            count[code[k]] += 1
        _offsets(count, 0, buckets)
        for k in range(m):
            spare[count[code[k]]] = order[k]
            count[code[k]] += 1
        for k in range(m):
            order[k] = spare[k]
        return
    digit = 1 << _DIGIT
    count = np.zeros(2 * digit, np.int32)
    scale = (digit * digit - 1) / (high - low)
    for k in range(m):
        bucket = np.int64((high - values[order[k]]) * scale)
        code[k] = bucket << 32 | order[k]
        count[bucket & digit - 1] += 1
        count[digit + (bucket >> _DIGIT)] += 1
    _offsets(count, 0, digit)
    _offsets(count, digit, 2 * digit)
    for k in range(m):
        at = (code[k] >> 32) & digit - 1
        spare[count[at]] = code[k]
        count[at] += 1
    for k in range(m):
        at = digit + (spare[k] >> 32 + _DIGIT)
        order[count[at]] = spare[k] & 0xFFFFFFFF
        count[at] += 1


@_jit
def _merge_sort(keys, order, m):
    """Sort `keys` in decreasing order, stably, whatever their distribution."""
    run = 16
    for start in range(0, m, run):
        _insertion(keys, order, start, min(start + run, m), run * run)
    source, target = keys, np.empty_like(keys)
    source_item, target_item = order, np.empty_like(order)
    while run < m:
        for start in range(0, m, 2 * run):
            middle, stop = min(start + run, m), min(start + 2 * run, m)
            i, j = start, middle
            for k in range(start, stop):
                left = j >= stop or (i < middle and source[i] >= source[j])
                pick = i if left else j
                target[k] = source[pick]
                target_item[k] = source_item[pick]
                i += left
                j += not left
        source, target = target, source
        source_item, target_item = target_item, source_item
        run *= 2
    for k in range(m):
        keys[k] = source[k]
        order[k] = source_item[k]


@_jit
def _sort(values, where, order, keys, code, spare):
    """Sort the kept `values` in decreasing order, stably.

    Writes the sorting permutation to `order`, kept items first, and the sorted values to `keys`.
    Returns the number of kept items, or -1 where one of them is NaN. A bucket sort over the range
    of the values, finished by an insertion sort; values too unevenly spread for that, and
    infinite ones, go through a merge sort.
    """
    m = _keep(where, order)
    low, high, nan = np.inf, -np.inf, False
    for k in range(m):
        value = float(values[order[k]])
        low = min(low, value)
        high = max(high, value)
        nan |= value != value
    if nan:
        return -1
    if m > 32 and 1e-290 < high - low < np.inf:
        _bucket_order(values, order, m, low, high, code, spare)
    for k in range(m):
        keys[k] = values[order[k]]
    if not _insertion(keys, order, 0, m, _MAX_MOVES * m if m > 32 else m * m):
        _merge_sort(keys, order, m)
    return m


@_jit
def sort_descending(values, where, out, order):
    """Decreasing values, kept items first and zeros after them, and the permutation."""
    n = out.shape[1]
    code, spare = np.empty(n, np.int64), np.empty(n, np.int64)
    for r in range(out.shape[0]):
        m = _sort(_row(values, r), _row(where, r), order[r], out[r], code, spare)
        _fill(out[r], max(m, 0), n, 0.0 if m >= 0 else np.nan)


# --- isotonic regression --------------------------------------------------------------------------
#
# Both solvers pool adjacent violators from left to right. A block is pooled with its left
# neighbour only where it lies strictly below it, so that tied blocks stay apart. They write where
# each block starts, and its sums, to the front of their arrays, and return the number of blocks.


@_jit
def _pool(total, mass, lo, hi, block):
    """Pool blocks of value ``total / mass``."""
    top = lo - 1
    for k in range(lo, hi):
        t, m, start = total[k], mass[k], np.int64(k)
        while top >= lo and total[top] * m > t * mass[top]:
            t += total[top]
            m += mass[top]
            start = np.int64(block[top])
            top -= 1
        top += 1
        total[top], mass[top], block[top] = t, m, start
    return top + 1


@_jit
def _pool_far(y, y_exp, w, w_exp, lo, hi, block):
    """Pool blocks of value ``(y * 2**y_exp) / (w * 2**w_exp)``."""
    top = lo - 1
    for k in range(lo, hi):
        a, a_exp, b, b_exp, start = y[k], y_exp[k], w[k], w_exp[k], np.int64(k)
        while top >= lo:
            gap = (y_exp[top] - w_exp[top]) - (a_exp - b_exp)
            left, right = y[top] * b, a * w[top]
            if not (_halve(left, -gap) > right if gap < 0 else left > _halve(right, gap)):
                break
            a, a_exp = _add(y[top], y_exp[top], a, a_exp)
            b, b_exp = _add(w[top], w_exp[top], b, b_exp)
            start = np.int64(block[top])
            top -= 1
        top += 1
        y[top], y_exp[top], w[top], w_exp[top] = a, a_exp, b, b_exp
        block[top] = start
    return top + 1


@_jit
def _add(a, a_exp, b, b_exp):
    if a_exp >= b_exp:
        return a + _halve(b, a_exp - b_exp), a_exp
    return b + _halve(a, b_exp - a_exp), b_exp


@_jit
def _pool_even(y, minus, lo, hi, total, block):
    """As :func:`_pool`, for unit weights and the targets ``y - minus`` (``y``, if that is empty).

    The mass of a block is the distance from its start to the next, so none is kept. Also tells
    whether a target is NaN.
    """
    top, nan = lo - 1, False
    last, size, first = -np.inf, 1.0, lo  # of the block on top of the stack
    for k in range(lo, hi):
        t, m, start = float(y[k]) - (float(minus[k]) if minus.size else 0.0), 1.0, k
        nan |= t != t
        while last * m > t * size:
            t += last
            m += size
            start = first
            top -= 1
            if top < lo:
                last = -np.inf
                break
            last, first = total[top], np.int64(block[top])
            size = float(start - first)
        top += 1
        total[top], block[top] = t, start
        last, size, first = t, m, start
    return top + 1, nan


@_jit
def isotonic_l2(y, weights, out, block):
    """Increasing isotonic regression, and the place at which each item's block starts."""
    n = out.shape[1]
    even = weights.size == 0
    scratch, mass = np.empty(0 if even and out.itemsize == 8 else n), np.empty(0 if even else n)
    for r in range(out.shape[0]):
        target, weight, starts = _row(y, r), _row(weights, r), block[r]
        total = scratch if scratch.size else out[r].view(np.float64)
        if even:
            blocks, nan = _pool_even(target, weight, 0, n, total, starts)
        else:
            nan = _has_nan(target) or _has_nan(weight)
            for k in range(n):
                mass[k] = weight[k]
                total[k] = target[k] * mass[k]
            blocks = _pool(total, mass, 0, n, starts)
        stop = n
        for b in range(blocks - 1, -1, -1):
            start = np.int64(starts[b])
            value = total[b] / (float(stop - start) if even else mass[b])
            _fill(out[r], start, stop, np.nan if nan else value)
            _fill(starts, start, stop, start)
            stop = start


@_jit
def isotonic_kl(y, w, out, block):
    """Increasing isotonic regression for the KL divergence, and where each block starts."""
    n = out.shape[1]
    y_sum, y_exp, w_sum, w_exp = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for r in range(out.shape[0]):
        target, weight = _row(y, r), _row(w, r)
        nan = _has_nan(target) or _has_nan(weight)
        _exp_parts(target, 0, n, y_sum, y_exp)
        _exp_parts(weight, 0, n, w_sum, w_exp)
        stop = n
        for b in range(_pool_far(y_sum, y_exp, w_sum, w_exp, 0, n, block[r]) - 1, -1, -1):
            start = np.int64(block[r, b])
            gap = y_exp[b] - w_exp[b]
            value = (
                gap * _LN2 + np.log(y_sum[b] / w_sum[b]) if abs(gap) < _INFINITE else gap * np.inf
            )
            if stop == start + 1:
                value = float(target[start]) - float(weight[start])
            _fill(out[r], start, stop, np.nan if nan else value)
            _fill(block[r], start, stop, start)
            stop = start


# --- projections onto the permutahedron -----------------------------------------------------------
#
# With s and w sorted in decreasing order, the solution is s + v, where v is the increasing
# isotonic regression of w - s (L2), or of the pair (w, s) in logarithms (KL). It replaces s.


@_jit
def _solve_l2(s, w, lo, hi, total, block):
    """Write the solution in place of `s`; `block` holds where blocks start until it is done."""
    blocks, _ = _pool_even(w, s, lo, hi, total, block)
    stop = hi
    for b in range(blocks - 1, lo - 1, -1):
        start = block[b]
        anchor, s_sum, w_sum = float(s[start]), 0.0, 0.0
        for k in range(start, stop):
            s_sum += s[k] - anchor
            w_sum += w[k]
        s_mean, w_mean = s_sum / (stop - start), w_sum / (stop - start)
        for k in range(start, stop):
            s[k] = ((s[k] - anchor) - s_mean) + w_mean
            block[k] = start
        stop = start


@_jit
def _exp_row(x, lo, hi, near, mantissa, exponent):
    """Exponentials of decreasing x: relative to the first where they are near, else as pairs."""
    if near:
        for k in range(lo, hi):
            mantissa[k] = _exp(float(x[k]) - float(x[lo]))
    else:
        _exp_parts(x, lo, hi, mantissa, exponent)


@_jit
def _mantissa(x, lo, k, near):
    """What :func:`_exp_row` writes for item k."""
    return _exp(float(x[k]) - float(x[lo])) if near else _exp_part(float(x[k]))[0]


@_jit
def _solve_kl(s, w, lo, hi, primal, w_sum, s_sum, w_exp, s_exp, block):
    """Write the solution, where `primal`, or, of the logarithm of w, its logarithm."""
    if lo == hi:
        return
    near = (s[lo] - s[hi - 1]) + (0.0 if primal else w[lo] - w[hi - 1]) < _NEAR
    _exp_row(s, lo, hi, near, s_sum, s_exp)
    if primal:
        scale = 1.0 / w[lo] if w[lo] > 0 else 1.0
        for k in range(lo, hi):
            w_sum[k] = w[k] * scale
        if not near:
            _fill(w_exp, lo, hi, 0.0)
    else:
        _exp_row(w, lo, hi, near, w_sum, w_exp)
    if near:
        blocks = _pool(w_sum, s_sum, lo, hi, block)
    else:
        blocks = _pool_far(w_sum, w_exp, s_sum, s_exp, lo, hi, block)
    stop = hi
    for b in range(blocks - 1, lo - 1, -1):
        start = np.int64(block[b])
        if stop == start + 1:
            s[start] = w[start]
        else:
            s_total = s_sum[b] / _mantissa(s, lo, start, near)
            w_total = 1.0 if primal else w_sum[b] / _mantissa(w, lo, start, near)
            _write_kl(s, w, start, stop, primal, w_total, s_total)
        _fill(block, start, stop, start)
        stop = start


@_jit
def _write_kl(s, w, start, stop, primal, w_total, s_total):
    """Solution on a block; its sums, of exponentials, are relative to its first item."""
    anchor = float(s[start])
    if primal:
        total = 0.0
        for k in range(start, stop):
            total += w[k]
        total /= s_total
        for k in range(start, stop):
            s[k] = _exp(float(s[k]) - anchor) * total
    else:
        shift = (np.log(w_total) + float(w[start])) - np.log(s_total)
        for k in range(start, stop):
            s[k] = (s[k] - anchor) + shift


@_jit
def _tie(s, w, lo, hi, log, block):
    """Freeze tied infinite items at the mean of their `w` (of its exponential, where `log`)."""
    total = 0.0
    for k in range(lo, hi):
        total += np.exp(w[k] - w[lo] if w[k] != w[lo] else 0.0) if log else w[k]
    for k in range(lo, hi):
        s[k] = w[lo] + np.log(total / (hi - lo)) if log else total / (hi - lo)
        block[k] = -1 - lo


@_jit
def _solve(s, w, m, how, w_sum, s_sum, w_exp, s_exp, block):
    head, tail = 0, m
    while head < m and s[head] == np.inf:
        head += 1
    while tail > head and s[tail - 1] == -np.inf:
        tail -= 1
    _tie(s, w, 0, head, how == 1, block)
    _tie(s, w, tail, m, how == 1, block)
    if how == 0:
        _solve_l2(s, w, head, tail, w_sum, block)
    else:
        _solve_kl(s, w, head, tail, how == 2, w_sum, s_sum, w_exp, s_exp, block)


@_jit
def project(theta, w, where, flags, out, order, block):
    """Project onto the permutahedron, and return the partition too.

    ``flags = (how, items)``. `how` is 0 for L2, 1 for KL in logarithms, of `w` and of the
    solution, and 2 for KL itself. Where `items`, theta is to be sorted and w is decreasing, and
    the solution lies in the order of theta. Otherwise theta is decreasing and w is to be sorted,
    and the solution lies in sorted order. Blocks of infinite and of dropped items are frozen:
    their start is -1 - k instead of k.
    """
    how, items = flags[0, 0], flags[0, 1] != 0
    n = out.shape[1]
    keys, code = np.empty(n, out.dtype), np.empty(n, np.int64)
    w_sum, more = code.view(np.float64), n if how else 0
    s_sum, w_exp, s_exp = np.empty(more), np.empty(more), np.empty(more)
    spare_code = np.empty(0 if out.itemsize == 8 else n, np.int64)
    for r in range(out.shape[0]):
        unsorted = _row(theta, r) if items else _row(w, r)
        other = _row(w, r) if items else _row(theta, r)
        result, item = out[r], order[r]
        spare = result.view(np.int64) if out.itemsize == 8 else spare_code
        m = _sort(unsorted, _row(where, r), item, keys, code, spare)
        if m < 0 or _has_nan(other):
            _fill(result, 0, n, np.nan)
            _fill(block[r], 0, n, 0)
            continue
        _fill(block[r], m, n, -1 - m)
        if items:
            _solve(keys, other, m, how, w_sum, s_sum, w_exp, s_exp, block[r])
            for k in range(n):
                result[item[k]] = keys[k] if k < m else 0.0
        else:
            for k in range(n):
                result[k] = other[k] if k < m else 0.0
            _solve(result, keys, m, how, w_sum, s_sum, w_exp, s_exp, block[r])


# --- within the blocks of a partition -------------------------------------------------------------
#
# Data lie either in the order of the items or in sorted order; `flags` says which, for the operand
# and for the result. Item `order[k]` has place k, and `block[k]` is where the block of k starts, or
# -1 less that for a frozen block, whose members do not move.


@_jit
def _end(block, lo):
    hi = lo + 1
    while hi < block.size and block[hi] == block[lo]:
        hi += 1
    return hi


@_jit
def _take(x, order, items, out):
    """Copy x, from the order of items to that of places where `items`."""
    for k in range(out.size):
        out[k] = x[order[k] if items else k]


@_jit
def _put(x, order, items, out):
    """Undo :func:`_take`."""
    for k in range(out.size):
        out[order[k] if items else k] = x[k]


@_jit
def block_sum(x, order, block, flags, out):
    """Reduce each block and repeat the result for each of its members.

    ``flags[2]`` says how: 0 is the sum, 1 the mean, 2 the difference from the mean, which is zero
    in a frozen block.
    """
    from_items, to_items, how = flags[0, 0], flags[0, 1], flags[0, 2]
    n = out.shape[1]
    places = np.empty(n, out.dtype)
    for r in range(out.shape[0]):
        item, start = _row(order, r), _row(block, r)
        _take(_row(x, r), item, from_items, places)
        lo = 0
        while lo < n:
            hi, total = _end(start, lo), 0.0
            if hi == lo + 1:
                if how == 2:
                    places[lo] = 0.0
                lo = hi
                continue
            for k in range(lo, hi):
                total += places[k]
            if how > 0:
                total /= hi - lo
            frozen = start[lo] < 0
            for k in range(lo, hi):
                value = total
                if how == 2:
                    value = 0.0 if frozen else places[k] - total
                places[k] = value
            lo = hi
        _put(places, item, to_items, out[r])


@_jit
def block_expect(x, z, order, block, flags, out):
    """Mean of x over each block under the softmax of z there, or the transpose of that map.

    ``flags = (z_items, other_items, transposed)``. The map takes x in the order of z, and gives
    the mean, repeated for each member, in the other; the transpose takes and gives the reverse.
    """
    z_items, other_items, transposed = flags[0, 0], flags[0, 1], flags[0, 2]
    n = out.shape[1]
    share, places = np.empty(n), np.empty(n, out.dtype)
    for r in range(out.shape[0]):
        item, start = _row(order, r), _row(block, r)
        _take(_row(z, r), item, z_items, share)
        _take(_row(x, r), item, other_items if transposed else z_items, places)
        lo = 0
        while lo < n:
            hi = _end(start, lo)
            if hi == lo + 1:
                lo = hi
                continue
            high, mass, total = share[lo], 0.0, 0.0
            for k in range(lo, hi):
                high = max(high, share[k])
            for k in range(lo, hi):
                share[k] = _exp(share[k] - high if share[k] != high else 0.0)
            for k in range(lo, hi):
                mass += share[k]
                total += places[k] if transposed else share[k] * places[k]
            total /= mass
            for k in range(lo, hi):
                places[k] = share[k] * total if transposed else total
            lo = hi
        _put(places, item, z_items if transposed else other_items, out[r])


@_jit
def block_tilt(x, mu, order, block, out):
    """``mu * (x - <mu, x> / sum(mu))`` in each block, in the order of items; frozen blocks zero."""
    n = out.shape[1]
    masses, places = np.empty(n, out.dtype), np.empty(n, out.dtype)
    for r in range(out.shape[0]):
        item, start = _row(order, r), _row(block, r)
        _take(_row(mu, r), item, True, masses)
        _take(_row(x, r), item, True, places)
        lo = 0
        while lo < n:
            hi, dot, mass = _end(start, lo), 0.0, 0.0
            if hi == lo + 1:
                places[lo] = 0.0
                lo = hi
                continue
            for k in range(lo, hi):
                dot += masses[k] * places[k]
                mass += masses[k]
            still = start[lo] < 0 or mass == 0
            for k in range(lo, hi):
                places[k] = 0.0 if still else masses[k] * (places[k] - dot / mass)
            lo = hi
        _put(places, item, True, out[r])
