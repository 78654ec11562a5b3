"""Sequential cores for the CPU, compiled by numba: sort, pool, unsort, row by row.

Each kernel takes its operands, static flags if it has any, then its results, as two-dimensional
arrays ``(rows, n)``; an operand that all rows share has one row. Imported by
:mod:`diffopt.kernels.bridge` alone, when a kernel is first used, so that importing ``diffopt``
does not import numba. Loops are explicit and bounds are arguments, because slices are slow to
compile. Sums are carried in double precision whatever the type of the data.
"""

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
# each block starts to `first`, its sums to the other arrays, and return the number of blocks.


@_jit
def _pool_l2(y, weights, lo, hi, first, total, mass):
    top = -1
    for k in range(lo, hi):
        m = float(weights[k]) if weights.size else 1.0
        t, start = y[k] * m, k
        while top >= 0 and total[top] * m > t * mass[top]:
            t += total[top]
            m += mass[top]
            start = first[top]
            top -= 1
        top += 1
        total[top], mass[top], first[top] = t, m, start
    first[top + 1] = hi
    return top + 1


@_jit
def _pool_kl(y, w, lo, hi, first, sums):
    """A block has ``LSE(y) = sums[0] + log(sums[1])`` and ``LSE(w) = sums[2] + log(sums[3])``."""
    top = -1
    for k in range(lo, hi):
        y_max, y_sum, w_max, w_sum, start = float(y[k]), 1.0, float(w[k]), 1.0, k
        while top >= 0:
            gap = (sums[0, top] - sums[2, top]) - (y_max - w_max)
            if not sums[1, top] * w_sum * np.exp(gap) > y_sum * sums[3, top]:
                break
            y_max, y_sum = _log_add(sums[0, top], sums[1, top], y_max, y_sum)
            w_max, w_sum = _log_add(sums[2, top], sums[3, top], w_max, w_sum)
            start = first[top]
            top -= 1
        top += 1
        sums[0, top], sums[1, top], sums[2, top], sums[3, top] = y_max, y_sum, w_max, w_sum
        first[top] = start
    first[top + 1] = hi
    return top + 1


@_jit
def _log_add(max1, sum1, max2, sum2):
    if max1 >= max2:
        return max1, sum1 + sum2 * np.exp(max2 - max1)
    return max2, sum2 + sum1 * np.exp(max1 - max2)


@_jit
def isotonic_l2(y, weights, out, block):
    """Increasing isotonic regression, and the place at which each item's block starts."""
    n = out.shape[1]
    first, sums = np.empty(n + 1, np.int64), np.empty((2, n))
    for r in range(out.shape[0]):
        target, weight = _row(y, r), _row(weights, r)
        nan = _has_nan(target) or _has_nan(weight)
        for b in range(_pool_l2(target, weight, 0, n, first, sums[0], sums[1])):
            value = np.nan if nan else sums[0, b] / sums[1, b]
            _fill(out[r], first[b], first[b + 1], value)
            _fill(block[r], first[b], first[b + 1], first[b])


@_jit
def isotonic_kl(y, w, out, block):
    """Increasing isotonic regression for the KL divergence, and where each block starts."""
    n = out.shape[1]
    first, sums = np.empty(n + 1, np.int64), np.empty((4, n))
    for r in range(out.shape[0]):
        target, weight = _row(y, r), _row(w, r)
        nan = _has_nan(target) or _has_nan(weight)
        for b in range(_pool_kl(target, weight, 0, n, first, sums)):
            value = (sums[0, b] - sums[2, b]) + np.log(sums[1, b] / sums[3, b])
            _fill(out[r], first[b], first[b + 1], np.nan if nan else value)
            _fill(block[r], first[b], first[b + 1], first[b])


# --- projections onto the permutahedron -----------------------------------------------------------
#
# With s and w sorted in decreasing order, the solution is s + v, where v is the increasing
# isotonic regression of w - s (L2), or of the pair (w, s) in logarithms (KL). It replaces s.


