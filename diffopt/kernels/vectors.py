"""Vectors and triangular systems, for kernels compiled by numba.

Loops, not expressions: they compile faster, and allocate nothing. Views, not offsets, let them be
vectorised. A function that allocates nothing is compiled by `_leaf`, without counting references:
every argument that is an array, or holds some, would otherwise cost two atomic operations a call,
more than the work on one coordinate.
"""

import math

import numba
import numpy as np

_bare = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_jit = numba.njit(**_bare)
# Put into the caller before it is compiled: every level of calls has its callees optimised anew.
_inline = numba.njit(error_model="numpy", inline="always")
_leaf = numba.njit(_nrt=False, **_bare)
_fast = numba.njit(_nrt=False, fastmath={"reassoc", "contract", "nsz"}, **_bare)

_JITTER = 1e-13  # relative, on the diagonal of what is factorised


@_fast
def _dot(x, y):
    total = 0.0
    for k in range(x.size):
        total += x[k] * y[k]
    return total


@_fast
def _sum(x):
    total = 0.0
    for k in range(x.size):
        total += x[k]
    return total


@_leaf
def _copy(x, out):
    """Copy x to the front of `out`."""
    for k in range(x.size):
        out[k] = x[k]


@_leaf
def _fill(out, value):
    for k in range(out.size):
        out[k] = value


@_jit
def _where(mask, size):
    """The places below `size` where a mask is not zero."""
    count = 0
    for j in range(size):
        count += mask[j] != 0
    places = np.empty(count, np.int64)
    count = 0
    for j in range(size):
        if mask[j] != 0:
            places[count] = j
            count += 1
    return places


@_fast
def _eight_dots(a, b, c, d, x, y):
    """Products of four vectors with two."""
    p = q = r = s = t = u = v = w = 0.0
    for k in range(x.size):
        p += a[k] * x[k]
        q += b[k] * x[k]
        r += c[k] * x[k]
        s += d[k] * x[k]
        t += a[k] * y[k]
        u += b[k] * y[k]
        v += c[k] * y[k]
        w += d[k] * y[k]
    return p, q, r, s, t, u, v, w


@_fast
def _weighted_square(x, d):
    total = 0.0
    for k in range(x.size):
        total += d[k] * x[k] * x[k]
    return total


@_fast
def _add_weighted(step, d, x, out):
    for k in range(x.size):
        out[k] += step * d[k] * x[k]


@_fast
def _add(step, x, out):
    for k in range(x.size):
        out[k] += step * x[k]


@_fast
def _add_four(a, b, c, d, w, x, y, z, out):
    for k in range(w.size):
        out[k] += (a * w[k] + b * x[k]) + (c * y[k] + d * z[k])


@_leaf
def _pivot(square, diagonal):
    """Root of what is left of a diagonal entry; a direction without curvature gets no step."""
    return math.sqrt(square) if square > _JITTER * diagonal else 1e150


@_leaf
def _cholesky(A, m):
    """Factorise a matrix in place, below the diagonal, by pairs of columns and fours of rows."""
    for j in range(0, m, 2):
        x = A[j * m : j * m + j]
        A[j * m + j] = f = _pivot(A[j * m + j] - _dot(x, x), A[j * m + j])
        if j + 1 == m:
            break
        y = A[j * m + m : j * m + m + j]
        e = (A[j * m + m + j] - _dot(x, y)) / f
        A[j * m + m + j] = e
        diagonal = A[j * m + m + j + 1]
        A[j * m + m + j + 1] = g = _pivot(diagonal - _dot(y, y) - e * e, diagonal)
        i = j + 2
        while i + 4 <= m:
            a, b, c, d = i * m, i * m + m, i * m + 2 * m, i * m + 3 * m
            k, l, o, q, r, s, t, u = _eight_dots(
                A[a : a + j], A[b : b + j], A[c : c + j], A[d : d + j], x, y
            )
            for at, left, right in ((a + j, k, r), (b + j, l, s), (c + j, o, t), (d + j, q, u)):
                A[at] = (A[at] - left) / f
                A[at + 1] = (A[at + 1] - right - A[at] * e) / g
            i += 4
        while i < m:
            at, z = i * m + j, A[i * m : i * m + j]
            A[at] = (A[at] - _dot(z, x)) / f
            A[at + 1] = (A[at + 1] - _dot(z, y) - A[at] * e) / g
            i += 1


@_leaf
def _substitute(A, m, x):
    """Solve with the factor and its transpose, in place."""
    for i in range(m):
        x[i] = (x[i] - _dot(A[i * m : i * m + i], x[:i])) / A[i * m + i]
    for i in range(m - 1, -1, -1):
        x[i] /= A[i * m + i]
        _add(-x[i], A[i * m : i * m + i], x[:i])
