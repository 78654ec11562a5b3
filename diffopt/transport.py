r"""Projections onto the Birkhoff and transport polytopes, differentiable.

Both projections are :math:`\max(z, 0)` or :math:`e^z` of :math:`z_{ij} = \theta_{ij} + f_i + g_j`,
with potentials f and g that make rows and columns sum up. They maximise a concave dual of n + m
variables, here by Newton's method. Its matrix is the Laplacian of the graph of pairs in use, and
the same matrix gives the derivative of the projection. Chapter: :ref:`structured`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_choice, check_positive, check_shape, working_dtype
from diffopt.isotonic import is_zero

__all__ = ["TransportSolution", "project_birkhoff", "project_transport", "solve_transport"]


class TransportSolution(NamedTuple):
    """What :func:`~diffopt.solve_transport` returns.

    Attributes
    ----------
    value : array of shape [..., n, m]
        The projection.
    error : array of shape [...]
        The largest error of a row or column sum, relative to the largest of `rows` and `columns`.
    iterations : array of shape [...] of integers
        Newton steps taken.
    converged : array of shape [...] of booleans
        Whether `error` came down to the tolerance.
    """

    value: jax.Array
    error: jax.Array
    iterations: jax.Array
    converged: jax.Array


def project_birkhoff(theta, *, regularization="l2", tol=1e-12, max_iter=500):
    r"""Projection onto the Birkhoff polytope, the doubly stochastic matrices.

    .. math::

        \operatorname*{argmin}_{\mu \ge 0, \; \mu 1 = 1, \; \mu^\top 1 = 1} \;
        \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \ge 0, \; \mu 1 = 1, \; \mu^\top 1 = 1} \;
        \mathrm{KL}(\mu, e^\theta) = \sum_{ij} \mu_{ij} \log \mu_{ij} - \mu_{ij} -
        \theta_{ij} \mu_{ij}

    Parameters
    ----------
    theta : array of shape [..., n, n]
        The scores to project, on the last two axes. Minus infinity forbids a pair.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta` (sparse), or KL projection of :math:`e^\theta` (what
        Sinkhorn's algorithm tends to).
    tol : float, default 1e-12
        Largest error of a row or column sum; in float32 at least some rounding errors.
    max_iter : int, default 500
        Most Newton steps.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a matrix makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` is not an array of real numbers.
    ValueError
        If `theta` is not square in its last two axes, or another argument is invalid.

    Notes
    -----
    As :func:`project_transport`. Blondel :cite:p:`blondel2019structured`, section 4. Chapter:
    :ref:`structured`.

    Examples
    --------
    Scores far apart meet the best permutation; equal scores, the centre:

    >>> import jax.numpy as jnp
    >>> from diffopt import project_birkhoff
    >>> print(project_birkhoff(jnp.array([[5.0, 4.0], [3.0, 0.0]])).round(4))
    [[0. 1.]
     [1. 0.]]
    >>> print(project_birkhoff(jnp.zeros((2, 2)), regularization="kl").round(4))
    [[0.5 0.5]
     [0.5 0.5]]
    """
    theta = _as_matrices(theta)
    if theta.shape[-1] != theta.shape[-2]:
        raise ValueError(f"theta must be square in its last two axes, got shape {theta.shape}")
    ones = np.ones(theta.shape[-1])
    return solve_transport(
        theta, ones, ones, regularization=regularization, tol=tol, max_iter=max_iter
    ).value


def project_transport(theta, rows, columns, *, regularization="l2", tol=1e-12, max_iter=500):
    r"""Projection onto the transport polytope: matrices with given row and column sums.

    .. math::

        \operatorname*{argmin}_{\mu \ge 0, \; \mu 1 = a, \; \mu^\top 1 = b} \;
        \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \ge 0, \; \mu 1 = a, \; \mu^\top 1 = b} \;
        \mathrm{KL}(\mu, e^\theta) = \sum_{ij} \mu_{ij} \log \mu_{ij} - \mu_{ij} -
        \theta_{ij} \mu_{ij}

    Parameters
    ----------
    theta : array of shape [..., n, m]
        The scores to project, on the last two axes. Minus infinity forbids a pair.
    rows : array that broadcasts to shape [..., n]
        The row sums a, not negative.
    columns : array that broadcasts to shape [..., m]
        The column sums b, not negative, of the same total as `rows`.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    tol : float, default 1e-12
        Largest error of a row or column sum, relative to the largest of all sums; in float32 at
        least some rounding errors.
    max_iter : int, default 500
        Most Newton steps.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a matrix makes all of its projection NaN. Use :func:`solve_transport` to learn
        whether the tolerance was met.

    Raises
    ------
    TypeError
        If an argument is not an array of real numbers.
    ValueError
        If the sums are negative or of different totals, or another argument is invalid.

    Notes
    -----
    Some ten to a hundred Newton steps of :math:`O(n m \min(n, m))`, on scores scaled down and then
    up again; for KL twenty of Sinkhorn's come first. With W = 1 on the support (:math:`\mu` if KL),
    :math:`\mathrm{d}\mu_{ij} = W_{ij} (\mathrm{d}\theta_{ij} + \mathrm{d}f_i + \mathrm{d}g_j)`
    where the potentials solve the linear system that makes the sums move by :math:`\mathrm{d}a` and
    :math:`\mathrm{d}b`. In the sums there is a derivative where they are positive and the pairs in
    use connect all rows and columns. Blondel :cite:p:`blondel2019structured`, section 4; Blondel,
    Seguy and Rolet (2018). Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_transport
    >>> rows, columns = jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0, 2.0])
    >>> print(project_transport(jnp.zeros((2, 3)), rows, columns, regularization="kl").round(4))
    [[0.25 0.25 0.5 ]
     [0.75 0.75 1.5 ]]
    """
    return solve_transport(
        theta, rows, columns, regularization=regularization, tol=tol, max_iter=max_iter
    ).value


def solve_transport(theta, rows, columns, *, regularization="l2", tol=1e-12, max_iter=500):
    """Project onto the transport polytope, and tell how the solver fared.

    Arguments, errors and notes are those of :func:`project_transport`. Chapter: :ref:`structured`.

    Returns
    -------
    TransportSolution
        The projection `value`, and `error`, `iterations` and `converged` for each matrix. Only
        `value` has a derivative.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import solve_transport
    >>> solution = solve_transport(jnp.eye(3), jnp.ones(3), jnp.ones(3))
    >>> bool(solution.converged), int(solution.iterations) < 10
    (True, True)
    """
    theta = _as_matrices(theta)
    check_choice(regularization, ("l2", "kl"), "regularization")
    check_positive(tol, "tol")
    batch, (n, m) = theta.shape[:-2], theta.shape[-2:]
    sums, known = [], {}
    for name, given, shape in (("rows", rows, (*batch, n)), ("columns", columns, (*batch, m))):
        sums.append(check_shape(as_float(given, name), shape, name, f"the {name} of theta"))
        if not isinstance(given, jax.core.Tracer):
            known[name] = np.broadcast_to(np.asarray(given), shape)
    _check_marginals(known)
    return _solve_transport(theta, *sums, regularization, float(tol), int(max_iter))


def _as_matrices(theta):
    theta = as_float(theta, "theta")
    if theta.ndim < 2 or 0 in theta.shape[-2:]:
        raise ValueError(f"theta must hold matrices in its last two axes, got shape {theta.shape}")
    return theta


def _check_marginals(known):
    """Raise unless known row and column sums leave a point in the polytope."""
    for name, value in known.items():
        if not (value >= 0).all():
            raise ValueError(f"{name} must not be negative, got {value}")
    if len(known) == 2:
        rows, columns = (value.sum(-1, dtype=float) for value in known.values())
        if not np.allclose(rows, columns, rtol=1e-4):
            raise ValueError(
                f"rows and columns must have the same total, got {rows} and {columns}: "
                "the set is empty"
            )


@functools.partial(jax.jit, static_argnames=("regularization", "tol", "max_iter"))
def _solve_transport(theta, rows, columns, regularization, tol, max_iter):
    dtype = working_dtype(theta.dtype)
    x, rows, columns = (a.astype(dtype) for a in (theta, rows, columns))
    swap = x.shape[-1] > x.shape[-2]
    if swap:  # the smaller side is solved for, the larger one eliminated
        x, rows, columns = jnp.swapaxes(x, -1, -2), columns, rows
    columns = columns * (rows.sum(-1, keepdims=True) / columns.sum(-1, keepdims=True))
    out, *facts = _solve(x, rows, columns, regularization, tol, max_iter)
    out = jnp.swapaxes(out, -1, -2) if swap else out
    return TransportSolution(out.astype(theta.dtype), *facts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _solve(x, rows, columns, regularization, tol, max_iter):
    """Solve with masses scaled to one, from which also those of x follow."""
    mass = jnp.maximum(rows.max(-1), columns.max(-1))[..., None, None]
    mass = jnp.where(mass > 0, mass, 1)
    scaled = x / mass if regularization == "l2" else x
    out, *facts = _newton(
        scaled, rows / mass[..., 0], columns / mass[..., 0], regularization == "kl", tol, max_iter
    )
    return mass * out, *facts


@functools.partial(_solve.defjvp, symbolic_zeros=True)
def _solve_jvp(regularization, tol, max_iter, primals, tangents):
    out = _solve(*primals, regularization, tol, max_iter)
    zeros = [jnp.zeros_like(out[1]), *(np.zeros(a.shape, jax.dtypes.float0) for a in out[2:])]
    if all(map(is_zero, tangents)):
        return out, (jnp.zeros_like(out[0]), *zeros)
    value = out[0]
    weight = value if regularization == "kl" else (value > 0).astype(value.dtype)
    unit = jnp.ones((1,) * value.ndim, value.dtype)
    if regularization == "kl":  # the system does not depend on the unit of mass
        unit = jax.lax.stop_gradient(value.max((-1, -2), keepdims=True))
        unit = jnp.where(unit > 0, unit, 1)
        weight = weight / unit
    dx, drows, dcolumns = (
        jnp.zeros(t.aval.shape, value.dtype) if is_zero(t) else t for t in tangents
    )
    drows, dcolumns = drows / unit[..., 0], dcolumns / unit[..., 0]
    solve = _laplacian(weight, 0)
    move = weight * dx
    # The matrix is singular, and was shifted a little: the second step takes that error back.
    for _ in range(2):
        f, g = solve(drows - move.sum(-1), dcolumns - move.sum(-2))
        move = move + weight * (f[..., :, None] + g[..., None, :])
    return out, (move * unit, *zeros)


def _laplacian(weight, shift, eliminate=False):
    """Factorise [[diag(W 1), W], [W', diag(W' 1)]], which is singular, shifted a little."""
    n, m = weight.shape[-2:]
    eps = jnp.finfo(weight.dtype).eps
    r, c = weight.sum(-1), weight.sum(-2)
    shift = jnp.broadcast_to(shift + 8 * (n + m) * eps, r.shape[:-1])[..., None]
    r, c = r + shift, c + shift
    across = weight / r[..., :, None]
    eye = jnp.broadcast_to(jnp.eye(m, dtype=c.dtype), (*c.shape, m))
    schur = c[..., None] * eye - jnp.swapaxes(weight, -1, -2) @ across
    solve_schur = functools.partial(_gauss, schur) if eliminate else _cholesky(schur)

    def solve(a, b):
        g = solve_schur(b - (across * a[..., :, None]).sum(-2))
        return (a - (weight * g[..., None, :]).sum(-1)) / r, g

    return solve


def _cholesky(matrix):
    factor = jnp.linalg.cholesky(matrix)
    options = {"left_side": True, "lower": True}

    def solve(b):
        x = jax.lax.linalg.triangular_solve(factor, b[..., None], **options)
        return jax.lax.linalg.triangular_solve(factor, x, transpose_a=True, **options)[..., 0]

    return solve


def _gauss(matrix, b):
    """Eliminate in all matrices at once: LAPACK takes small ones one by one."""
    rows = jnp.concatenate([matrix, b[..., None]], -1)
    place = jax.lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 2)

    def eliminate(k, rows):
        pivot = jax.lax.dynamic_index_in_dim(rows, k, -2)
        pivot = pivot / jax.lax.dynamic_index_in_dim(pivot, k, -1)
        column = jax.lax.dynamic_index_in_dim(rows, k, -1)
        return jnp.where(place == k, pivot, rows - column * pivot)

    return jax.lax.fori_loop(0, matrix.shape[-1], eliminate, rows)[..., -1]


# --------------------------------------------------------------------------------------- solver


class _State(NamedTuple):
    z: jax.Array  # scale * theta + f + g
    scale: jax.Array
    error: jax.Array
    done: jax.Array
    steps: jax.Array


_GROWTH = 2**3  # of the scale, from one stage to the next
_LOOSE = 0.1  # error at which a stage ends
_BALANCING = 20  # steps of Sinkhorn's before Newton's
_SMALL = 8  # matrices of this size are eliminated all at once


def _newton(x, a, b, kl, tol, max_iter):
    """Newton's method on the dual, on scores scaled to a spread of about one, then up again."""
    eps = float(jnp.finfo(x.dtype).eps)
    tol = max(tol, 16 * eps)
    allowed = (a[..., :, None] > 0) & (b[..., None, :] > 0) & (x != -jnp.inf)
    top = jnp.max(jnp.where(allowed, x, -jnp.inf), -1, keepdims=True)
    z = x - jnp.where(jnp.isneginf(top), 0, top)
    spread = -jnp.min(jnp.where(allowed, z, 0), (-1, -2))
    stages = jnp.ceil(jnp.log2(jnp.maximum(spread, 1)) / 3) - 1
    scale = jnp.exp2(-3 * jnp.maximum(stages, 0))
    z = jnp.where(allowed | jnp.isnan(x), z * scale[..., None, None], -jnp.inf)
    z = z - _row_shift(z, a, kl)
    if kl:
        z = _balance(z, a, b)
    batch = x.shape[:-2]
    state = _State(z, scale, jnp.full(batch, jnp.inf, x.dtype), jnp.zeros(batch, bool),
                   jnp.zeros(batch, jnp.int32))  # fmt: skip

    def unfinished(state):
        return ~(state.done | (state.steps >= max_iter)).all()

    state = jax.lax.while_loop(unfinished, lambda s: _step(s, a, b, kl, tol, max_iter), state)
    return _primal(state.z, kl), state.error, state.steps, state.error <= tol


