"""The prediction maps that have names of their own."""

import dataclasses

import jax
import jax.numpy as jnp

from diffopt.permutahedron import project_sorted
from diffopt.regularizers.base import Regularizer, argmax_along, check_data, known_array
from diffopt.regularizers.entropies import Gini, Shannon, Tsallis
from diffopt.regularizers.norms import Norm
from diffopt.regularizers.piecewise import Fused

__all__ = ["budget", "entmax", "fusedmax", "normmax", "softmax", "sparsemax"]


def softmax(theta, *, axis=-1, where=None):
    r"""Softmax: the prediction map of Shannon's negentropy.

    .. math::

        \operatorname*{argmax}_{p \in \triangle} \;
        \langle\theta, p\rangle - \sum_i p_i \log p_i
        = \frac{e^\theta}{\sum_i e^{\theta_i}}

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`. Minus infinity drops an item; plus infinity takes all, in equal
        shares.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part. Others have probability 0.

    Returns
    -------
    array of the shape and dtype of `theta`
        Probabilities, which sum to 1; zeros where no item takes part. A NaN makes its row NaN.

    Raises
    ------
    TypeError
        If `theta` is not an array of real numbers, or `where` not one of booleans.
    ValueError
        If `axis` or a shape is invalid.

    Notes
    -----
    O(n) time; derivative :math:`p (\mathrm{d}\theta - \langle p, \mathrm{d}\theta\rangle)`.
    Blondel et al. :cite:p:`blondel2020learning`, section 4.3. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import softmax
    >>> print(softmax(jnp.log(jnp.array([1.0, 3.0, 4.0]))))
    [0.125 0.375 0.5  ]
    """
    return Shannon().argmax(theta, axis=axis, where=where)


def sparsemax(theta, *, axis=-1, where=None):
    r"""Sparsemax: the Euclidean projection onto the probability simplex.

    .. math::

        \operatorname*{argmin}_{p \in \triangle} \; \tfrac12 \|p - \theta\|^2
        = [\theta - \tau]_+

    Parameters, results, errors as for :func:`~diffopt.softmax`.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part.

    Returns
    -------
    array of the shape and dtype of `theta`

    Notes
    -----
    Newton's method on the piecewise linear equation of the threshold, exact after finitely many
    passes of O(n) (Michelot :cite:p:`michelot1986finite`); no sort. The derivative subtracts the
    mean over the support. Martins and Astudillo :cite:p:`martins2016softmax`. Chapter:
    :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import sparsemax
    >>> print(sparsemax(jnp.array([-2.0, 0.0, 0.5])))
    [0.   0.25 0.75]
    """
    return Gini().argmax(theta, axis=axis, where=where)


def entmax(theta, alpha=1.5, *, axis=-1, where=None):
    r"""Entmax: the prediction map of a Tsallis negentropy, between softmax and hard argmax.

    .. math::

        \operatorname*{argmax}_{p \in \triangle} \; \langle\theta, p\rangle -
        \frac{1}{\alpha (\alpha - 1)} \sum_i (p_i^\alpha - p_i)
        = [(\alpha - 1)\,\theta - \tau]_+^{1 / (\alpha - 1)}

    Results and errors as for :func:`~diffopt.softmax`, and a ValueError if `alpha` is below 1.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`.
    alpha : float or array of size 1 along `axis`, default 1.5
        The order: 1 is :func:`~diffopt.softmax`, 2 is :func:`~diffopt.sparsemax`. May be
        differentiated.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part.

    Returns
    -------
    array of the shape and dtype of `theta`

    Notes
    -----
    Newton's method on the threshold, to rounding, in passes of O(n). With :math:`s_i =
    p_i^{2-\alpha}` on the support, :math:`\mathrm{d}p = s\,(\mathrm{d}\theta - \langle s,
    \mathrm{d}\theta\rangle / \sum_i s_i)`; the derivative in alpha is that of Correia et al.
    :cite:p:`correia2019adaptively`, in a form that is stable towards 1. Peters et al.
    :cite:p:`peters2019sparse`. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import entmax
    >>> print(entmax(jnp.array([-2.0, 0.0, 0.5])).round(3))
    [0.    0.326 0.674]
    """
    return Tsallis(alpha).argmax(theta, axis=axis, where=where)


