r"""Soft dynamic time warping, and differentiable divergences between time series.

An alignment A of two series of n and m points is a path of ones through an :math:`n \times m`
table, from the first cell to the last, by steps right, down, or both. With the costs C of all pairs
of points, the alignments have a soft minimum and a Gibbs distribution,

.. math::

    \operatorname{sdtw}_\gamma(C) = -\gamma \log \sum_A e^{-\langle A, C\rangle / \gamma},
    \qquad
    E_\gamma(C) = \mathbb{E}[A] = \nabla \operatorname{sdtw}_\gamma(C),

from which everything here is made. Blondel, Mensch and Vert :cite:p:`blondel2021differentiable`.
Chapter: :ref:`soft_dtw`.

Arguments that the functions share:

- `x` and `y` of shapes ``[n, d]`` and ``[m, d]``; batches by ``jax.vmap``, also over lengths;
- `gamma`, the temperature: 0 for a hard minimum, infinity for its limit (both known when tracing,
  infinity also of the type float), else positive, possibly traced;
- `cost`, a function of two points of shape ``[d]``;
- `x_length` and `y_length`, how many points of a series count, possibly traced: padding after them
  takes no part, and has a gradient of zero;
- `band`, a boolean table ``[n, m]`` of the cells that alignments may use, as
  :func:`~diffopt.sakoe_chiba` and :func:`~diffopt.itakura` make it.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, working_dtype
from diffopt.kernels import Kernel, wavefront
from diffopt.kernels.wavefront import inner

__all__ = [
    "alignment_entropy",
    "dtw_path",
    "expected_alignment",
    "half_squared_euclidean",
    "itakura",
    "log_augmented",
    "mean_cost",
    "mean_cost_divergence",
    "num_alignments",
    "sakoe_chiba",
    "sharp_divergence",
    "sharp_soft_dtw",
    "soft_dtw",
    "soft_dtw_divergence",
    "soft_dtw_from_cost",
    "squared_euclidean",
]

_value_kernel = Kernel("alignment_value", wavefront.alignment_value, lambda gamma, costs: (costs,))
_mean_kernel = Kernel(
    "alignment_mean", wavefront.alignment_mean, lambda costs, gamma: (costs, costs), like=(0, 1)
)
_pair_kernel = Kernel("series_value", wavefront.series_value, lambda gamma, x, y, lengths: (gamma,))
_slope_kernel, _sharp_kernel = (
    Kernel(name, parallel, lambda x, y, gamma, lengths: (x, x, x, y), like=(2, 2, 0, 1))
    for name, parallel in (
        ("series_slope", wavefront.series_slope),
        ("series_sharp_slope", wavefront.series_sharp_slope),
    )
)


def _third_order(operands, dcosts, flags):
    """Derivative in the costs of the derivative of a mean alignment."""

    def change(direction, costs, dcosts):
        curve = functools.partial(wavefront.alignment_curve, direction, flags=flags)
        return jax.jvp(curve, (costs,), (dcosts,))[1]

    found: Callable = change
    for _ in range(dcosts.ndim - 1):
        found = jax.vmap(found)
    return found(*operands, dcosts)


_curve_kernel = Kernel(
    "alignment_curve",
    wavefront.alignment_curve,
    lambda direction, costs: (direction,),
    transpose_flags=lambda flags: flags,
    tangent=_third_order,
)


# --- costs of two points ------------------------------------------------------------------------


def squared_euclidean(x, y):
    """Squared Euclidean distance of two points: what most libraries take as the cost.

    Parameters
    ----------
    x, y : arrays of shape [d]
        Two points.

    Returns
    -------
    scalar
        The sum of squared differences.

    Notes
    -----
    O(d); smooth. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import squared_euclidean
    >>> print(squared_euclidean(jnp.array([0.0, 1.0]), jnp.array([3.0, 5.0])))
    25.0
    """
    return jnp.sum((x - y) ** 2)


def half_squared_euclidean(x, y):
    """Half the squared Euclidean distance of two points: the cost in the paper.

    Parameters
    ----------
    x, y : arrays of shape [d]
        Two points.

    Returns
    -------
    scalar
        Half the sum of squared differences.

    Notes
    -----
    O(d); smooth. Blondel et al. :cite:p:`blondel2021differentiable`. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import half_squared_euclidean
    >>> print(half_squared_euclidean(jnp.array([0.0]), jnp.array([2.0])))
    2.0
    """
    return jnp.sum((x - y) ** 2) / 2


def log_augmented(x, y):
    r"""The cost :math:`\delta + \log(2 - e^{-\delta})`, with half the squared distance for delta.

    With it the soft-DTW divergence at gamma = 1 is proved to be non-negative.

    Parameters
    ----------
    x, y : arrays of shape [d]
        Two points.

    Returns
    -------
    scalar
        The cost.

    Notes
    -----
    O(d); smooth. Cuturi et al. :cite:p:`cuturi2007kernel`; Blondel et al.
    :cite:p:`blondel2021differentiable`. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import log_augmented
    >>> print(log_augmented(jnp.array([1.0]), jnp.array([1.0])))
    0.0
    """
    delta = jnp.sum((x - y) ** 2) / 2
    return delta + jnp.log1p(-jnp.expm1(-delta))


_SCALES = {squared_euclidean: 1.0, half_squared_euclidean: 0.5}  # of the squared distance
_FINITE = {squared_euclidean, half_squared_euclidean, log_augmented}


# --- from a table of costs ----------------------------------------------------------------------


def soft_dtw_from_cost(costs, *, gamma=1.0, x_length=None, y_length=None, band=None):
    r"""Soft-DTW of a table of costs: the soft minimum of alignments' costs.

    .. math::

        \operatorname{sdtw}_\gamma(C) = -\gamma \log \sum_A e^{-\langle A, C\rangle / \gamma}

    Parameters
    ----------
    costs : array of shape [n, m]
        Costs C of all pairs of points; infinite where two points may not be aligned.
    gamma : float or scalar array, default 1.0
        Temperature. At 0 the least cost, DTW. At infinity the mean cost, to which soft-DTW plus
        gamma times the logarithm of the number of alignments tends.
    x_length, y_length : int or integer scalar array, optional
        Use this many rows and columns.
    band : boolean array of shape [n, m], optional
        Cells that alignments may use.

    Returns
    -------
    scalar
        The soft minimum, of the dtype of `costs`; infinite where no alignment is possible.

    Raises
    ------
    TypeError
        If `costs` is not an array of real numbers, or `band` is not boolean.
    ValueError
        If `costs` is not a table, `gamma` is negative, a length or `band` does not fit.

    Notes
    -----
    O(nm) time and O(m) memory on a CPU, n + m - 1 steps elsewhere. The derivative in the costs is
    :func:`~diffopt.expected_alignment`, in O(nm) time and memory; that in gamma is minus
    :func:`~diffopt.alignment_entropy`.
    Blondel et al. :cite:p:`blondel2021differentiable`, section 2. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import num_alignments, soft_dtw_from_cost
    >>> print(round(float(jnp.exp(-soft_dtw_from_cost(jnp.zeros((3, 3)))))), num_alignments(3, 3))
    13 13
    """
    costs, gamma, finish = _prepare(costs, gamma, x_length, y_length, band)
    if gamma is None:
        return finish(inner(_uniform(costs), costs))
    return finish(_soft(costs, gamma))


def expected_alignment(costs, *, gamma=1.0, x_length=None, y_length=None, band=None):
    r"""Mean alignment: how likely the alignment is to pass through each cell.

    .. math::

        E_\gamma(C) = \frac{\sum_A A \, e^{-\langle A, C\rangle/\gamma}}
        {\sum_A e^{-\langle A, C\rangle/\gamma}} = \nabla_C \operatorname{sdtw}_\gamma(C)

    Parameters
    ----------
    costs, gamma, x_length, y_length, band
        As in :func:`~diffopt.soft_dtw_from_cost`. At gamma = 0 the cheapest alignment, at
        infinity the mean of all of them.

    Returns
    -------
    array of shape [n, m]
        Numbers in [0, 1]; zero where no alignment is possible.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw_from_cost`.

    Notes
    -----
    O(nm) time and memory. The derivative is the covariance of alignments over minus gamma, by
    products in O(nm). Blondel et al. :cite:p:`blondel2021differentiable`, section 2. Chapter:
    :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import expected_alignment
    >>> print(expected_alignment(jnp.zeros((2, 2))).round(3))
    [[1.    0.333]
     [0.333 1.   ]]
    """
    n, m = jnp.shape(costs) if jnp.ndim(costs) == 2 else (0, 0)
    costs, gamma, finish = _prepare(costs, gamma, x_length, y_length, band)
    mean = _uniform(costs) if gamma is None else _mean(costs, gamma)[0]
    if costs.shape != (n, m):
        x_length, y_length = _or(x_length, n), _or(y_length, m)
        inside = (jnp.arange(n)[:, None] < x_length) & (jnp.arange(m)[None] < y_length)
        mean = jnp.where(inside, mean[:n, :m], 0)
    return finish(mean)


def alignment_entropy(costs, *, gamma=1.0, x_length=None, y_length=None, band=None):
    r"""Entropy of the distribution of alignments: minus the derivative of soft-DTW in gamma.

    Parameters
    ----------
    costs, gamma, x_length, y_length, band
        As in :func:`~diffopt.soft_dtw_from_cost`. At gamma = 0 it is 0, at infinity
        the logarithm of the number of alignments.

    Returns
    -------
    scalar
        :math:`(\langle E, C\rangle - \operatorname{sdtw}_\gamma(C)) / \gamma`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw_from_cost`.

    Notes
    -----
    O(nm) time and memory. Blondel et al. :cite:p:`blondel2021differentiable`, section 3. Chapter:
    :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import alignment_entropy
    >>> print(round(float(jnp.exp(alignment_entropy(jnp.zeros((2, 2))))), 3))
    3.0
    """
    costs, gamma, finish = _prepare(costs, gamma, x_length, y_length, band)
    if gamma is None:
        flat = jnp.where(costs < jnp.inf, 0, costs)
        return finish(-_soft(flat, jnp.ones((), flat.dtype)))
    return finish(-_slope(costs, gamma, *_mean(costs, gamma)))


def dtw_path(costs, *, x_length=None, y_length=None, band=None):
    """Cheapest alignment, as a list of pairs of indices.

    Parameters
    ----------
    costs, x_length, y_length, band
        As in :func:`~diffopt.soft_dtw_from_cost`; they cannot be traced.

    Returns
    -------
    list of (int, int)
        From the first cell to the last; empty where no alignment is possible. At ties the diagonal
        step comes first, then the step down.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw_from_cost`.

    Notes
    -----
    O(nm) time and memory. Sakoe and Chiba :cite:p:`sakoe1978dynamic`. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import dtw_path
    >>> dtw_path(jnp.array([[0.0, 0.0, 5.0], [5.0, 5.0, 0.0]]))
    [(0, 0), (0, 1), (1, 2)]
    """
    mean = expected_alignment(costs, gamma=0.0, x_length=x_length, y_length=y_length, band=band)
    return [(int(i), int(j)) for i, j in np.argwhere(np.asarray(mean) > 0)]


def num_alignments(n, m):
    """Number of alignments of two series, a Delannoy number.

    Parameters
    ----------
    n, m : int
        Lengths of the series, at least 1.

    Returns
    -------
    int
        The number, exactly.

    Raises
    ------
    ValueError
        If a length is below 1.

    Notes
    -----
    O(min(n, m)) products of long integers. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> from diffopt import num_alignments
    >>> num_alignments(2, 2), num_alignments(10, 10)
    (3, 1462563)
    """
    if min(n, m) < 1:
        raise ValueError(f"n and m must be at least 1, got {n} and {m}")
    n, m = n - 1, m - 1
    return sum(math.comb(n, k) * math.comb(m, k) * 2**k for k in range(min(n, m) + 1))


# --- bands --------------------------------------------------------------------------------------


def sakoe_chiba(n, m, radius):
    """Band of cells near the diagonal of a table.

    Parameters
    ----------
    n, m : int
        Size of the table.
    radius : float
        How far, in rows or columns of the longer side, a cell may lie from the diagonal.

    Returns
    -------
    boolean array of shape [n, m]
        The band; it holds the diagonal itself at every radius.

    Raises
    ------
    ValueError
        If `radius` is negative.

    Notes
    -----
    O(nm). Sakoe and Chiba :cite:p:`sakoe1978dynamic`. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> from diffopt import sakoe_chiba
    >>> print(sakoe_chiba(3, 3, 1).astype(int))
    [[1 1 0]
     [1 1 1]
     [0 1 1]]
    """
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    long = max(n, m) - 1
    i, j = np.arange(n)[:, None], np.arange(m)
    gap = abs(i * (long / max(n - 1, 1)) - j * (long / max(m - 1, 1)))
    step = (long / max(min(n, m) - 1, 1)) / 2  # so that the band never breaks
    return gap <= max(radius, step)


def itakura(n, m, slope=2.0):
    """Parallelogram of cells that lines of bounded slope reach from both ends of a table.

    Parameters
    ----------
    n, m : int
        Size of the table.
    slope : float, default 2.0
        Largest slope relative to the diagonal, at least 1.

    Returns
    -------
    boolean array of shape [n, m]
        The band.

    Raises
    ------
    ValueError
        If `slope` is below 1.

    Notes
    -----
    O(nm). Itakura's parallelogram, widened to whole cells. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> from diffopt import itakura
    >>> print(itakura(4, 4).astype(int))
    [[1 0 0 0]
     [0 1 1 0]
     [0 1 1 0]
     [0 0 0 1]]
    """
    if slope < 1:
        raise ValueError(f"slope must be at least 1, got {slope}")
    i, j = np.arange(n)[:, None] / max(n - 1, 1), np.arange(m) / max(m - 1, 1)
    cell = 0.5 / max(min(n, m) - 1, 1) + 1e-9

    def between(a, b):
        return (b <= slope * a + cell) & (a <= slope * b + cell)

    return between(i, j) & between(1 - i, 1 - j)


# --- of two series ------------------------------------------------------------------------------


def soft_dtw(
    x,
    y,
    *,
    gamma=1.0,
    cost=squared_euclidean,
    x_length=None,
    y_length=None,
    band=None,
):
    r"""Soft-DTW of two series: a smooth version of dynamic time warping.

    .. math::

        \operatorname{sdtw}_\gamma(C), \qquad C_{ij} = c(x_i, y_j)

    It may be negative, and its minimum over x is not at y; see
    :func:`~diffopt.soft_dtw_divergence`.

    Parameters
    ----------
    x, y : arrays of shapes [n, d] and [m, d]
        The series.
    gamma : float or scalar array, default 1.0
        Temperature; 0 gives DTW, infinity the mean cost.
    cost : function, default squared_euclidean
        Cost of two points of shape [d].
    x_length, y_length : int or integer scalar array, optional
        How many points count.
    band : boolean array of shape [n, m], optional
        Cells that alignments may use.

    Returns
    -------
    scalar
        The value.

    Raises
    ------
    TypeError
        If a series is not an array of real numbers, or `band` is not boolean.
    ValueError
        If the series do not have the same number of features, or as in
        :func:`~diffopt.soft_dtw_from_cost`.

    Notes
    -----
    O(nm) time, and O(m) memory beyond the table of costs. The gradient in x is
    :math:`\sum_j E_{ij} \nabla_1 c(x_i, y_j)`. Cuturi and Blondel :cite:p:`cuturi2017soft`; Blondel
    et al. :cite:p:`blondel2021differentiable`, section 2. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.soft_dtw import soft_dtw
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [0.0], [1.0]])
    >>> print(soft_dtw(x, y, gamma=0.0))
    0.0
    """
    x, y = _series(x, y)
    found = _of_series(x, y, gamma, cost, x_length, y_length, band)
    if found is not None:
        operands, scale = found
        return (scale * _pair(*operands)).astype(x.dtype)
    costs = _table(cost, x, y)
    return soft_dtw_from_cost(costs, gamma=gamma, x_length=x_length, y_length=y_length, band=band)


def sharp_soft_dtw(
    x,
    y,
    *,
    gamma=1.0,
    cost=squared_euclidean,
    x_length=None,
    y_length=None,
    band=None,
):
    r"""Sharp soft-DTW of two series: the mean cost of their alignments at a temperature.

    .. math:: \langle E_\gamma(C), C\rangle

    Parameters
    ----------
    x, y, gamma, cost, x_length, y_length, band
        As in :func:`~diffopt.soft_dtw`.

    Returns
    -------
    scalar
        The value: soft-DTW without its entropy, never below DTW.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw`.

    Notes
    -----
    O(nm) time and memory. Blondel et al. :cite:p:`blondel2021differentiable`, section 4. Chapter:
    :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.soft_dtw import sharp_soft_dtw, soft_dtw
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [0.0], [3.0]])
    >>> print(bool(sharp_soft_dtw(x, y) > soft_dtw(x, y, gamma=0.0) > soft_dtw(x, y)))
    True
    """
    x, y = _series(x, y)
    found = _of_series(x, y, gamma, cost, x_length, y_length, band)
    if found is not None:
        operands, scale = found
        return (scale * _sharp_pair(*operands)).astype(x.dtype)
    costs = _table(cost, x, y)
    # The mean over all alignments does not depend on finite costs: then it is the same for a batch.
    infinite = not isinstance(gamma, jax.core.Tracer) and np.array_equal(gamma, math.inf)
    open_table = jnp.zeros(costs.shape, costs.dtype)
    table = open_table if infinite and cost in _FINITE else costs
    options = {"x_length": x_length, "y_length": y_length, "band": band}
    mean = expected_alignment(table, gamma=gamma, **options)
    return inner(mean, costs)


def mean_cost(x, y, *, cost=squared_euclidean, **options):
    r"""Mean cost of all alignments of two series, each with the same weight.

    .. math:: \langle E_\infty, C\rangle

    Parameters
    ----------
    x, y, cost, **options
        As in :func:`~diffopt.soft_dtw`; there is no `gamma`.

    Returns
    -------
    scalar
        The limit of :func:`~diffopt.sharp_soft_dtw` for large gamma.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw`.

    Notes
    -----
    O(nm) time and memory. Blondel et al. :cite:p:`blondel2021differentiable`, section 4. Chapter:
    :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import mean_cost
    >>> print(mean_cost(jnp.array([[0.0], [3.0]]), jnp.array([[0.0], [3.0]])))
    6.0
    """
    return sharp_soft_dtw(x, y, gamma=math.inf, cost=cost, **options)


def soft_dtw_divergence(x, y, *, x_length=None, y_length=None, band=None, **options):
    r"""Soft-DTW divergence of two series: soft-DTW made zero at equal series.

    .. math::

        D_\gamma(x, y) = \operatorname{sdtw}_\gamma(C(x, y))
        - \tfrac12 \operatorname{sdtw}_\gamma(C(x, x))
        - \tfrac12 \operatorname{sdtw}_\gamma(C(y, y))

    Parameters
    ----------
    x, y, x_length, y_length, band, **options
        As in :func:`~diffopt.soft_dtw`. A band is of the alignment of x with y.

    Returns
    -------
    scalar
        The value, zero at equal series. Non-negative for the cost :func:`~diffopt.log_augmented` at
        gamma = 1; with the squared distance some pairs of series have a negative one.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw`.

    Notes
    -----
    O(nm + n² + m²) time. Blondel et al. :cite:p:`blondel2021differentiable`, section 3. Chapter:
    :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_dtw_divergence
    >>> x = jnp.array([[0.0], [1.0], [4.0]])
    >>> print(soft_dtw_divergence(x, x))
    0.0
    """
    return _divergence(soft_dtw, x, y, x_length, y_length, band, options)


def sharp_divergence(x, y, *, x_length=None, y_length=None, band=None, **options):
    r"""Sharp divergence of two series: as the soft-DTW divergence, of sharp soft-DTW.

    Parameters
    ----------
    x, y, x_length, y_length, band, **options
        As in :func:`~diffopt.soft_dtw_divergence`.

    Returns
    -------
    scalar
        The value, zero at equal series.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw`.

    Notes
    -----
    O(nm + n² + m²) time and memory. Blondel et al. :cite:p:`blondel2021differentiable`, section 4.
    Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import sharp_divergence
    >>> x = jnp.array([[0.0], [1.0], [4.0]])
    >>> print(sharp_divergence(x, x))
    0.0
    """
    return _divergence(sharp_soft_dtw, x, y, x_length, y_length, band, options)


def mean_cost_divergence(x, y, *, x_length=None, y_length=None, band=None, **options):
    r"""Mean-cost divergence of two series: as the soft-DTW divergence, of the mean cost.

    Parameters
    ----------
    x, y, x_length, y_length, band, **options
        As in :func:`~diffopt.soft_dtw_divergence`; there is no `gamma`.

    Returns
    -------
    scalar
        The value, zero at equal series.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~diffopt.soft_dtw`.

    Notes
    -----
    O(nm + n² + m²) time and memory. Blondel et al. :cite:p:`blondel2021differentiable`, section 4.
    Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import mean_cost_divergence
    >>> x = jnp.array([[0.0], [1.0], [4.0]])
    >>> print(mean_cost_divergence(x, x))
    0.0
    """
    return _divergence(mean_cost, x, y, x_length, y_length, band, options)


def _divergence(loss, x, y, x_length, y_length, band, options):
    between = loss(x, y, x_length=x_length, y_length=y_length, band=band, **options)
    own = loss(x, x, x_length=x_length, y_length=x_length, **options)
    other = loss(y, y, x_length=y_length, y_length=y_length, **options)
    return between - (own + other) / 2


# --- the soft minimum of one table, and its derivatives -----------------------------------------


def _series(x, y):
    x, y = as_float(x, "x"), as_float(y, "y")
    for name, series in (("x", x), ("y", y)):
        if series.ndim != 2 or 0 in series.shape:
            raise ValueError(
                f"{name} must have shape [length, features], got {series.shape}; "
                "map over batches with jax.vmap, and write one feature as [:, None]"
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have as many features, got {x.shape[1]} and {y.shape[1]}")
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)


def _table(cost, x, y):
    """Costs of all pairs of points."""
    scale = _SCALES.get(cost)
    if scale is None:
        return jax.vmap(jax.vmap(cost, (None, 0)), (0, None))(x, y)
    return scale * _squared_distances(x, y)


@jax.custom_jvp
def _squared_distances(x, y):
    return sum((a[:, None] - b[None]) ** 2 for a, b in zip(x.T, y.T, strict=True))


@_squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
    """By products of matrices, of which the transposes are fast.

    To keep digits, distances are seen from a point of x: the first, which is never padding.
    """
    (x, y), (dx, dy) = primals, tangents
    origin = jax.lax.stop_gradient(x[:1])
    a, b = x - origin, y - origin
    across = jnp.sum(a * dx, axis=1)[:, None] - dx @ b.T - a @ dy.T + jnp.sum(b * dy, axis=1)[None]
    return _squared_distances(x, y), 2 * across


def _prepare(costs, gamma, x_length, y_length, band):
    """Check arguments; close what is outside band and lengths; None for an infinite gamma."""
    costs = as_float(costs, "costs")
    if costs.ndim != 2 or 0 in costs.shape:
        raise ValueError(
            f"costs must be a table of shape [n, m], got {costs.shape}; map over batches "
            "with jax.vmap"
        )
    dtype, (n, m) = costs.dtype, costs.shape
    costs = costs.astype(working_dtype(dtype))
    if band is not None:
        band = jnp.asarray(band)
        if band.dtype != bool:
            raise TypeError(f"band must be a boolean table, got dtype {band.dtype}")
        if band.shape != (n, m):
            raise ValueError(f"band must have the shape of the table, {(n, m)}, got {band.shape}")
        costs = jnp.where(band, costs, jnp.inf)
    if x_length is not None or y_length is not None:
        costs = wavefront.cut(
            costs, _length(x_length, n, "x_length"), _length(y_length, m, "y_length")
        )
    finish = lambda result: result.astype(dtype)
    return costs, _temperature(gamma, costs.dtype), finish


def _temperature(gamma, dtype):
    """Check a temperature; None where it is infinite."""
    if not isinstance(gamma, jax.core.Tracer):
        try:
            known = np.asarray(gamma, float)
        except (TypeError, ValueError):
            known = np.full(1, np.nan)
        if known.shape or not known >= 0:
            raise ValueError(f"gamma must be one number, at least 0, got {gamma!r}")
        if known == math.inf:
            return None
    return jnp.asarray(gamma).astype(dtype)


def _length(length, size, name):
    length = _or(length, size)
    if not isinstance(length, jax.core.Tracer) and not 1 <= int(length) <= size:
        raise ValueError(f"{name} must lie between 1 and {size}, got {length}")
    return length


def _or(length, size):
    return size if length is None else length


def _uniform(costs):
    """Mean of all alignments that are possible."""
    flat = jnp.where(costs < jnp.inf, 0, jnp.inf).astype(costs.dtype)
    return _mean(flat, jnp.ones((), flat.dtype))[0]


@jax.custom_jvp
def _mean(costs, gamma):
    """Mean alignment and value."""
    mean, value = _mean_kernel(costs.ravel(), gamma[None], flags=costs.shape)
    return mean.reshape(costs.shape), value[0]


@_mean.defjvp
def _mean_jvp(primals, tangents):
    """The mean depends on the quotient of costs and gamma alone."""
    (costs, gamma), (dcosts, dgamma) = primals, tangents
    mean, value = _mean(costs, gamma)
    soft = gamma > 0
    scale, used = jnp.where(soft, gamma, 1), costs < jnp.inf
    finite = jnp.where(used, costs, 0) / scale  # what is infinite must have no derivative
    direction = jnp.where(used, dcosts - finite * dgamma, 0) / scale
    relative = jnp.where(used, finite, jnp.inf)
    dmean = _curve_kernel(direction.ravel(), relative.ravel(), flags=costs.shape)
    dvalue = inner(mean, dcosts) + _slope(costs, gamma, mean, value) * dgamma
    return (mean, value), (jnp.where(soft, dmean.reshape(costs.shape), 0), dvalue)


@jax.custom_jvp
def _soft(costs, gamma):
    return _value_kernel(gamma[None], costs.ravel(), flags=costs.shape)[0]


@_soft.defjvp
def _soft_jvp(primals, tangents):
    (costs, gamma), (dcosts, dgamma) = primals, tangents
    mean, value = _mean(costs, gamma)
    return value, inner(mean, dcosts) + _slope(costs, gamma, mean, value) * dgamma


def _slope(costs, gamma, mean, value):
    return _minus_entropy(gamma, inner(mean, costs), value)


def _minus_entropy(gamma, sharp, value):
    """Derivative of the value in gamma."""
    soft = (gamma > 0) & (value < jnp.inf)
    gap = jnp.where(soft, value, 0) - jnp.where(soft, sharp, 0)
    return jnp.minimum(gap / jnp.where(soft, gamma, 1), 0)


# --- of two series, without a table -------------------------------------------------------------


def _of_series(x, y, gamma, cost, x_length, y_length, band):
    """Operands of the kernels that take series, and the scale of the cost; None where it must be
    by a table."""
    scale = _SCALES.get(cost)
    known = not isinstance(gamma, jax.core.Tracer)
    if scale is None or band is not None or (known and np.array_equal(gamma, math.inf)):
        return None
    dtype = working_dtype(x.dtype)
    gamma = _temperature(gamma, dtype) / scale
    (n, d), m = x.shape, len(y)
    ends = _length(x_length, n, "x_length"), _length(y_length, m, "y_length")
    known = not any(isinstance(end, jax.core.Tracer) for end in ends)
    lengths = (np if known else jnp).array(ends, np.int32)
    return (x.astype(dtype).ravel(), y.astype(dtype).ravel(), gamma, lengths, d), scale


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _pair(x, y, gamma, lengths, d):
    """Soft-DTW of two flat series."""
    return _pair_kernel(gamma[None], x, y, lengths, flags=(d,))[0]


@_pair.defjvp
def _pair_jvp(d, primals, tangents):
    (_, _, gamma, _), (dx, dy, dgamma, _) = primals, tangents
    value, sharp, gx, gy = _pair_slope(*primals, d)
    return value, gx @ dx + gy @ dy + _minus_entropy(gamma, sharp, value) * dgamma


def _make_slope(kernel, in_tables):
    """Make gradients by a kernel on series, and theirs in turn by tables."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
    def slope(x, y, gamma, lengths, d):
        first, second, gx, gy = kernel(x, y, gamma[None], lengths, flags=(d,))
        return first[0], second[0], gx, gy

    @slope.defjvp
    def slope_jvp(d, primals, tangents):
        x, y, gamma, lengths = primals
        found = functools.partial(in_tables, lengths=lengths, d=d)
        return slope(*primals, d), jax.jvp(found, (x, y, gamma), tangents[:3])[1]

    return slope


