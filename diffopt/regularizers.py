r"""Regularizers, and the prediction maps that they define.

A regularizer :math:`\Omega` is a convex function on a convex set of predictions. It turns scores
:math:`\theta` into a prediction, and has a conjugate whose gradient that prediction is:

.. math::

    \hat y(\theta) = \operatorname*{argmax}_{p} \; \langle\theta, p\rangle - \Omega(p),
    \qquad
    \Omega^*(\theta) = \max_{p} \; \langle\theta, p\rangle - \Omega(p).

Each regularizer here is a small object with methods ``value``, ``max`` (the conjugate) and
``argmax`` (the prediction map). The maps that have names of their own are functions too. A new
regularizer is a subclass of ``Regularizer`` with two methods. Blondel, Martins and Niculae
:cite:p:`blondel2020learning`, sections 3 and 4. Chapter: :ref:`fenchel_young`.

Arguments that all share:

- `theta` of shape [..., n, ...], scores along `axis`; a score of minus infinity is dropped;
- `where`, a mask of the shape of `theta`: items outside take no part, and their prediction is 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffopt.checks import as_float, as_mask, check_axis, check_shape, working_dtype
from diffopt.isotonic import no_tangent
from diffopt.kernels import thresholds
from diffopt.kernels.total_variation import fuse, mean_of_kept
from diffopt.permutahedron import project_sorted

__all__ = [
    "CostAugmented",
    "FermiDirac",
    "Fused",
    "Gini",
    "Norm",
    "Regularizer",
    "Renyi",
    "Shannon",
    "SquaredNorm",
    "SquaredNormOn",
    "Tsallis",
    "Zero",
    "budget",
    "entmax",
    "fusedmax",
    "normmax",
    "softmax",
    "sparsemax",
]

total = thresholds.total


@dataclasses.dataclass(frozen=True)
class Regularizer:
    r"""A convex function of predictions, from which everything else follows.

    A subclass gives two methods, which work on the last axis of arrays of any rank:
    ``value_of_rows(p)``, without that axis, and ``argmax_of_rows(theta)``. It may add
    ``loss_of_rows(theta, y, p)``, a form of the Fenchel-Young loss that keeps more digits than
    :math:`\Omega(y) - \Omega(p) - \langle\theta, y - p\rangle`. With ``sums_to_one = True`` it
    says that predictions lie in the probability simplex, so that scores may be shifted. Fields
    that are arrays can be differentiated; numbers and functions are constants when compiling.

    Examples
    --------
    Half the squared norm on the unit cube:

    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Regularizer
    >>> class Cube(Regularizer):
    ...     def value_of_rows(self, p):
    ...         return 0.5 * (p * p).sum(-1)
    ...
    ...     def argmax_of_rows(self, theta):
    ...         return jnp.clip(theta, 0, 1)
    >>> print(Cube().argmax(jnp.array([2.0, 0.5, -1.0])))
    [1.  0.5 0. ]
    >>> print(Cube().max(jnp.array([2.0, 0.5, -1.0])))
    1.625
    """

    sums_to_one: ClassVar[bool] = (
        False  # whether scores may be shifted, and dropped by minus infinity
    )
    per_item: ClassVar[
        tuple[str, ...]
    ] = ()  # fields with an entry for each item; other arrays have one for each row

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_node(cls, _flatten, functools.partial(_unflatten, cls))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        raise NotImplementedError("a regularizer needs value_of_rows(p)")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        raise NotImplementedError("a regularizer needs argmax_of_rows(theta)")

    def value_where(self, p, kept):
        """Return the value on the last axis, over the items that are kept; the others are 0."""
        del kept
        return self.value_of_rows(p)

    def max_of_rows(self, theta, p):
        """Return the conjugate on the last axis, given the prediction `p`."""
        u = self.scores(theta)
        top = theta.max(-1, initial=-jnp.inf) if self.sums_to_one else 0
        gain = jnp.where(p == 0, 0, jnp.where(p == 0, 0, u) * p).sum(-1)
        return top + (gain - self.value_where(p, self.kept(theta)))

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis, given the prediction `p`: zero exactly at y = p."""
        kept, same = self.kept(theta), y == p
        slope = jnp.where(same, 0, jnp.where(same, 0, self.scores(theta)) * (y - p)).sum(-1)
        gap = self.value_where(y, kept) - self.value_where(p, kept) - slope
        return jnp.maximum(jnp.where(same.all(-1), 0, gap), 0)

    def scores(self, theta):
        """Return the scores, shifted to a maximum of zero where that changes nothing."""
        return thresholds.center(theta) if self.sums_to_one else theta

    def kept(self, theta):
        """Return which items take part."""
        return theta > -jnp.inf

    def value(self, p, *, axis=-1, where=None):
        r"""Return :math:`\Omega(p)`, without `axis`. Inside its domain, which is not checked."""
        p, axis, where = check_data(self, p, axis, where, "p")
        return _value(self, p, where, axis)

    def max(self, theta, *, axis=-1, where=None):
        r"""Return the conjugate :math:`\Omega^*(\theta)`, without `axis`; its gradient is `argmax`.

        Minus infinity where no item takes part.
        """
        theta, axis, where = check_data(self, theta, axis, where, "theta")
        return _max(self, theta, where, axis)

    def argmax(self, theta, *, axis=-1, where=None):
        r"""Return the prediction :math:`\hat y(\theta)`, of the shape of `theta`."""
        theta, axis, where = check_data(self, theta, axis, where, "theta")
        return _argmax(self, theta, where, axis)