def normmax(theta, q=2.0, *, axis=-1, where=None):
    r"""Normmax: the prediction map of a norm negentropy.

    .. math::

        \operatorname*{argmax}_{p \in \triangle} \; \langle\theta, p\rangle - \|p\|_q

    Results and errors as for :func:`~diffopt.softmax`, and a ValueError if `q` is not above 1.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`.
    q : float, default 2.0
        The order of the norm, above 1, possibly infinite.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part.

    Returns
    -------
    array of the shape and dtype of `theta`

    Notes
    -----
    Newton's method on the convex equation of the threshold, in passes of O(n); derivative and
    reference as for ``Norm``. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import normmax
    >>> print(normmax(jnp.array([0.0, 1.0])), normmax(jnp.array([0.0, 0.0])))
    [0. 1.] [0.5 0.5]
    """
    return Norm(q).argmax(theta, axis=axis, where=where)


def fusedmax(theta, weight=1.0, *, axis=-1, where=None):
    r"""Fusedmax: sparse probabilities in which neighbours share a value.

    .. math::

        \operatorname*{argmin}_{p \in \triangle} \; \tfrac12 \|p - \theta\|^2
        + \lambda \sum_i |p_{i+1} - p_i|

    Results and errors as for :func:`~diffopt.softmax`, and a ValueError if `weight` is negative.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, in order along `axis`.
    weight : float or array of size 1 along `axis`, default 1.0
        The weight :math:`\lambda` of the total variation; 0 gives :func:`~diffopt.sparsemax`.
        May be differentiated.
    axis : int, default -1
        The axis along which items are neighbours.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part; those that are left are neighbours.

    Returns
    -------
    array of the shape and dtype of `theta`

    Notes
    -----
    O(n) by dynamic programming, natively on a CPU. Elsewhere, segments are cut at the levels of
    their means until none divides: exact, each round O(n log n) and parallel, usually about log n
    of them. Niculae and Blondel
    :cite:p:`niculae2017regularized`; derivative as for ``Fused``. Chapter:
    :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import fusedmax
    >>> print(fusedmax(jnp.array([1.25, 1.0, 0.0]), 0.25))
    [0.5 0.5 0. ]
    """
    return Fused(weight).argmax(theta, axis=axis, where=where)


def budget(theta, k, *, axis=-1, where=None):
    r"""Budget: choose k items softly, each at most once.

    .. math::

        \operatorname*{argmin}_{p \in [0, 1]^n, \; \sum_i p_i = k} \; \tfrac12 \|p - \theta\|^2
        = \operatorname{clip}(\theta - \tau, 0, 1)

    Errors as for :func:`~diffopt.softmax`, and a ValueError if `k` is known and not in [0, n].

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`.
    k : number or array of size 1 along `axis`
        How many to choose, from 0 to n; need not be whole. For k = 1 this is
        :func:`~diffopt.sparsemax`.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part. With fewer than k, all of them are chosen.

    Returns
    -------
    array of the shape and dtype of `theta`
        Entries in [0, 1], which sum to k.

    Notes
    -----
    O(n log n): the set is the permutahedron of k ones and n - k zeros, see
    :func:`~diffopt.project_permutahedron`. The derivative subtracts the mean over the entries
    between 0 and 1; that in k is the one from the right. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import budget
    >>> print(budget(jnp.array([0.0, 0.25, 0.5, 0.75, 1.0]), 2))
    [0.    0.125 0.375 0.625 0.875]
    """
    count = _Budget(k)
    theta, axis, where = check_data(count, theta, axis, where, "theta")
    known = known_array(k, "k", 0)
    if not ((known >= 0) & (known <= theta.shape[axis])).all():
        raise ValueError(f"k must lie in [0, {theta.shape[axis]}], got {k}")
    return argmax_along(count, theta, where, axis)


@dataclasses.dataclass(frozen=True)
class _Budget(Regularizer):
    """Half the squared norm on the cube cut at a sum of k; the loss needs no more than that."""

    k: float | jax.Array

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        k = jnp.asarray(self.k, theta.dtype)
        whole = jnp.floor(jax.lax.stop_gradient(k))
        place = jax.lax.broadcasted_iota(jnp.int32, theta.shape, theta.ndim - 1)
        place = place.astype(theta.dtype)
        w = jnp.where(place < whole, 1, jnp.where(place == whole, k - whole, 0))
        return project_sorted(theta, w, theta > -jnp.inf, "l2")
