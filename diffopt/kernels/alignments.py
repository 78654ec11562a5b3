"""Sums over all alignments of two series, for the CPU, compiled by numba.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. Two kinds of kernels run the sweeps
of :mod:`diffopt.kernels.sweeps`: on a table of costs, and on two series with the squared Euclidean
cost, which is computed on the way, so that no table is read or written. Series are kept by
feature, the second one reversed: then the costs of a diagonal are of adjacent points. What lies
outside is infinitely far away. Columns at both ends of a strip whose costs are all infinite are
left out, so a band saves time.
"""

import numpy as np

from diffopt.kernels.native import _INFINITE, _LN2
from diffopt.kernels.sweeps import (
    AHEAD,
    CELLS,
    LANES,
    PAD,
    PART,
    fused,
    get,
    kept_strips,
    make_backward,
    make_forward,
    put,
    slot_size,
    workspace,
)

# --- tables -------------------------------------------------------------------------------------


def _make_fill_table(curve):
    @fused
    def fill(source, place, d, rate, weight):
        costs, direction, m = source
        row, rows, first, width, _ = place
        base = row * m + first + d
        if rows == LANES and d >= LANES - 1 and d + AHEAD <= width:
            for t in range(AHEAD):
                for i in range(LANES):
                    x = -float(costs[base + t + i * (m - 1)]) * rate
                    weight[t * LANES + i] = x
                    if curve:
                        s = float(direction[base + t + i * (m - 1)])
                        weight[2 * CELLS + t * LANES + i] = s if x > -_INFINITE else 0.0
        else:
            for t in range(AHEAD):
                for i in range(LANES):
                    x, s = -_INFINITE, 0.0
                    if i < rows and 0 <= d + t - i < width:
                        x = -float(costs[base + t + i * (m - 1)]) * rate
                        if curve and x > -_INFINITE:
                            s = float(direction[base + t + i * (m - 1)])
                    weight[t * LANES + i] = x
                    if curve:
                        weight[2 * CELLS + t * LANES + i] = s

    return fill


@fused
def _window_of_table(source, row, rows):
    """First column, and number of columns, outside of which the costs of a strip are infinite."""
    costs, _, m = source
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


def _make_emit_table(curve):
    @fused
    def emit(source, sink, place, d, state):
        m = source[2]
        row, rows, first, width, _ = place
        base = row * m + first + d
        for i in range(max(0, d - width + 1), min(rows, d + 1)):
            sink[base + i * (m - 1)] = state[320 + i] if curve else min(state[i], 1.0)

    return emit


# --- series -------------------------------------------------------------------------------------


def _make_fill_series(curve):
    @fused
    def fill(source, place, d, rate, weight):
        xs, ys, m, features = source
        for i in range(CELLS):
            weight[i] = 0.0
        for f in range(features):
            p = xs.size // features * f + place[0]
            q = ys.size // features * f + PAD + m - 1 - d
            for t in range(AHEAD):
                for i in range(LANES):
                    gap = get(xs, p + i) - get(ys, q - t + i)
                    weight[t * LANES + i] += gap * gap
        for i in range(CELLS):
            x = -weight[i] * rate
            weight[i] = x if x > -_INFINITE else -_INFINITE  # also where x is not a number
            if curve:
                weight[2 * CELLS + i] = -x if x > -_INFINITE else 0.0

    return fill


@fused
def _window_of_series(source, row, rows):
    return 0, source[2]


def _make_emit_series(curve):
    """Add up gradients: in x by lane, in y reversed; then the cost, and its derivative."""

    @fused
    def emit(source, sink, place, d, state):
        xs, ys, m, features = source
        gx, gy, total = sink
        lanes = place[4]
        for f in range(features):
            p = xs.size // features * f + place[0]
            q = ys.size // features * f + PAD + m - 1 - d
            for i in range(lanes):  # few arrays a loop, or it does not vectorise
                e = state[i]
                gap = get(xs, p + i) - get(ys, q + i)
                gap = gap if e > 0.0 else 0.0
                change = state[320 + i] if curve else 0.0
                state[640 + i] = (e + change) * gap
                state[656 + i] = e * (gap * gap)
                state[672 + i] = change * (gap * gap)
            for i in range(lanes):
                total[i] += state[656 + i]
                if curve:
                    total[LANES + i] += state[672 + i]
            for i in range(lanes):
                put(gx, p + i, get(gx, p + i) + state[640 + i])
            for i in range(lanes):
                put(gy, q + i, get(gy, q + i) - state[640 + i])

    return emit