def _primal(z, kl):
    return jnp.exp(z) if kl else jnp.maximum(z, 0)


def _row_shift(z, a, kl):
    """Bring rows near their sums: exactly for KL, within a factor of m for L2."""
    if kl:
        shift = jax.nn.logsumexp(z, -1) - jnp.log(a)
    else:
        shift = z.max(-1) - a
    return jnp.where(jnp.isfinite(shift), shift, 0)[..., None]


def _balance(z, a, b):
    """Take some of Sinkhorn's steps, which are cheap: they save the first ones of Newton's."""
    value = jnp.exp(z)

    def scale(_, factors):
        _, v = factors
        u = a / _positive((value * v[..., None, :]).sum(-1))
        return u, b / _positive((value * u[..., :, None]).sum(-2))

    ones = jnp.ones_like(a), jnp.ones_like(b)
    u, v = jax.lax.fori_loop(0, _BALANCING, scale, ones)
    shift = jnp.log(_positive(u))[..., :, None] + jnp.log(_positive(v))[..., None, :]
    return jnp.where(jnp.isfinite(shift), z + shift, z)


def _positive(x):
    return jnp.where(x == 0, 1, x)


def _step(state, a, b, kl, tol, max_iter):
    z, scale = state.z, state.scale
    value = _primal(z, kl)
    r, c = a - value.sum(-1), b - value.sum(-2)
    error = jnp.maximum(jnp.abs(r).max(-1), jnp.abs(c).max(-1))
    final = scale >= 1
    done = state.done | (final & (error <= tol)) | jnp.isnan(error)
    weight = value if kl else (value > 0).astype(z.dtype)
    small = z.shape[-1] <= _SMALL and z.ndim > 2
    f, g = _laplacian(weight, 1e-4 * jnp.minimum(error, 1), small)(r, c)
    direction = f[..., :, None] + g[..., None, :]
    slope = -(r * f).sum(-1) - (c * g).sum(-1)  # of minus the dual, at most zero
    gain = (a * f).sum(-1) + (b * g).sum(-1)
    t, ok = _line_search(z, value, direction, slope, gain, a, b, error, kl, done)
    move = jnp.where(done | ~ok, 0, t)[..., None, None] * direction
    new = jnp.where(jnp.isneginf(z), z, z + move)
    stuck = ~ok & ~done
    up = ~final & (stuck | (error <= _LOOSE))
    new = jnp.where(up[..., None, None], z * _GROWTH, new)
    new = jnp.where(done[..., None, None], z, new)
    scale = jnp.where(up, scale * _GROWTH, scale)
    return _State(
        new, scale, jnp.where(state.done, state.error, error), done | (stuck & final),
        state.steps + (~done).astype(jnp.int32),
    )  # fmt: skip


def _line_search(z, value, direction, slope, gain, a, b, error, kl, done):
    """Halve the step until minus the dual, or the error, has come down enough."""

    def accepted(t):
        new = jnp.where(jnp.isneginf(z), 0, _primal(z + t[..., None, None] * direction, kl))
        if kl:
            rise = (new - value).sum((-1, -2))
        else:
            rise = ((new - value) * (new + value)).sum((-1, -2)) / 2
        change = rise - t * gain
        worst = jnp.maximum(jnp.abs(a - new.sum(-1)).max(-1), jnp.abs(b - new.sum(-2)).max(-1))
        return (change <= 1e-4 * t * slope) | (worst <= (1 - 0.5 * t) * error)

    def halve(state):
        t, ok, i = state
        t = jnp.where(ok, t, t / 2)
        return t, ok | accepted(t), i + 1

    t = jnp.ones_like(slope)
    ok = accepted(t) | done
    t, ok, _ = jax.lax.while_loop(lambda s: ~s[1].all() & (s[2] < 40), halve, (t, ok, 0))
    return t, ok
