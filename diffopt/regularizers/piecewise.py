"""Regularizers with a linear part: costs, as in the hinge loss, and a total variation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffopt.isotonic import no_tangent
from diffopt.kernels import thresholds
from diffopt.kernels.thresholds import total
from diffopt.kernels.total_variation import fuse, mean_of_kept
from diffopt.regularizers.base import Regularizer, known_array

__all__ = ["CostAugmented", "Fused", "Zero"]


@dataclasses.dataclass(frozen=True)
class CostAugmented(Regularizer):
    r"""Minus a linear function on the simplex: the hinge loss.

    .. math::

        \Omega(p) = -\langle c, p\rangle, \qquad \Omega^*(\theta) = \max_i \theta_i + c_i

    With the cost :math:`c = 1 - y` of a label y, the loss is the multi-class hinge loss.

    Parameters
    ----------
    cost : array that broadcasts to the shape of the scores
        The cost c of predicting each item.

    Notes
    -----
    The prediction is a vertex, tied items share; its derivative is zero. Crammer and Singer's
    loss; Blondel et al. :cite:p:`blondel2020learning`, table 1. The margin is the largest
    difference of two costs.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import CostAugmented
    >>> print(CostAugmented(jnp.array([0.0, 1.0])).argmax(jnp.array([0.5, 0.0])))
    [0. 1.]
    """

    cost: float | jax.Array
    sums_to_one = True
    per_item = ("cost",)

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        best = jax.lax.stop_gradient(thresholds.center(theta + self.cost))
        best = jnp.where(jnp.isnan(best), best, (best == 0).astype(theta.dtype))
        return best / jnp.maximum(total(best), 1)

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        return -(self.cost * p).sum(-1)

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis: how far the targets lie below the best, on average."""
        del p
        slack = jnp.where(y == 0, 0, thresholds.center(theta + self.cost))
        return -jnp.where(y == 0, 0, slack * y).sum(-1)


class Zero(CostAugmented):
    r"""Zero on the simplex: the argmax as a one-hot vector, and the perceptron loss.

    The conjugate is the largest score; tied items share the prediction, which has derivative
    zero. Blondel et al. :cite:p:`blondel2020learning`, table 1. The margin is 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Zero
    >>> print(Zero().argmax(jnp.array([1.0, 3.0, 3.0])))
    [0.  0.5 0.5]
    """

    def __init__(self):
        super().__init__(0)


@dataclasses.dataclass(frozen=True)
class Fused(Regularizer):
    r"""Half the squared norm plus a total variation, on the simplex: neighbours share.

    .. math::

        \Omega(p) = \tfrac12 (\|p\|^2 - 1) + \lambda \sum_i |p_{i+1} - p_i|

    The prediction is the sparsemax of the scores after a proximal step of the total variation.
    Dropped items are left out: their neighbours become neighbours.

    Parameters
    ----------
    weight : float or array of size 1 along the axis, default 1.0
        The weight :math:`\lambda` of the total variation, not negative.

    Raises
    ------
    ValueError
        If `weight` is known and negative or not finite.

    Notes
    -----
    Niculae and Blondel :cite:p:`niculae2017regularized`. The derivative takes
    means over the blocks of the proximal step and then is that of :func:`~diffopt.sparsemax`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Fused
    >>> print(Fused(0.25).argmax(jnp.array([1.25, 1.0, 0.0])))
    [0.5 0.5 0. ]
    """

    weight: float | jax.Array = 1.0
    sums_to_one = True

    def __post_init__(self):
        known = known_array(self.weight, "weight", 0)
        if not ((known >= 0) & (known < np.inf)).all():
            raise ValueError(f"weight must be at least 0 and finite, got {self.weight}")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        fused = _fuse(theta, jnp.asarray(self.weight, theta.dtype))[0]
        return thresholds.entmax(fused, jnp.ones((), theta.dtype), 2)

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        return self.value_where(p, jnp.ones(p.shape, bool))

    def value_where(self, p, kept):
        """Return the value on the last axis, over the items that are kept."""
        here = jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
        last = jax.lax.cummax(jnp.where(kept, here, -1), axis=p.ndim - 1)
        before = jnp.pad(last, [(0, 0)] * (p.ndim - 1) + [(1, 0)], constant_values=-1)[..., :-1]
        jump = p - jnp.take_along_axis(p, jnp.maximum(before, 0), -1)
        variation = jnp.where(kept & (before >= 0), abs(jump), 0)
        weight = jnp.asarray(self.weight, p.dtype)
        return ((p * p - p) / 2 + weight * variation).sum(-1)


@jax.custom_jvp
def _fuse(theta, weight):
    """Proximal step of the total variation; also its blocks and what pulls at them."""
    return tuple(fuse(thresholds.center(theta), weight))


@functools.partial(_fuse.defjvp, symbolic_zeros=True)
def _fuse_jvp(primals, tangents):
    fused, block, pull = _fuse(*primals)
    dtheta, dweight = tangents
    moved = jnp.zeros_like(fused)
    if not isinstance(dtheta, SymbolicZero):
        moved = moved + mean_of_kept(dtheta, fused > -jnp.inf, block)
    if not isinstance(dweight, SymbolicZero):
        moved = moved + pull * dweight
    return (fused, block, pull), (moved, no_tangent(block), jnp.zeros_like(pull))