@fused
def _load(x, n, features, reverse, pad, out):
    """Copy a series by feature, among infinities."""
    size = out.size // features
    for i in range(out.size):
        out[i] = np.inf
    for f in range(features):
        for i in range(n):
            out[f * size + pad + (n - 1 - i if reverse else i)] = float(x[i * features + f])


@fused
def _no_number(x, y, n, m, features):
    """Whether a cost is not a number."""
    nan, far_x, far_y = 0, 0, 0
    for i in range(n * features):
        nan += x[i] != x[i]
        far_x += abs(x[i]) == np.inf
    for j in range(m * features):
        nan += y[j] != y[j]
        far_y += abs(y[j]) == np.inf
    if nan == 0 and far_x > 0 and far_y > 0:
        for i in range(n * features):
            for j in range(i % features, m * features, features):
                gap = x[i] - y[j]
                nan += gap != gap
    return nan > 0


@fused
def _costs_of_series(x, y, n, m, features):
    costs = np.zeros(n * m)
    for i in range(n):
        for j in range(m):
            for f in range(features):
                costs[i * m + j] += (float(x[i * features + f]) - float(y[j * features + f])) ** 2
    return costs


# --- the hard minimum ---------------------------------------------------------------------------


@fused
def _any_nan(costs):
    count = 0
    for k in range(costs.size):
        count += costs[k] != costs[k]
    return count > 0


@fused
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


@fused
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


# --- the kernels --------------------------------------------------------------------------------

_table, _table_curve = _make_fill_table(False), _make_fill_table(True)
_series, _series_curve = _make_fill_series(False), _make_fill_series(True)
_, _forward_table = make_forward(_table, _window_of_table, False)
_, _forward_curve = make_forward(_table_curve, _window_of_table, True)
_, _forward_series = make_forward(_series, _window_of_series, False)
_, _forward_sharp = make_forward(_series_curve, _window_of_series, True)
_backward_table = make_backward(_table, _window_of_table, _make_emit_table(False), False)
_backward_curve = make_backward(_table_curve, _window_of_table, _make_emit_table(True), True)
_backward_series = make_backward(_series, _window_of_series, _make_emit_series(False), False)
_backward_sharp = make_backward(_series_curve, _window_of_series, _make_emit_series(True), True)


@fused
def _lanes(flags):
    """Number of lanes, hidden from the compiler: it would unroll short loops, not vectorise."""
    return LANES * flags.shape[0]


@fused
def _pick(operand, r):
    return operand[r if operand.shape[0] > 1 else 0]


@fused
def _value(total, total_exp, gamma):
    return -gamma * (total_exp * _LN2 + np.log(total)) if total_exp > -1e299 else np.inf


