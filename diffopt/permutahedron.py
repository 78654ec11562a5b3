r"""Projection onto the permutahedron, with its derivatives."""

import functools

import jax
import jax.numpy as jnp

from diffopt.checks import as_float, check_axis, check_choice, working_dtype
from diffopt.isotonic import is_zero, no_tangent, sum_tangents
from diffopt.kernels import Kernel, parallel
from diffopt.kernels.partition import block_center, block_expect, block_mean, block_sum, block_tilt

__all__ = ["project_permutahedron"]

_INT = jnp.dtype("int32")
_sort_kernel = Kernel("sort_descending", parallel.sort_descending, lambda x, where: (x, _INT))
_kernel = Kernel("project", parallel.project, lambda theta, w, where: (theta, _INT, _INT))
_L2, _LOG_KL, _KL = 0, 1, 2  # the flags of the kernel
NO_MASK = jnp.zeros(0, bool)


def project_permutahedron(theta, w, *, regularization="l2", axis=-1):
    r"""Projection onto the permutahedron, the convex hull of all permutations of a vector.

    .. math::

        \operatorname*{argmin}_{\mu \in \mathcal{P}(w)} \; \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \in \mathcal{P}(w)} \; \mathrm{KL}(\mu, e^\theta)
        = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`. An infinite score is a limit: it takes an extreme
        value of `w`, shared by tied infinities, and has no gradient.
    w : array of shape [n] or of the shape of `theta`
        The vector, in any order. For ``"kl"`` non-negative, with a positive entry.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        The projections. A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` or `w` is not an array of real numbers.
    ValueError
        If `axis` is out of range, `w` has another shape, or `regularization` is unknown.

    Notes
    -----
    O(n log n) time, O(n) memory, derivatives in `theta` and in `w` included. On each block B of
    the isotonic solution, with :math:`B'` its places in sorted order,
    :math:`\mathrm{d}\mu = \mathrm{d}\theta_B - \operatorname{mean}(\mathrm{d}\theta_B) +
    \operatorname{mean}(\mathrm{d}w_{B'})` for L2. For KL, :math:`\mu_B = p \sum_{B'} w` with
    :math:`p = \operatorname{softmax}(\theta_B)`, hence :math:`\mathrm{d}\mu =
    \mu_B (\mathrm{d}\theta_B - \langle p, \mathrm{d}\theta_B \rangle) +
    p \sum_{B'} \mathrm{d}w`. Blondel et al. :cite:p:`blondel2020fast`, propositions 3 and 4;
    Lim and Wright :cite:p:`lim2016efficient`. Chapter: :ref:`sorting`.

    Examples
    --------
    Scores far apart meet the vertex that orders `w` as they are ordered; equal scores, its mean:

    >>> import jax.numpy as jnp
    >>> from diffopt import project_permutahedron
    >>> w = jnp.array([3.0, 2.0, 1.0])
    >>> print(project_permutahedron(jnp.array([9.0, 0.0, 4.0]), w))
    [3. 1. 2.]
    >>> print(project_permutahedron(jnp.zeros(3), w, regularization="kl"))
    [2. 2. 2.]
    """
    theta, w = as_float(theta, "theta"), as_float(w, "w")
    axis = check_axis(theta, axis, "theta")
    check_choice(regularization, ("l2", "kl"), "regularization")
    if w.shape not in ((theta.shape[axis],), theta.shape):
        places = (theta.shape[axis],)
        raise ValueError(
            f"w must have shape {places} or that of theta, {theta.shape}; got {w.shape}"
        )
    return _project_permutahedron(theta, w, regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_permutahedron(theta, w, regularization, axis):
    w, _ = sort_descending(to_last(w.astype(theta.dtype), axis if w.ndim > 1 else 0))
    return from_last(project_sorted(to_last(theta, axis), w, NO_MASK, regularization), theta, axis)


def to_last(x, axis):
    """Move `axis` last and compute in single precision at least."""
    return jnp.moveaxis(x.astype(working_dtype(x.dtype)), axis, -1)


def from_last(x, like, axis):
    """Undo :func:`to_last`: the axis and the type of `like`."""
    return jnp.moveaxis(x, -1, axis).astype(like.dtype)


def project_sorted(theta, w, where, regularization):
    """Project `theta` onto the permutahedron of decreasing `w`; masked items become zero."""
    if regularization == "l2":
        return _solve(theta, w, where, _L2, True)[0]
    return _solve_kl(theta, w, where)[0]


def soft_sort_sorted(theta, w, where, regularization):
    """Project decreasing `theta` onto the permutahedron of `w`, in logarithms for KL."""
    if regularization == "l2":
        return _solve(theta, w, where, _L2, False)[0]
    return _solve(jnp.broadcast_to(theta, w.shape), w, where, _LOG_KL, False)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _solve(theta, w, where, how, items):
    """Return the solution for L2, or the logarithm of that for KL, and its partition.

    Where `items`, theta and the solution lie in the order of the items, and decreasing w in that
    of the places. Otherwise it is the other way round.
    """
    return tuple(_kernel(theta, w, where, flags=(how, items)))


@functools.partial(_solve.defjvp, symbolic_zeros=True)
def _solve_jvp(how, items, primals, tangents):
    theta, w, where = primals
    out, order, block = _solve(theta, w, where, how, items)
    kl = how == _LOG_KL
    dtheta, dw = (None if is_zero(t) else t for t in tangents[:2])
    if where.size and not items and dw is not None:
        dw = jnp.where(where, dw, 0)
    if kl and dtheta is not None:
        dtheta = dtheta - block_expect(dtheta, theta, block)
    elif dtheta is not None:
        dtheta = block_center(dtheta, block, order, items=items)
    if kl and dw is not None:
        dw = block_expect(dw, w, block, order, z_items=True)
    elif dw is not None:
        dw = block_mean(dw, block, order, from_items=not items, to_items=items)
    dout = sum_tangents(dtheta, dw)
    if where.size:
        dout = jnp.where(where if items else first_places(where), dout, 0)
    return (out, order, block), (dout, no_tangent(order), no_tangent(block))


def first_places(where):
    """Return the mask of the first places, as many as `where` keeps items."""
    place = jax.lax.broadcasted_iota(jnp.int32, where.shape, where.ndim - 1)
    return place < where.sum(-1, keepdims=True, dtype=jnp.int32)


@jax.custom_jvp
def _solve_kl(theta, w, where):
    """Return the KL projection itself, not its logarithm, so that `w` may hold zeros."""
    return tuple(_kernel(theta, w, where, flags=(_KL, True)))


@functools.partial(_solve_kl.defjvp, symbolic_zeros=True)
def _solve_kl_jvp(primals, tangents):
    theta, w, where = primals
    mu, order, block = _solve_kl(theta, w, where)
    dtheta, dw = (None if is_zero(t) else t for t in tangents[:2])
    if dtheta is not None:
        dtheta = block_tilt(dtheta, mu, block, order)
    if dw is not None:
        active = jnp.isfinite(theta) & where if where.size else jnp.isfinite(theta)
        z = jnp.where(active, theta, 0)
        dw = block_expect(dw, z, block, order, z_items=True, adjoint=True)
        dw = jnp.where(where, dw, 0) if where.size else dw
    dmu = sum_tangents(dtheta, dw)
    return (mu, order, block), (dmu, no_tangent(order), no_tangent(block))


@jax.custom_jvp
def sort_descending(x, where=NO_MASK):
    """Sort by decreasing value, masked items last as zeros; also return the permutation."""
    return tuple(_sort_kernel(x, where))


@sort_descending.defjvp
def _sort_descending_jvp(primals, tangents):
    x, where = primals
    keys, order = sort_descending(x, where)
    dx = jnp.where(where, tangents[0], 0) if where.size else tangents[0]
    dkeys = block_sum(dx, jnp.arange(x.shape[-1], dtype=jnp.int32), order, from_items=True)
    return (keys, order), (dkeys, no_tangent(order))
