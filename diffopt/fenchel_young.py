r"""Fenchel-Young losses: a loss for every regularizer.

For a regularizer :math:`\Omega` with conjugate :math:`\Omega^*`, the Fenchel-Young loss of scores
:math:`\theta` and a target y is

.. math::

    L_\Omega(\theta; y) = \Omega^*(\theta) + \Omega(y) - \langle\theta, y\rangle .

It is convex in :math:`\theta`, not negative, zero exactly where y is the prediction
:math:`\hat y_\Omega(\theta)`, and has gradient :math:`\hat y_\Omega(\theta) - y`. Blondel, Martins
and Niculae :cite:p:`blondel2020learning`. Chapter: :ref:`fenchel_young`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffopt.checks import as_float, check_shape
from diffopt.regularizers import (
    CostAugmented,
    FermiDirac,
    Norm,
    Regularizer,
    Renyi,
    SquaredNorm,
    Tsallis,
)
from diffopt.regularizers.base import check_data, slope_in_fields, to_rows

__all__ = ["fenchel_young_loss", "separation_margin"]


def fenchel_young_loss(theta, y, regularizer, *, axis=-1, where=None):
    r"""Fenchel-Young loss of scores and targets, its true value.

    .. math::

        L_\Omega(\theta; y) = \max_p \; \langle\theta, p\rangle - \Omega(p)
        \;+\; \Omega(y) - \langle\theta, y\rangle

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores, along `axis`. For regularizers on the simplex, minus infinity drops an item;
        the loss of a target that has mass there is infinite.
    y : array that broadcasts to the shape of `theta`
        Targets in the domain of the regularizer, which is not checked: on the simplex, one-hot
        labels or proportions that sum to 1.
    regularizer : Regularizer
        Which :math:`\Omega`, say ``Gini()``.
    axis : int, default -1
        The axis of the items.
    where : boolean array that broadcasts to the shape of `theta`, optional
        Items that take part. Without any, the loss is 0.

    Returns
    -------
    array of the shape of `theta` without `axis`, in its dtype
        Not negative; exactly zero where y is the prediction.

    Raises
    ------
    TypeError
        If `theta` or `y` is not an array of real numbers, `where` not one of booleans, or
        `regularizer` no regularizer.
    ValueError
        If `axis` or a shape is invalid.

    Notes
    -----
    The cost of one prediction. The gradient in `theta` is the prediction minus `y`, without
    differentiating the solver; that in `y` is :math:`\nabla\Omega(y) - \theta`, up to a constant
    along `axis` on the simplex. For Tsallis entropies the value is a Bregman divergence of y from
    the prediction plus what the threshold cut off, and nothing cancels. Blondel et al.
    :cite:p:`blondel2020learning`, definition 2 and proposition 2. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from diffopt.fenchel_young import fenchel_young_loss
    >>> from diffopt.regularizers import Gini
    >>> theta, y = jnp.array([-2.0, 0.0, 0.5]), jnp.array([0.0, 1.0, 0.0])
    >>> print(fenchel_young_loss(theta, y, Gini()))
    0.5625
    >>> print(jax.grad(fenchel_young_loss)(theta, y, Gini()))
    [ 0.   -0.75  0.75]
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(f"regularizer must be a Regularizer, say Gini(), got {regularizer!r}")
    theta, axis, where = check_data(regularizer, theta, axis, where, "theta")
    y = check_shape(as_float(y, "y"), theta.shape, "y", "theta").astype(theta.dtype)
    return _fenchel_young_loss(regularizer, theta, y, where, axis)


@functools.partial(jax.jit, static_argnames="axis")
def _fenchel_young_loss(regularizer, theta, y, where, axis):
    _, target = to_rows(regularizer, y, where, axis, 0)
    regularizer, scores = to_rows(regularizer, theta, where, axis, -jnp.inf)
    return _loss(regularizer, scores, target).astype(theta.dtype)


@jax.custom_jvp
def _loss(regularizer, theta, y):
    return regularizer.loss_of_rows(theta, y, regularizer.argmax_of_rows(theta))


@functools.partial(_loss.defjvp, symbolic_zeros=True)
def _loss_jvp(primals, tangents):
    regularizer, theta, y = primals
    dregularizer, dtheta, dy = tangents
    p, kept = regularizer.argmax_of_rows(theta), regularizer.kept(theta)
    moved = slope_in_fields(regularizer, dregularizer, y, kept)
    moved = moved - slope_in_fields(regularizer, dregularizer, p, kept)
    if not isinstance(dtheta, SymbolicZero):
        moved = moved + ((p - y) * dtheta).sum(-1)
    if not isinstance(dy, SymbolicZero):
        slope = jax.grad(lambda y: regularizer.value_where(y, kept).sum())(y)
        slope = slope - jnp.where(kept, regularizer.scores(theta), 0)
        moved = moved + jnp.where(kept, slope * dy, 0).sum(-1)
    return regularizer.loss_of_rows(theta, y, p), moved


def separation_margin(regularizer):
    r"""Return the separation margin of a regularizer's Fenchel-Young loss.

    The smallest m such that the loss of a label k is zero whenever

    .. math::

        \theta_k \ge m + \max_{j \ne k} \theta_j ,

    and infinity where the loss never is zero.

    Parameters
    ----------
    regularizer : Regularizer
        One with a known margin: ``Tsallis`` and its relatives (:math:`1 / (\alpha - 1)`),
        ``Norm`` and ``SquaredNorm`` (1), ``CostAugmented`` (the largest difference
        of costs) and ``Zero`` (0), ``Renyi`` and ``FermiDirac`` (infinite).

    Returns
    -------
    float, or array where the regularizer has arrays

    Raises
    ------
    TypeError
        If no margin is known.

    Notes
    -----
    Blondel et al. :cite:p:`blondel2020learning`, section 5. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    >>> from diffopt.fenchel_young import separation_margin
    >>> from diffopt.regularizers import Gini, Shannon
    >>> separation_margin(Gini()), separation_margin(Shannon())
    (1.0, inf)
    """
    match regularizer:
        case Tsallis(alpha=int() | float() as alpha):
            return math.inf if alpha == 1 else 1 / (alpha - 1)
        case Tsallis(alpha=alpha):
            return 1 / (jnp.asarray(alpha) - 1)
        case Norm() | SquaredNorm():
            return 1.0
        case CostAugmented(cost=int() | float()):
            return 0.0
        case CostAugmented(cost=cost):
            return jnp.max(cost, -1) - jnp.min(cost, -1) if np.ndim(cost) else 0.0
        case Renyi() | FermiDirac():
            return math.inf
    raise TypeError(f"regularizer must have a known margin, got {regularizer!r}")