@fused
def alignment_value(gamma, costs, flags, out):
    """Soft minimum over alignments of the sum of costs; flags: the sizes of the two series."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    lanes = _lanes(flags)
    work, sums, dist = workspace(m, 2, 0), np.empty((2, 2, m + PAD)), np.empty((1, m))
    for r in range(out.shape[0]):
        cost, g = _pick(costs, r), float(_pick(gamma, r)[0])
        if _any_nan(cost):
            out[r, 0] = np.nan
        elif g == 0:
            out[r, 0] = _shortest(cost, n, m, dist)
        else:
            end = _forward_table((cost, cost, m), n, lanes, 1.0 / g, sums, work, 0, 0, 0)
            out[r, 0] = _value(sums[0, end, m - 1], sums[1, end, m - 1], g)


@fused
def alignment_mean(table, gamma, flags, out, value):
    """Mean alignment, and the value."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    lanes = _lanes(flags)
    strips, kept = (n + LANES - 1) // LANES, kept_strips(n, m, 2)
    slot, step = slot_size(m, 2), 2 * PART
    work, sums = workspace(m, 2, kept), np.empty((2, strips + 1, m + PAD))
    for r in range(out.shape[0]):
        costs, mean, g = _pick(table, r), out[r], float(_pick(gamma, r)[0])
        bad = _any_nan(costs)
        for c in range(n * m):
            mean[c] = np.nan if bad else 0.0
        if bad:
            value[r, 0] = np.nan
        elif g == 0:
            dist = np.empty((n, m))
            value[r, 0] = _shortest(costs, n, m, dist)
            if value[r, 0] < np.inf:
                _trace(dist, n, m, mean)
        else:
            source, rate = (costs, costs, m), 1.0 / g
            _forward_table(source, n, lanes, rate, sums, work, kept, slot, step)
            value[r, 0] = _value(sums[0, strips, m - 1], sums[1, strips, m - 1], g)
            if value[r, 0] < np.inf:
                _backward_table(source, mean, n, m, lanes, rate, sums, work, kept, slot, step)


@fused
def alignment_curve(direction, table, flags, out):
    """Derivative of the mean alignment at gamma = 1, in a direction of the costs."""
    n, m = np.int64(flags[0, 0]), np.int64(flags[0, 1])
    lanes = _lanes(flags)
    strips, kept = (n + LANES - 1) // LANES, kept_strips(n, m, 3)
    slot, step = slot_size(m, 3), 3 * PART
    work, sums = workspace(m, 3, kept), np.zeros((3, strips + 1, m + PAD))
    for r in range(out.shape[0]):
        costs, mean = _pick(table, r), out[r]
        source = costs, _pick(direction, r), m
        bad = _any_nan(costs)
        for c in range(n * m):
            mean[c] = np.nan if bad else 0.0
        if bad:
            continue
        _forward_curve(source, n, lanes, 1.0, sums, work, kept, slot, step)
        if sums[1, strips, m - 1] > -1e299:
            _backward_curve(source, mean, n, m, lanes, 1.0, sums, work, kept, slot, step)


