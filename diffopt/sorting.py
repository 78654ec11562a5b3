r"""Differentiable sorting and ranking as projections onto the permutahedron.

Sorting and ranking are linear programs over the permutahedron; adding a strongly convex term of
strength `epsilon` makes their solutions differentiable. All functions here take O(n log n) time
and O(n) memory, derivatives included :cite:p:`blondel2020fast`. Chapter: :ref:`sorting`.

Arguments that all functions share:

- `values` of shape [..., n, ...], real numbers to compare along `axis`;
- `epsilon`, the strength of the relaxation in the units of `values`: small is close to the hard
  operator, large is close to constant; a number, or an array that broadcasts to `values`;
- `regularization`, ``"l2"`` (piecewise linear) or ``"kl"`` (curved); both are exactly hard for
  small `epsilon`, but for the mask of ``soft_top_k``, which ``"kl"`` never makes hard;
- `where`, a mask of the shape of `values`: masked items take no part.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from diffopt.checks import (
    as_float,
    as_mask,
    check_axis,
    check_choice,
    check_positive,
    check_range,
    check_shape,
    working_dtype,
)
from diffopt.permutahedron import (
    NO_MASK,
    from_last,
    project_sorted,
    soft_sort_sorted,
    sort_descending,
    to_last,
)

__all__ = [
    "hard_rank_epsilon",
    "soft_least_trimmed_squares",
    "soft_median",
    "soft_quantile",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "soft_top_k_loss",
    "spearman_loss",
]


def _prepare(values, epsilon, regularization, axis, where, name="values"):
    """Check the arguments that all functions share."""
    values = as_float(values, name)
    axis = check_axis(values, axis, name)
    check_choice(regularization, ("l2", "kl"), "regularization")
    known = epsilon
    epsilon = as_float(epsilon, "epsilon")
    check_positive(known, "epsilon")
    if epsilon.ndim:
        epsilon = check_shape(epsilon, values.shape, "epsilon", name)
    where = NO_MASK if where is None else as_mask(where, values.shape, name)
    return values, epsilon, axis, where


def soft_sort(values, *, epsilon=1.0, regularization="l2", axis=-1, descending=False, where=None):
    r"""Soft sort: the values in order, with gradients for all of them.

    For descending order, with :math:`\rho = (n, \dots, 1)`,

    .. math::

        \operatorname*{argmin}_{\mu \in \mathcal{P}(\theta)} \;
        \tfrac12 \|\mu - \rho / \varepsilon\|^2
        \qquad\text{or}\qquad
        \log \operatorname*{argmin}_{\mu \in \mathcal{P}(e^\theta)} \;
        \mathrm{KL}(\mu, e^{\rho / \varepsilon}),

    and for ascending order minus the descending soft sort of minus the values.

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values :math:`\theta` to sort, along `axis`. One infinite value makes its neighbours
        infinite too.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation; an array must be constant along `axis`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis to sort along.
    descending : bool, default False
        Largest first.
    where : boolean array that broadcasts to `values`, optional
        Items that take part. With k of them, the first k results are their soft sort; the others
        are zero.

    Returns
    -------
    array of the shape and dtype of `values`

    Raises
    ------
    TypeError
        If `values` is not an array of real numbers, or `where` not one of booleans.
    ValueError
        If `epsilon` is not positive, or `axis`, `regularization` or a shape is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory; derivatives in `values` and `epsilon` in O(n): the mean (L2) or
    softmax-weighted mean (KL) of the tangents of each block. Blondel et al.
    :cite:p:`blondel2020fast`, section 4. Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_sort
    >>> print(soft_sort(jnp.array([5.0, 1.0, 2.0]), epsilon=0.1))
    [1. 2. 5.]
    >>> print(soft_sort(jnp.array([5.0, 1.0, 2.0]), epsilon=1.0).round(4))
    [1.6667 2.6667 3.6667]
    """
    values, epsilon, axis, where = _prepare(values, epsilon, regularization, axis, where)
    return _soft_sort(values, epsilon, where, regularization, axis, bool(descending))


@functools.partial(jax.jit, static_argnames=("regularization", "axis", "descending"))
def _soft_sort(values, epsilon, where, regularization, axis, descending):
    x, epsilon, where = _axis_last(values, epsilon, where, axis)
    rho = jnp.arange(x.shape[-1], 0, -1, dtype=x.dtype)
    theta = jnp.broadcast_to(rho, epsilon.shape) / epsilon if epsilon.ndim else rho / epsilon
    out = soft_sort_sorted(theta, x if descending else -x, where, regularization)
    return from_last(out if descending else 0 - out, values, axis)


def _axis_last(values, epsilon, where, axis):
    """Move `axis` last in all operands and compute in single precision at least."""
    x = to_last(values, axis)
    epsilon = (jnp.moveaxis(epsilon, axis, -1) if epsilon.ndim else epsilon).astype(x.dtype)
    return x, epsilon, jnp.moveaxis(where, axis, -1) if where.size else where


def soft_rank(values, *, epsilon=1.0, regularization="l2", axis=-1, descending=False, where=None):
    r"""Soft rank: the place of each value, with gradients.

    For ascending order (the smallest has rank 1), with :math:`\rho = (n, \dots, 1)`,

    .. math::

        \operatorname*{argmin}_{\mu \in \mathcal{P}(\rho)} \;
        \tfrac12 \|\mu - \theta / \varepsilon\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \in \mathcal{P}(\rho)} \;
        \mathrm{KL}(\mu, e^{\theta / \varepsilon}).

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values :math:`\theta` to rank, along `axis`. An infinite value takes the extreme rank,
        shared by tied infinities, and has no gradient.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation. For L2, ranks are exactly hard up to
        :func:`hard_rank_epsilon`; for large ones all ranks tend to (n + 1) / 2.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis to rank along.
    descending : bool, default False
        The largest has rank 1.
    where : boolean array that broadcasts to `values`, optional
        Items that take part. Others have rank 0 and no gradient.

    Returns
    -------
    array of the shape and dtype of `values`
        Soft ranks, which sum to n (n + 1) / 2. Tied values share their mean rank.

    Raises
    ------
    TypeError
        If `values` is not an array of real numbers, or `where` not one of booleans.
    ValueError
        If `epsilon` is not positive, or `axis`, `regularization` or a shape is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory; derivatives in `values` and `epsilon` in O(n): with
    :math:`\dot\theta` the tangent of :math:`\theta/\varepsilon`, :math:`\dot\theta_B -
    \operatorname{mean}(\dot\theta_B)` on each block B for L2. Blondel et al.
    :cite:p:`blondel2020fast`, section 4. Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_rank
    >>> print(soft_rank(jnp.array([5.0, 1.0, 2.0]), epsilon=1.0))
    [3. 1. 2.]
    >>> print(soft_rank(jnp.array([5.0, 1.0, 2.0]), epsilon=2.0))
    [3.   1.25 1.75]
    """
    values, epsilon, axis, where = _prepare(values, epsilon, regularization, axis, where)
    return _soft_rank(values, epsilon, where, regularization, axis, bool(descending))


@functools.partial(jax.jit, static_argnames=("regularization", "axis", "descending"))
def _soft_rank(values, epsilon, where, regularization, axis, descending):
    x, epsilon, where = _axis_last(values, epsilon, where, axis)
    n = x.shape[-1]
    w = jnp.arange(n, 0, -1, dtype=x.dtype)
    if where.size:
        kept = where.sum(-1, keepdims=True, dtype=jnp.int32)
        place = jax.lax.broadcasted_iota(jnp.int32, where.shape, where.ndim - 1)
        w = jnp.maximum(kept - place, 0).astype(x.dtype)
    theta = _divide(x if not descending else -x, epsilon)
    return from_last(project_sorted(theta, w, where, regularization), values, axis)


def _divide(x, epsilon):
    """Divide by `epsilon`, keeping infinite items away from its derivative."""
    finite = jnp.isfinite(x)
    return jnp.where(finite, jnp.where(finite, x, 0) / epsilon, jax.lax.stop_gradient(x))


def soft_top_k(values, k, *, epsilon=1.0, regularization="l2", axis=-1, where=None):
    r"""Soft mask of the k largest values.

    .. math::

        \operatorname*{argmin}_{\mu \in [0, 1]^n, \; \sum_i \mu_i = k} \;
        \tfrac12 \|\mu - \theta / \varepsilon\|^2
        \qquad\text{or}\qquad \mathrm{KL}(\mu, e^{\theta / \varepsilon})

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values :math:`\theta` to choose from, along `axis`.
    k : int
        How many to choose, from 0 to n.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation. For L2, the mask is exactly hard where the k-th and the next
        value lie at least `epsilon` apart.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which to choose.
    where : boolean array that broadcasts to `values`, optional
        Items that take part. Others have mask 0; with fewer than k items, all have mask 1.

    Returns
    -------
    array of the shape and dtype of `values`
        Entries in [0, 1] that sum to k.

    Raises
    ------
    TypeError
        If `values` is not an array of real numbers, `k` not an integer, or `where` not a mask.
    ValueError
        If `k` is not in [0, n], `epsilon` is not positive, or another argument is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory; the derivative is that of a projection onto the permutahedron
    of k ones and n - k zeros. Blondel et al. :cite:p:`blondel2020fast`, section 3. Chapter:
    :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_top_k
    >>> print(soft_top_k(jnp.array([0.1, 0.7, 0.5, 0.6]), 2, epsilon=0.1))
    [0. 1. 0. 1.]
    >>> print(soft_top_k(jnp.array([0.0, 4.0, 1.0, 1.0]), 2))
    [0.  1.  0.5 0.5]
    """
    values, epsilon, axis, where = _prepare(values, epsilon, regularization, axis, where)
    k = _check_count(k, 0, values.shape[axis], "k")
    return _soft_top_k(values, epsilon, where, k, regularization, axis)


def _check_count(count, low, high, name):
    try:
        count = operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {count!r}") from None
    if not low <= count <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {count}")
    return count


@functools.partial(jax.jit, static_argnames=("k", "regularization", "axis"))
def _soft_top_k(values, epsilon, where, k, regularization, axis):
    x, epsilon, where = _axis_last(values, epsilon, where, axis)
    if k == 0:
        return jnp.zeros_like(values)
    w = (jnp.arange(x.shape[-1]) < k).astype(x.dtype)
    out = project_sorted(_divide(x, epsilon), w, where, regularization)
    return from_last(out, values, axis)


def soft_quantile(values, q, *, epsilon=1.0, regularization="l2", axis=-1, where=None):
    r"""Soft quantile: linear interpolation between neighbours in the soft sort.

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values, along `axis`.
    q : float or array
        Probabilities in [0, 1].
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation; an array must be constant along `axis`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which to take quantiles.
    where : boolean array that broadcasts to `values`, optional
        Items that take part. Without any, the quantile is 0.

    Returns
    -------
    array of dtype of `values`, of shape ``[*q.shape, *values.shape without axis]``
        As for :func:`jax.numpy.quantile`, which is the limit of a small `epsilon`.

    Raises
    ------
    TypeError
        If `values` or `q` is not an array of real numbers, or `where` not one of booleans.
    ValueError
        If `epsilon` is not positive, `q` is not in [0, 1], there is no item, or another argument
        is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory; differentiable in `values`, `q` and `epsilon`. Blondel et al.
    :cite:p:`blondel2020fast`, section 4. Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_quantile
    >>> print(soft_quantile(jnp.array([5.0, 1.0, 2.0, 4.0]), 0.5, epsilon=0.1))
    3.0
    """
    values, epsilon, axis, where = _prepare(values, epsilon, regularization, axis, where)
    known, q = q, as_float(q, "q")
    check_range(known, 0, 1, "q")
    if values.shape[axis] == 0:
        raise ValueError("values must have at least one item along axis to have a quantile")
    return _soft_quantile(values, q, epsilon, where, regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _soft_quantile(values, q, epsilon, where, regularization, axis):
    ordered = to_last(_soft_sort(values, epsilon, where, regularization, axis, False), axis)
    n = ordered.shape[-1]
    if where.size:
        last = jnp.maximum(jnp.moveaxis(where, axis, -1).sum(-1, dtype=jnp.int32) - 1, 0)
    else:
        last = jnp.full(ordered.shape[:-1], n - 1, jnp.int32)

    def one(q):
        at = q.astype(ordered.dtype) * last.astype(ordered.dtype)
        low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, jnp.maximum(last - 1, 0))
        here = low[..., None]
        left = jnp.take_along_axis(ordered, here, -1)[..., 0]
        right = jnp.take_along_axis(ordered, jnp.minimum(here + 1, last[..., None]), -1)[..., 0]
        return left + (at - low.astype(at.dtype)) * (right - left)

    out = jax.vmap(one)(q.reshape(-1))
    return out.reshape(*q.shape, *ordered.shape[:-1]).astype(values.dtype)


def soft_median(values, *, epsilon=1.0, regularization="l2", axis=-1, where=None):
    """Soft median: the soft quantile at one half.

    Errors, cost and derivatives are those of :func:`soft_quantile`. Chapter: :ref:`sorting`.

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values, along `axis`.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation; an array must be constant along `axis`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which to take medians.
    where : boolean array that broadcasts to `values`, optional
        Items that take part.

    Returns
    -------
    array of the shape of `values` without `axis`

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_median
    >>> print(soft_median(jnp.array([5.0, 1.0, 2.0]), epsilon=0.1))
    2.0
    """
    return soft_quantile(
        values, 0.5, epsilon=epsilon, regularization=regularization, axis=axis, where=where
    )


def hard_rank_epsilon(values, *, regularization="l2", axis=-1, where=None):
    r"""Return the largest `epsilon` at which soft ranks are exactly the hard ranks.

    The isotonic solution has no violators to pool where neighbours in decreasing order, the i-th
    and the next, lie far enough apart:

    .. math::

        \varepsilon \le \min_i \theta_{(i)} - \theta_{(i+1)} \quad\text{(L2)}, \qquad
        \varepsilon \le \min_i \frac{\theta_{(i)} - \theta_{(i+1)}}
        {\log \rho_i - \log \rho_{i+1}} \quad\text{(KL)}.

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The values, along `axis`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which values are ranked.
    where : boolean array that broadcasts to `values`, optional
        Items that take part.

    Returns
    -------
    array of the shape of `values` without `axis`, in their dtype
        In the units of `values`; 0 where values are tied, infinite for one item. For KL it refers
        to ascending ranks; those of minus the values are the descending ones.

    Raises
    ------
    TypeError
        If `values` is not an array of real numbers, or `where` not one of booleans.
    ValueError
        If `axis`, `regularization` or a shape is invalid.

    Notes
    -----
    O(n log n) time. It follows from Blondel et al. :cite:p:`blondel2020fast`, section 5; the
    chapter :ref:`sorting` has a proof.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import hard_rank_epsilon
    >>> print(hard_rank_epsilon(jnp.array([5.0, 1.0, 2.5])))
    1.5
    """
    values, _, axis, where = _prepare(values, 1.0, regularization, axis, where)
    return _hard_rank_epsilon(values, where, regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _hard_rank_epsilon(values, where, regularization, axis):
    x, _, where = _axis_last(values, jnp.ones((), values.dtype), where, axis)
    ordered, _ = sort_descending(x, where)
    upper, lower = ordered[..., :-1], ordered[..., 1:]
    gap = jnp.where(upper == lower, 0, upper - lower)  # also for tied infinities
    if where.size:
        kept = where.sum(-1, keepdims=True, dtype=jnp.int32)
    else:
        kept = jnp.full((*x.shape[:-1], 1), x.shape[-1], jnp.int32)
    rank = kept - jax.lax.broadcasted_iota(jnp.int32, gap.shape, gap.ndim - 1)
    if regularization == "kl":
        rank = jnp.maximum(rank, 2).astype(x.dtype)
        gap = gap / (jnp.log(rank) - jnp.log(rank - 1))
    inside = jax.lax.broadcasted_iota(jnp.int32, gap.shape, gap.ndim - 1) < kept - 1
    return jnp.where(inside, gap, jnp.inf).min(-1, initial=jnp.inf).astype(values.dtype)


def spearman_loss(values, target_ranks, *, epsilon=1.0, regularization="l2", axis=-1, where=None):
    r"""One minus Spearman's rank correlation between the values and a target ranking.

    .. math::

        \frac{6}{n (n^2 - 1)} \, \| r_\varepsilon(\theta) - y \|^2

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The scores :math:`\theta`; a large score means a large rank.
    target_ranks : array that broadcasts to `values`' shape
        The ranks y to reach, from 1 to n; tied items share their mean rank.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation of :func:`soft_rank`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which values are ranked.
    where : boolean array that broadcasts to `values`, optional
        Items that take part; n counts those.

    Returns
    -------
    array of the shape of `values` without `axis`
        In [0, 2] for permutations. 0 for fewer than two items.

    Raises
    ------
    TypeError
        If an array does not hold real numbers, or `where` no booleans.
    ValueError
        If `target_ranks` does not broadcast to `values`, or another argument is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory, derivatives included. For hard ranks without ties it is exactly
    one minus Spearman's coefficient. Blondel et al. :cite:p:`blondel2020fast`, section 6.3.
    Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import spearman_loss
    >>> print(spearman_loss(jnp.array([0.3, 9.0, 4.0]), jnp.array([1.0, 3.0, 2.0])))
    0.0
    """
    values, epsilon, axis, where = _prepare(values, epsilon, regularization, axis, where)
    target = as_float(target_ranks, "target_ranks")
    target = check_shape(target, values.shape, "target_ranks", "values").astype(values.dtype)
    return _spearman_loss(values, target, epsilon, where, regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _spearman_loss(values, target, epsilon, where, regularization, axis):
    x, y = to_last(values, axis), to_last(target, axis)
    ranks = _soft_rank(values.astype(x.dtype), epsilon, where, regularization, axis, False)
    difference = to_last(ranks, axis) - y
    if where.size:
        kept = jnp.moveaxis(where, axis, -1)
        difference = jnp.where(kept, difference, 0)
        n = kept.sum(-1, dtype=x.dtype)
    else:
        n = jnp.asarray(x.shape[-1], x.dtype)
    pairs = jnp.where(n > 1, n * (n * n - 1), jnp.inf)
    return (6 * (difference * difference).sum(-1) / pairs).astype(values.dtype)


def soft_least_trimmed_squares(
    residuals, num_trimmed, *, epsilon=1.0, regularization="l2", axis=-1, where=None
):
    r"""Least trimmed squares, softly: the mean of the smallest squared residuals.

    .. math::

        \frac{1}{n - k} \sum_{i=1}^{n-k} s_\varepsilon(\ell)_i, \qquad \ell_i = \tfrac12 r_i^2,

    where :math:`s_\varepsilon` is the ascending soft sort. A small `epsilon` leaves out the k
    largest losses; a large one tends to ordinary least squares.

    Parameters
    ----------
    residuals : array of shape [..., n, ...]
        The residuals r, along `axis`.
    num_trimmed : int
        How many residuals k to leave out, from 0 to n - 1.
    epsilon : float or array that broadcasts to `residuals`' shape, default 1.0
        Strength of the relaxation; an array must be constant along `axis`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis along which to trim.
    where : boolean array that broadcasts to `residuals`, optional
        Items that take part; with m of them, m - k (at least one) are kept.

    Returns
    -------
    array of the shape of `residuals` without `axis`

    Raises
    ------
    TypeError
        If `residuals` is not an array of real numbers, or `num_trimmed` not an integer.
    ValueError
        If `num_trimmed` is not in [0, n - 1], or another argument is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory, derivatives included. Blondel et al. :cite:p:`blondel2020fast`,
    section 6.4, after Rousseeuw :cite:p:`rousseeuw1984least`. Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_least_trimmed_squares
    >>> print(soft_least_trimmed_squares(jnp.array([1.0, -10.0, 1.0, 2.0]), 1, epsilon=0.01))
    1.0
    """
    residuals, epsilon, axis, where = _prepare(
        residuals, epsilon, regularization, axis, where, "residuals"
    )
    k = _check_count(num_trimmed, 0, max(residuals.shape[axis] - 1, 0), "num_trimmed")
    return _soft_least_trimmed_squares(residuals, epsilon, where, k, regularization, axis)


@functools.partial(jax.jit, static_argnames=("k", "regularization", "axis"))
def _soft_least_trimmed_squares(residuals, epsilon, where, k, regularization, axis):
    r = residuals.astype(working_dtype(residuals.dtype))
    losses = r * r / 2
    ordered = to_last(_soft_sort(losses, epsilon, where, regularization, axis, False), axis)
    if where.size:
        items = jnp.moveaxis(where, axis, -1).sum(-1, keepdims=True, dtype=jnp.int32)
    else:
        items = jnp.full((*ordered.shape[:-1], 1), ordered.shape[-1], jnp.int32)
    kept = jnp.maximum(items - k, 1)
    place = jax.lax.broadcasted_iota(jnp.int32, ordered.shape, ordered.ndim - 1)
    mean = jnp.where(place < kept, ordered, 0).sum(-1) / kept[..., 0].astype(ordered.dtype)
    return mean.astype(residuals.dtype)


def soft_top_k_loss(values, labels, k=1, *, epsilon=1.0, regularization="l2", axis=-1):
    r"""Top-k classification loss: how far the true class ranks below the k-th place.

    .. math::

        \max(0, \; r_\varepsilon(\theta)_{y} - k), \qquad r_\varepsilon \text{ descending}

    Parameters
    ----------
    values : array of shape [..., n, ...]
        The scores :math:`\theta` of n classes, along `axis`.
    labels : integer array of the shape of `values` without `axis`
        The true classes y, from 0 to n - 1.
    k : int, default 1
        The place that is good enough, from 1 to n.
    epsilon : float or array that broadcasts to `values`' shape, default 1.0
        Strength of the relaxation of :func:`soft_rank`.
    regularization : {"l2", "kl"}
        Euclidean or entropic relaxation.
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    array of the shape of `labels`, in the dtype of `values`
        In [0, n - k]; for hard ranks, zero where the true class is among the first k.

    Raises
    ------
    TypeError
        If `labels` or `k` is not integer, or `values` is not an array of real numbers.
    ValueError
        If `k` is not in [1, n], `labels` has a wrong shape, or another argument is invalid.

    Notes
    -----
    O(n log n) time, O(n) memory, derivatives included. Cuturi et al.
    :cite:p:`cuturi2019differentiable`; Blondel et al. :cite:p:`blondel2020fast`, section 6.1.
    Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_top_k_loss
    >>> scores = jnp.array([[3.0, 9.0, 6.0], [3.0, 9.0, 6.0]])
    >>> print(soft_top_k_loss(scores, jnp.array([1, 0])))
    [0. 2.]
    """
    values, epsilon, axis, _ = _prepare(values, epsilon, regularization, axis, None)
    k = _check_count(k, 1, max(values.shape[axis], 1), "k")
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    shape = (*values.shape[:axis], *values.shape[axis + 1 :])
    if labels.shape != shape:
        raise ValueError(
            f"labels must have the shape of values without axis, {shape}, got {labels.shape}"
        )
    return _soft_top_k_loss(values, labels, epsilon, k, regularization, axis)


@functools.partial(jax.jit, static_argnames=("k", "regularization", "axis"))
def _soft_top_k_loss(values, labels, epsilon, k, regularization, axis):
    ranks = _soft_rank(values, epsilon, NO_MASK, regularization, axis, True)
    rank = jnp.take_along_axis(ranks, jnp.expand_dims(labels, axis), axis)
    return jnp.maximum(rank.squeeze(axis) - k, 0)
