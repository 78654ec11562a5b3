"""Norms on the simplex, and half the squared Euclidean norm on any set."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffopt.kernels import thresholds
from diffopt.regularizers.base import Regularizer, check_order

__all__ = ["Norm", "SquaredNorm", "SquaredNormOn"]


@dataclasses.dataclass(frozen=True)
class Norm(Regularizer):
    r"""Norm negentropies :math:`\|p\|_q - 1` on the simplex.

    .. math::

        \hat y(\theta) \propto [\theta - \tau]_+^{1/(q-1)}

    where :math:`\tau` makes the dual norm of :math:`[\theta - \tau]_+` one. The margin is 1.

    Parameters
    ----------
    q : float, default 2.0
        The order of the norm, above 1; infinity gives the index of Berger and Parker, whose
        predictions are uniform over a support.

    Raises
    ------
    ValueError
        If `q` is not above 1.
    TypeError
        If `q` is not a number.

    Notes
    -----
    Blondel et al. :cite:p:`blondel2020learning`, section 4.3. With r = 1 / (q - 1), b the vector
    :math:`p_i^{2-q} \|p\|_q^{q-1}` on the support and :math:`\dot\theta = \mathrm{d}\theta -
    \langle p, \mathrm{d}\theta\rangle`: :math:`\mathrm{d}p = r\,(b \dot\theta - p \langle b,
    \dot\theta\rangle)`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Norm
    >>> print(Norm(2.0).argmax(jnp.array([0.0, 1.0])))
    [0. 1.]
    """

    q: float = 2.0
    sums_to_one = True

    def __post_init__(self):
        check_order(self.q, 1, math.inf, "q", closed=True)

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.normmax(theta, float(self.q))

    def value_of_rows(self, p):
        """Return the value on the last axis; that of a row without items is -1."""
        return _norm(p, self.q) - 1


@dataclasses.dataclass(frozen=True)
class SquaredNorm(Regularizer):
    r"""Squared norm negentropies :math:`\tfrac12 (\|p\|_q^2 - 1)` on the simplex.

    .. math::

        \hat y(\theta) \propto [\theta - \tau]_+^{1/(q-1)}

    where, with r = 1 / (q - 1) and :math:`a = [\theta - \tau]_+`, the threshold makes
    :math:`\|a\|_{1+r}^{1-r} \sum_i a_i^r` one. For q = 2 this is ``Gini``. The margin is 1.

    Parameters
    ----------
    q : float, default 1.5
        The order of the norm, above 1 and finite.

    Raises
    ------
    ValueError
        If `q` is not above 1, or infinite.
    TypeError
        If `q` is not a number.

    Notes
    -----
    Blondel et al. :cite:p:`blondel2020learning`, section 4.3. The derivative is
    :math:`H^{-1} - H^{-1} 1 1^\top H^{-1} / 1^\top H^{-1} 1` with the Hessian H of the
    regularizer on the support, a diagonal matrix plus one of rank one.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import SquaredNorm
    >>> print(SquaredNorm(1.5).argmax(jnp.array([0.5, 0.5, -2.0])))
    [0.5 0.5 0. ]
    """

    q: float = 1.5
    sums_to_one = True

    def __post_init__(self):
        check_order(self.q, 1, math.inf, "q")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.squared_normmax(theta, float(self.q))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        return (_norm(p, self.q) ** 2 - 1) / 2


def _norm(p, q):
    """Norm over the last axis, scaled against overflow; its derivative at zero is zero."""
    top = jax.lax.stop_gradient(abs(p).max(-1, initial=0))
    if q == math.inf:
        return abs(p).max(-1, initial=0)
    scale = jnp.where(top > 0, top, 1)
    power = ((abs(p) / scale[..., None]) ** q).sum(-1)
    return jnp.where(power == 0, 0, jnp.where(power == 0, 1, power) ** (1 / q) * scale)


@dataclasses.dataclass(frozen=True)
class SquaredNormOn(Regularizer):
    r"""Half the squared norm on any convex set, given the projection onto it.

    .. math::

        \Omega(p) = \tfrac12 \|p\|^2 \text{ on } \mathcal C, \qquad
        \hat y(\theta) = \operatorname*{argmin}_{p \in \mathcal C} \tfrac12 \|p - \theta\|^2

    Parameters
    ----------
    project : callable
        The Euclidean projection along the last axis, from scores to points of the set.

    Notes
    -----
    The derivative of the loss needs the projection, not its derivative. Blondel et al.
    :cite:p:`blondel2020learning`, section 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import SquaredNormOn
    >>> cube = SquaredNormOn(lambda theta: jnp.clip(theta, 0, 1))
    >>> print(cube.argmax(jnp.array([2.0, 0.5, -1.0])))
    [1.  0.5 0. ]
    """

    project: Callable
    takes_mask = False

    def __post_init__(self):
        if not callable(self.project):
            raise TypeError(f"project must be a function of the scores, got {self.project!r}")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return self.project(theta)

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        return 0.5 * (p * p).sum(-1)

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis: the distance to p, and the angle at p."""
        angle = ((theta - p) * (p - y)).sum(-1)
        return 0.5 * ((y - p) ** 2).sum(-1) + jnp.maximum(angle, 0)