@fused
def _sizes(x, y, lengths, flags, r):
    """How many points of two series count, and their features."""
    features = np.int64(flags[0, 0])
    ends = _pick(lengths, r)
    n = min(max(np.int64(ends[0]), 1), x.shape[1] // features)
    m = min(max(np.int64(ends[1]), 1), y.shape[1] // features)
    return n, m, features


@fused
def series_value(gamma, x, y, lengths, flags, out):
    """Soft minimum over alignments of two series, for the squared Euclidean cost."""
    _, _, features = _sizes(x, y, lengths, flags, 0)
    lanes = _lanes(flags)
    n_most, m_most = x.shape[1] // features, y.shape[1] // features
    work, sums = workspace(m_most, 2, 0), np.empty((2, 2, m_most + PAD))
    xs, ys = np.empty(features * (n_most + LANES)), np.empty(features * (m_most + 2 * PAD))
    for r in range(out.shape[0]):
        n, m, _ = _sizes(x, y, lengths, flags, r)
        a, b, g = _pick(x, r), _pick(y, r), float(_pick(gamma, r)[0])
        if _no_number(a, b, n, m, features):
            out[r, 0] = np.nan
        elif g == 0:
            out[r, 0] = _shortest(_costs_of_series(a, b, n, m, features), n, m, np.empty((1, m)))
        else:
            _load(a, n, features, False, 0, xs)
            _load(b, m, features, True, PAD, ys)
            end = _forward_series((xs, ys, m, features), n, lanes, 1.0 / g, sums, work, 0, 0, 0)
            out[r, 0] = _value(sums[0, end, m - 1], sums[1, end, m - 1], g)


@fused
def _hard_slope(a, b, n, m, features, gx, gy):
    """DTW and its gradients."""
    costs, dist, path = _costs_of_series(a, b, n, m, features), np.empty((n, m)), np.zeros(n * m)
    value = _shortest(costs, n, m, dist)
    if value < np.inf:
        _trace(dist, n, m, path)
        for i in range(n):
            for j in range(m):
                if path[i * m + j] > 0:
                    for f in range(features):
                        gap = 2 * (float(a[i * features + f]) - float(b[j * features + f]))
                        gx[i * features + f] += gap
                        gy[j * features + f] -= gap
    return value


def _make_slope(curve, forward, backward):
    parts = 3 if curve else 2

    @fused
    def slope(x, y, gamma, lengths, flags, first, second, gx, gy):
        _, _, features = _sizes(x, y, lengths, flags, 0)
        lanes = _lanes(flags)
        n_most, m_most = x.shape[1] // features, y.shape[1] // features
        kept = kept_strips(n_most, m_most, parts)
        slot, step = slot_size(m_most, parts), parts * PART
        work = workspace(m_most, parts, kept)
        sums = np.zeros((parts, (n_most + LANES - 1) // LANES + 1, m_most + PAD))
        xs, ys = np.empty(features * (n_most + LANES)), np.empty(features * (m_most + 2 * PAD))
        dx, dy, total = np.empty(xs.size), np.empty(ys.size), np.empty(2 * LANES)
        for r in range(first.shape[0]):
            n, m, _ = _sizes(x, y, lengths, flags, r)
            a, b, g = _pick(x, r), _pick(y, r), float(_pick(gamma, r)[0])
            bad = _no_number(a, b, n, m, features)
            for i in range(x.shape[1]):
                gx[r, i] = np.nan if bad and i < n * features else 0.0
            for j in range(y.shape[1]):
                gy[r, j] = np.nan if bad and j < m * features else 0.0
            if bad:
                first[r, 0], second[r, 0] = np.nan, np.nan
                continue
            if g == 0:
                first[r, 0] = _hard_slope(a, b, n, m, features, gx[r], gy[r])
                second[r, 0] = 0.0 if curve else first[r, 0]
                continue
            _load(a, n, features, False, 0, xs)
            _load(b, m, features, True, PAD, ys)
            source, rate, strips = (xs, ys, m, features), 1.0 / g, (n + LANES - 1) // LANES
            keep = min(kept, strips)
            borders = sums[:, : strips + 1]
            forward(source, n, lanes, rate, borders, work, keep, slot, step)
            value = _value(borders[0, strips, m - 1], borders[1, strips, m - 1], g)
            first[r, 0], second[r, 0] = value, 0.0 if curve else value
            if value == np.inf:
                continue
            for i in range(dx.size):
                dx[i] = 0.0
            for i in range(dy.size):
                dy[i] = 0.0
            for i in range(total.size):
                total[i] = 0.0
            backward(source, (dx, dy, total), n, m, lanes, rate, borders, work, keep, slot, step)
            cost, change = 0.0, 0.0
            for i in range(LANES):
                cost += total[i]
                change += total[LANES + i]
            if curve:
                first[r, 0], second[r, 0] = cost, change
            else:
                second[r, 0] = cost
            for f in range(features):
                for i in range(n):
                    gx[r, i * features + f] = 2 * dx[f * (n_most + LANES) + i]
                for j in range(m):
                    gy[r, j * features + f] = 2 * dy[f * (m_most + 2 * PAD) + PAD + m - 1 - j]

    return slope


_soft_slope = _make_slope(False, _forward_series, _backward_series)
_sharp_slope = _make_slope(True, _forward_sharp, _backward_sharp)


@fused
def series_slope(x, y, gamma, lengths, flags, value, sharp, gx, gy):
    """Value, mean cost of alignments, and gradients of the value."""
    _soft_slope(x, y, gamma, lengths, flags, value, sharp, gx, gy)


@fused
def series_sharp_slope(x, y, gamma, lengths, flags, sharp, change, gx, gy):
    """Mean cost of alignments, minus gamma times its derivative in gamma, and gradients."""
    _sharp_slope(x, y, gamma, lengths, flags, sharp, change, gx, gy)