# --- from arguments to rows -----------------------------------------------------------------------


def _is_leaf(value):
    return not (isinstance(value, (int, float, str)) or callable(value))


def _known(value, name, default):
    """Return a parameter as a NumPy array, or a valid one where it is traced."""
    if isinstance(value, jax.core.Tracer):
        return np.array(default, float)
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}") from None


def _flatten(regularizer):
    fields = {f.name: getattr(regularizer, f.name) for f in dataclasses.fields(regularizer)}
    leaves = {name: value for name, value in fields.items() if _is_leaf(value)}
    constants = tuple((name, value) for name, value in fields.items() if name not in leaves)
    return tuple(leaves.values()), (tuple(leaves), constants)


def _unflatten(cls, structure, leaves):
    names, constants = structure
    regularizer = object.__new__(cls)
    for name, value in (*constants, *zip(names, leaves, strict=True)):
        object.__setattr__(regularizer, name, value)
    return regularizer


def check_data(regularizer, data, axis, where, name):
    """Check what a method is called with; give the mask the shape of the data."""
    data = as_float(data, name)
    axis = check_axis(data, axis, name)
    if where is not None:
        if isinstance(regularizer, SquaredNormOn):
            raise ValueError("where must be None: a SquaredNormOn projects all items, got a mask")
        where = as_mask(where, data.shape, name)
    return data, axis, where


def to_rows(regularizer, data, where, axis, masked):
    """Move `axis` last, in single precision at least, the regularizer's arrays alike."""
    dtype = working_dtype(data.dtype)
    rows = data.astype(dtype)
    if where is not None:
        rows = jnp.where(where, rows, masked)
    leaves, (names, constants) = _flatten(regularizer)
    aligned = []
    for name, leaf in zip(names, leaves, strict=True):
        leaf = as_float(leaf, name).astype(dtype)
        if leaf.ndim:
            check_shape(leaf, data.shape, name, "theta")
            leaf = leaf.reshape((1,) * (data.ndim - leaf.ndim) + leaf.shape)
            if name not in regularizer.per_item and leaf.shape[axis] != 1:
                raise ValueError(f"{name} must have size 1 along axis, got {leaf.shape[axis]}")
            leaf = jnp.moveaxis(leaf, axis, -1)
        aligned.append(leaf)
    regularizer = _unflatten(type(regularizer), (names, constants), aligned)
    return regularizer, jnp.moveaxis(rows, axis, -1)


jax.tree_util.register_pytree_node(
    Regularizer, _flatten, functools.partial(_unflatten, Regularizer)
)