@_jit
def _solve_l2(s, w, lo, hi, total, block):
    """As :func:`_pool_l2` with unit weights; `block` holds where blocks start until it is done."""
    top = -1
    for k in range(lo, hi):
        t, start = float(w[k]) - float(s[k]), k
        while top >= 0 and total[top] * (k + 1 - start) > t * (start - block[lo + top]):
            t += total[top]
            start = block[lo + top]
            top -= 1
        top += 1
        total[top], block[lo + top] = t, start
    stop = hi
    for b in range(top, -1, -1):
        start = block[lo + b]
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
def _solve_kl(s, log_w, w, lo, hi, primal, first, sums, block):
    """Write the logarithm of the solution, or, where `primal`, the solution itself."""
    for b in range(_pool_kl(log_w, s, lo, hi, first, sums)):
        start, stop = first[b], first[b + 1]
        s_log, w_log, w_sum = np.log(sums[3, b]), np.log(sums[1, b]), 0.0
        if primal:
            for k in range(start, stop):
                w_sum += w[k]
        for k in range(start, stop):
            share = (s[k] - sums[2, b]) - s_log
            s[k] = np.exp(share) * w_sum if primal else share + (sums[0, b] + w_log)
            block[k] = start


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
def _solve(s, w, m, how, scratch, first, sums, block):
    head, tail = 0, m
    while head < m and s[head] == np.inf:
        head += 1
    while tail > head and s[tail - 1] == -np.inf:
        tail -= 1
    _tie(s, w, 0, head, how == 1, block)
    _tie(s, w, tail, m, how == 1, block)
    if how == 0:
        _solve_l2(s, w, head, tail, scratch, block)
        return
    for k in range(head, tail):
        scratch[k] = np.log(w[k]) if how == 2 else w[k]
    _solve_kl(s, scratch, w, head, tail, how == 2, first, sums, block)


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
    scratch = np.empty(0 if out.itemsize == 8 else n, np.int64)
    first, sums = np.empty(n + 1 if how else 0, np.int64), np.empty((4, n if how else 0))
    for r in range(out.shape[0]):
        unsorted = _row(theta, r) if items else _row(w, r)
        other = _row(w, r) if items else _row(theta, r)
        result, item = out[r], order[r]
        spare = result.view(np.int64) if out.itemsize == 8 else scratch
        m = _sort(unsorted, _row(where, r), item, keys, code, spare)
        if m < 0 or _has_nan(other):
            _fill(result, 0, n, np.nan)
            _fill(block[r], 0, n, 0)
            continue
        _fill(block[r], m, n, -1 - m)
        if items:
            _solve(keys, other, m, how, code.view(np.float64), first, sums, block[r])
            for k in range(n):
                result[item[k]] = keys[k] if k < m else 0.0
        else:
            for k in range(n):
                result[k] = other[k] if k < m else 0.0
            _solve(result, keys, m, how, code.view(np.float64), first, sums, block[r])


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
def block_sum(x, order, block, flags, out):
    """Reduce each block and repeat the result for each of its members.

    ``flags[2]`` says how: 0 is the sum, 1 the mean, 2 the difference from the mean, which is zero
    in a frozen block.
    """
    from_items, to_items, how = flags[0, 0], flags[0, 1], flags[0, 2]
    n = out.shape[1]
    for r in range(out.shape[0]):
        source, item, start, target = _row(x, r), _row(order, r), _row(block, r), out[r]
        lo = 0
        while lo < n:
            hi, total = _end(start, lo), 0.0
            for k in range(lo, hi):
                total += source[item[k] if from_items else k]
            if how > 0:
                total /= hi - lo
            for k in range(lo, hi):
                at = item[k] if to_items else k
                if how < 2:
                    target[at] = total
                else:
                    target[at] = source[at] - total if start[lo] >= 0 else 0.0
            lo = hi


@_jit
def block_softmax(x, order, block, flags, out):
    """Softmax within each block, operand and result in the same order."""
    items = flags[0, 0]
    n = out.shape[1]
    for r in range(out.shape[0]):
        source, item, start, target = _row(x, r), _row(order, r), _row(block, r), out[r]
        lo = 0
        while lo < n:
            hi, high, total = _end(start, lo), -np.inf, 0.0
            for k in range(lo, hi):
                high = max(high, source[item[k] if items else k])
            for k in range(lo, hi):
                at = item[k] if items else k
                share = np.exp(source[at] - high) if source[at] != high else 1.0
                target[at] = share
                total += share
            for k in range(lo, hi):
                target[item[k] if items else k] /= total
            lo = hi