def _cut_table(x, y, lengths, d):
    costs = _squared_distances(x.reshape(-1, d), y.reshape(-1, d))
    return wavefront.cut(costs, lengths[0], lengths[1])


def _slope_in_tables(x, y, gamma, lengths, d):
    costs, pull = jax.vjp(lambda x, y: _cut_table(x, y, lengths, d), x, y)
    mean, value = _mean(costs, gamma)
    return value, inner(mean, costs), *pull(mean)


def _sharp_in_tables(x, y, gamma, lengths, d):
    def sharp(x, y, gamma):
        costs = _cut_table(x, y, lengths, d)
        return inner(_mean(costs, gamma)[0], costs)

    value, (gx, gy, change) = jax.value_and_grad(sharp, (0, 1, 2))(x, y, gamma)
    return value, -gamma * change, gx, gy


_pair_slope = _make_slope(_slope_kernel, _slope_in_tables)
_sharp_slope = _make_slope(_sharp_kernel, _sharp_in_tables)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _sharp_pair(x, y, gamma, lengths, d):
    """Sharp soft-DTW of two flat series."""
    return _pair_slope(x, y, gamma, lengths, d)[1]


@_sharp_pair.defjvp
def _sharp_pair_jvp(d, primals, tangents):
    (_, _, gamma, _), (dx, dy, dgamma, _) = primals, tangents
    sharp, change, gx, gy = _sharp_slope(*primals, d)
    slope = jnp.where(gamma > 0, -change / jnp.where(gamma > 0, gamma, 1), 0)
    return sharp, gx @ dx + gy @ dy + slope * dgamma