@functools.partial(jax.jit, static_argnames="axis")
def _value(regularizer, p, where, axis):
    rows, q = to_rows(regularizer, p, where, axis, 0)
    kept = jnp.ones(q.shape, bool) if where is None else jnp.moveaxis(where, axis, -1)
    return rows.value_where(q, kept).astype(p.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def _argmax(regularizer, theta, where, axis):
    rows = to_rows(regularizer, theta, where, axis, -jnp.inf)
    return jnp.moveaxis(rows[0].argmax_of_rows(rows[1]), -1, axis).astype(theta.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def _max(regularizer, theta, where, axis):
    return _conjugate(*to_rows(regularizer, theta, where, axis, -jnp.inf)).astype(theta.dtype)


@jax.custom_jvp
def _conjugate(regularizer, theta):
    return regularizer.max_of_rows(theta, regularizer.argmax_of_rows(theta))


@functools.partial(_conjugate.defjvp, symbolic_zeros=True)
def _conjugate_jvp(primals, tangents):
    regularizer, theta = primals
    p = regularizer.argmax_of_rows(theta)
    moved = jnp.zeros(theta.shape[:-1], theta.dtype)
    if not isinstance(tangents[1], SymbolicZero):
        moved = (p * tangents[1]).sum(-1)
    moved = moved - slope_in_fields(regularizer, tangents[0], p, regularizer.kept(theta))
    return regularizer.max_of_rows(theta, p), moved


def slope_in_fields(regularizer, tangent, p, kept):
    """Return the derivative of the value at a fixed `p`, as the regularizer's arrays move."""
    is_zero = lambda x: isinstance(x, SymbolicZero)
    leaves, structure = jax.tree.flatten(tangent, is_leaf=is_zero)
    if all(map(is_zero, leaves)):
        return jnp.zeros(p.shape[:-1], p.dtype)
    leaves = [jnp.zeros(x.aval.shape, x.aval.dtype) if is_zero(x) else x for x in leaves]
    moved = jax.tree.unflatten(structure, leaves)
    return jax.jvp(lambda r: r.value_where(p, kept), (regularizer,), (moved,))[1]


# --- entropies on the simplex ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tsallis(Regularizer):
    r"""Tsallis negentropies; from dense (1) through sparse (2) to nearly hard predictions.

    .. math::

        \Omega(p) = \frac{1}{\alpha (\alpha - 1)} \sum_i (p_i^\alpha - p_i),
        \qquad \hat y(\theta) = [(\alpha - 1)\,\theta - \tau]_+^{1/(\alpha - 1)}

    on the probability simplex, where :math:`\tau` makes the entries sum to one; in the limit
    :math:`\alpha = 1`, Shannon's :math:`\sum_i p_i \log p_i` and the softmax.

    Parameters
    ----------
    alpha : float or array of size 1 along the axis, default 1.5
        The order, at least 1. The fastest orders are the numbers 1, 1.5 and 2. An array can be
        differentiated and may give each row an order of its own.

    Raises
    ------
    ValueError
        If `alpha` is known and below 1 or not finite.

    Notes
    -----
    Blondel et al. :cite:p:`blondel2020learning`, section 4.3; the derivative of the map is
    :math:`\operatorname{diag}(s) - s s^\top / \sum_i s_i` with :math:`s_i = p_i^{2-\alpha}` on
    the support, and that in alpha is due to Correia et al. :cite:p:`correia2019adaptively`.
    The loss has a margin of :math:`1 / (\alpha - 1)`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Tsallis
    >>> print(Tsallis(2.0).argmax(jnp.array([-2.0, 0.0, 0.5])))
    [0.   0.25 0.75]
    """

    alpha: float | jax.Array = 1.5
    sums_to_one = True

    def __post_init__(self):
        known = _known(self.alpha, "alpha", 1)
        if not ((known >= 1) & (known < np.inf)).all():
            raise ValueError(f"alpha must be at least 1 and finite, got {self.alpha}")

    @property
    def kind(self):
        """The order where it is known and has a formula of its own, else 0."""
        return self.alpha if not _is_leaf(self.alpha) and self.alpha in (1, 1.5, 2) else 0

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.entmax(theta, jnp.asarray(self.alpha, theta.dtype), self.kind)

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        if self.kind == 1:
            return jax.scipy.special.xlogy(p, p).sum(-1)
        if self.kind:
            return (p**self.kind - p).sum(-1) / (self.kind * (self.kind - 1))
        return _tsallis_terms(p, jnp.asarray(self.alpha, p.dtype)).sum(-1)

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis: a Bregman divergence, and what was cut off."""
        u, top = thresholds.center(theta), p.max(-1, keepdims=True, initial=0)
        active = y > 0
        if self.kind == 2:
            cut = jnp.where(active & (p == 0), jnp.maximum(-(u + top), 0) * y, 0)
            terms = 0.5 * (y - p) ** 2 + cut
        elif self.kind == 1.5:
            cut = jnp.where(active & (p == 0), jnp.maximum(-(u + 2 * jnp.sqrt(top)), 0) * y, 0)
            a, b = jnp.sqrt(y), jnp.sqrt(p)
            terms = (a - b) ** 2 * (2 * a + b) / 1.5 + cut
        else:
            terms = _tsallis_divergence(y, p, u, top, jnp.asarray(self.alpha, p.dtype))
        return total(terms)[..., 0]


class Shannon(Tsallis):
    r"""Shannon's negentropy :math:`\sum_i p_i \log p_i`: the softmax and the logistic loss.

    The Tsallis negentropy of order 1, with domain, derivatives and references of
    ``Tsallis``. Its conjugate is :math:`\log \sum_i e^{\theta_i}`; the loss has no margin.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Shannon
    >>> print(Shannon().argmax(jnp.array([0.0, 0.0, -jnp.inf])))
    [0.5 0.5 0. ]
    """

    def __init__(self):
        super().__init__(1)


class Gini(Tsallis):
    r"""Gini's negentropy :math:`\tfrac12 (\|p\|^2 - 1)`: the sparsemax and its loss.

    The Tsallis negentropy of order 2, with domain, derivatives and references of
    ``Tsallis``; `argmax` is the Euclidean projection onto the simplex. The margin is 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Gini
    >>> print(Gini().argmax(jnp.array([-2.0, 0.0, 0.5])))
    [0.   0.25 0.75]
    """

    def __init__(self):
        super().__init__(2)


def _deformed_log(p, eta):
    """Compute (p^eta - 1) / eta, its limit log p for eta = 0, and -1 / eta for p = 0."""
    inside = p > 0
    return jnp.where(inside, jnp.expm1(eta * jnp.log(jnp.where(inside, p, 1))) / eta, -1 / eta)


def _eta(alpha):
    return jnp.maximum(alpha - 1, 1e-30)  # an order of 1 + 1e-30 is 1


@jax.custom_jvp
def _tsallis_terms(p, alpha):
    return jnp.where(p == 0, 0, p * _deformed_log(p, _eta(alpha)) / alpha)


@_tsallis_terms.defjvp
def _tsallis_terms_jvp(primals, tangents):
    (p, alpha), (dp, dalpha) = primals, tangents
    terms, eta = _tsallis_terms(p, alpha), _eta(alpha)
    log = jnp.log(jnp.where(p > 0, p, 1))
    bend = p * log**2 * jnp.exp(eta * log) * thresholds.remainder(eta * log)
    slope = _deformed_log(p, eta) + 1 / alpha
    return terms, slope * dp + (bend - terms) / alpha * dalpha


def _tsallis_divergence(y, p, u, top, alpha):
    """Bregman divergence of y from p, plus what the scores of y lie below the threshold.

    Close to p it is formed from y / p and y - p, otherwise from the scores, which also know how
    small a probability is that has been rounded to zero.
    """
    eta = _eta(alpha)
    slack = u + _deformed_log(top, eta)  # (p^eta - 1) / eta on the support, lower off it
    far, near = (y > 2 * p), (y <= 2 * p) & (p > 0)
    safe = jnp.where(near, p, 1)
    ratio = jnp.where(near, y, 1) / safe
    close = safe ** (eta + 1) * (ratio * _deformed_log(ratio, eta) - (ratio - 1))
    slack, y = jnp.where(far, slack, 0), jnp.where(far, y, 1)
    apart = y * (_deformed_log(y, eta) - slack) - (1 + eta * slack) * (y - p)
    return jnp.maximum(jnp.where(near, close, jnp.where(far, apart, 0)), 0) / alpha + 0 * p


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
        _check_order(self.q, 1, math.inf, "q", closed=True)

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
        _check_order(self.q, 1, math.inf, "q")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.squared_normmax(theta, float(self.q))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        return (_norm(p, self.q) ** 2 - 1) / 2


def _check_order(order, low, high, name, closed=False):
    if isinstance(order, bool) or not isinstance(order, (int, float)):
        raise TypeError(f"{name} must be a number, known when compiling, got {order!r}")
    if not (low < order < high or (closed and order == high)):
        end = "]" if closed else ")"
        raise ValueError(f"{name} must lie in ({low}, {high}{end}, got {order}")


def _norm(p, q):
    """Norm over the last axis, scaled against overflow; its derivative at zero is zero."""
    top = jax.lax.stop_gradient(abs(p).max(-1, initial=0))
    if q == math.inf:
        return abs(p).max(-1, initial=0)
    scale = jnp.where(top > 0, top, 1)
    power = ((abs(p) / scale[..., None]) ** q).sum(-1)
    return jnp.where(power == 0, 0, jnp.where(power == 0, 1, power) ** (1 / q) * scale)


@dataclasses.dataclass(frozen=True)
class Renyi(Regularizer):
    r"""Rényi negentropies on the simplex, of an order :math:`\beta` below 1.

    .. math::

        \Omega(p) = \frac{1}{\beta - 1} \log \sum_i p_i^\beta,
        \qquad \hat y(\theta) \propto (\tau - \theta)^{-1/(1 - \beta)}

    Predictions have full support and heavy tails; there is no margin. At 1 it is
    ``Shannon``, and above 1 the negentropy is not convex.

    Parameters
    ----------
    order : float, default 0.5
        The order :math:`\beta`, between 0 and 1, exclusive.

    Raises
    ------
    ValueError
        If `order` is not between 0 and 1.
    TypeError
        If `order` is not a number.

    Notes
    -----
    The threshold is the root of :math:`\langle p, \tau - \theta\rangle = \beta / (1 - \beta)`.
    Blondel et al. :cite:p:`blondel2020learning`, section 4.3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Renyi
    >>> print(Renyi(0.5).argmax(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    """

    order: float = 0.5
    sums_to_one = True

    def __post_init__(self):
        _check_order(self.order, 0, 1, "order")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.renyimax(theta, float(self.order))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        power = (p**self.order).sum(-1)
        return jnp.log(jnp.where(power == 0, 1, power)) / (self.order - 1)


# --- losses without an entropy --------------------------------------------------------------------


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
class FermiDirac(Regularizer):
    r"""The negentropy of independent coins, on the unit cube: one against all.

    .. math::

        \Omega(p) = \sum_i p_i \log p_i + (1 - p_i) \log (1 - p_i),
        \qquad \hat y(\theta)_i = \frac{1}{1 + e^{-\theta_i}}

    The loss is a sum of binary logistic losses. Targets lie in the unit cube, and need not sum to
    one.

    Notes
    -----
    Blondel et al. :cite:p:`blondel2020learning`, table 1. The loss has no margin.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import FermiDirac
    >>> print(FermiDirac().argmax(jnp.array([-jnp.inf, 0.0])))
    [0.  0.5]
    """

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return jax.nn.sigmoid(theta)

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        xlogy = jax.scipy.special.xlogy
        return (xlogy(p, p) + xlogy(1 - p, 1 - p)).sum(-1)

    def max_of_rows(self, theta, p):
        """Return the conjugate on the last axis."""
        del p
        return jax.nn.softplus(theta).sum(-1)

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis: binary divergences of y from the prediction."""
        same = y == p
        miss = jnp.where(y == 0, 0, y * jax.nn.softplus(jnp.where(y == 0, 0, -theta)))
        alarm = jnp.where(y == 1, 0, (1 - y) * jax.nn.softplus(jnp.where(y == 1, 0, theta)))
        xlogy = jax.scipy.special.xlogy
        terms = miss + alarm + xlogy(y, y) + xlogy(1 - y, 1 - y)
        return jnp.where(same, 0, jnp.maximum(terms, 0)).sum(-1)


# --- sets with structure --------------------------------------------------------------------------


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
        known = _known(self.weight, "weight", 0)
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
    u = thresholds.center(theta)
    block, pull = fuse(u, weight)
    kept = u > -jnp.inf
    fused = jnp.where(kept, mean_of_kept(u, kept, block) + weight * pull, -jnp.inf)
    return jnp.where(jnp.isnan(u), u, fused), block, pull


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


# --- maps -----------------------------------------------------------------------------------------


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
    Segments are cut at the levels of their means until none divides: exact, each round O(n log n)
    and parallel, usually about log n of them. Niculae and Blondel
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
    known = _known(k, "k", 0)
    if not ((known >= 0) & (known <= theta.shape[axis])).all():
        raise ValueError(f"k must lie in [0, {theta.shape[axis]}], got {k}")
    return _argmax(count, theta, where, axis)


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
