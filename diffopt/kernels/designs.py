"""Designs for kernels compiled by numba: dense, or compressed columns.

A dense design is read by rows; columns that are needed often are copied once, side by side.
Operands of other types become double precision first, which keeps one compiled solver for all.
"""

import collections

import numba
import numpy as np
from numba.extending import overload

from diffopt.kernels.vectors import (
    _add,
    _add_four,
    _add_weighted,
    _copy,
    _dot,
    _fill,
    _jit,
    _leaf,
    _weighted_square,
    _where,
)

# X [n, p] is dense, or empty; `data`, `rows` and `starts` are compressed columns. The rows of
# `columns` are copies of dense columns, that of feature j ``columns[slots[j]]``, if there is one.
_Design = collections.namedtuple("_Design", "X data rows starts columns slots")


@_jit
def _scores(A, coef, p, z):
    """Write the scores of all coefficients and the intercept, the last of `coef`, into z."""
    n = z.size
    _fill(z, coef[p])
    if A.X.size == 0:
        for j in range(p):
            if coef[j] != 0:
                for t in range(A.starts[j], A.starts[j + 1]):
                    z[A.rows[t]] += coef[j] * A.data[t]
        return
    active = _where(coef, p)
    for i in range(n):
        total = 0.0
        for k in range(active.size):
            total += A.X[i, active[k]] * coef[active[k]]
        z[i] += total


@_leaf
def _all_products(A, r, p, u):
    """Write the products of all columns with r into u."""
    n = r.size
    if A.X.size == 0:
        for j in range(p):
            u[j] = _product(A, j, r)
        return
    _fill(u[:p], 0.0)
    tail = n - n % 4
    for i in range(0, tail, 4):
        w, x, y, z = A.X[i], A.X[i + 1], A.X[i + 2], A.X[i + 3]
        _add_four(r[i], r[i + 1], r[i + 2], r[i + 3], w, x, y, z, u)
    for i in range(tail, n):
        _add(r[i], A.X[i], u)


@_jit
def _copy_columns(A, n, members, count):
    """Copy those columns that have no slot yet; return the design and the number of copies."""
    new, slots, columns, p = 0, A.slots, A.columns, A.slots.size
    for j in members:
        if slots[j] < 0:
            slots[j] = count + new
            new += 1
    if count + new > columns.shape[0]:
        columns = np.empty((min(p, max(2 * count, count + new)), n))
        for k in range(count):
            _copy(A.columns[k], columns[k])
    fresh = np.empty(new, np.int64)
    for j in members:
        if slots[j] >= count:
            fresh[slots[j] - count] = j
    for i in range(n):
        for k in range(new):
            columns[count + k, i] = A.X[i, fresh[k]]
    return _Design(A.X, A.data, A.rows, A.starts, columns, slots), count + new


@_leaf
def _product(A, j, r):
    """Product of one column with r."""
    if A.X.size:
        return _dot(A.columns[A.slots[j]], r)
    total = 0.0
    for t in range(A.starts[j], A.starts[j + 1]):
        total += A.data[t] * r[A.rows[t]]
    return total


@_leaf
def _move(A, j, step, d, rho):
    """Add one column times a step, weighted by d, to rho."""
    if A.X.size:
        _add_weighted(step, d, A.columns[A.slots[j]], rho)
        return
    for t in range(A.starts[j], A.starts[j + 1]):
        i = A.rows[t]
        rho[i] += step * d[i] * A.data[t]


@_leaf
def _square(A, j, d):
    """Weighted square of one column."""
    if A.X.size:
        return _weighted_square(A.columns[A.slots[j]], d)
    total = 0.0
    for t in range(A.starts[j], A.starts[j + 1]):
        total += d[A.rows[t]] * A.data[t] ** 2
    return total


@_leaf
def _combine(A, members, x, shift, v):
    """Write the sum of columns times x, plus `shift`, into v."""
    _fill(v, shift)
    for k in range(members.size):
        if x[k] != 0:
            j = members[k]
            if A.X.size:
                _add(x[k], A.columns[A.slots[j]], v)
            else:
                for t in range(A.starts[j], A.starts[j + 1]):
                    v[A.rows[t]] += x[k] * A.data[t]


@_jit
def _wide(array, k):
    """Row k of an operand in double precision, which keeps one compiled solver for all types."""
    row = array[k if array.shape[0] > 1 else 0]
    wide = np.empty(row.size)
    _copy(row, wide)
    return wide


def _design_row(X, k):
    """Row k of a design: itself if it is in double precision, else a copy."""


@overload(_design_row, jit_options={"error_model": "numpy"})
def _design_row_of_type(X, k):
    if X.dtype == numba.types.float64:
        return lambda X, k: X[k if X.shape[0] > 1 else 0]
    return lambda X, k: _wide(X, k)


@_jit
def _whole(array, k):
    """Row k of an operand of places."""
    row = array[k if array.shape[0] > 1 else 0]
    wide = np.empty(row.size, np.int64)
    _copy(row, wide)
    return wide


@_jit
def _dense(X, k, p):
    row, places = _design_row(X, k), np.empty(p, np.int64)
    _fill(places, -1)
    none, nothing = np.empty(0, np.int64), np.empty(0)
    n = row.size // max(p, 1)
    return _Design(row.reshape((n, p)), nothing, none, none, np.empty((0, n)), places)


@_jit
def _sparse(data, rows, starts, k):
    X, none = np.empty((0, 0)), np.empty(0, np.int64)
    return _Design(X, _design_row(data, k), _whole(rows, k), _whole(starts, k), X, none)
