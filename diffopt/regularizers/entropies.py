"""Entropies whose predictions are probabilities: Tsallis, with Shannon and Gini, Rényi, coins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.kernels import thresholds
from diffopt.kernels.thresholds import total
from diffopt.regularizers.base import Regularizer, check_order, is_leaf, known_array

__all__ = ["FermiDirac", "Gini", "Renyi", "Shannon", "Tsallis"]


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
        known = known_array(self.alpha, "alpha", 1)
        if not ((known >= 1) & (known < np.inf)).all():
            raise ValueError(f"alpha must be at least 1 and finite, got {self.alpha}")

    @property
    def kind(self):
        """The order where it is known and has a formula of its own, else 0."""
        return self.alpha if not is_leaf(self.alpha) and self.alpha in (1, 1.5, 2) else 0

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
        if self.kind == 1:
            return _logistic_loss(theta, y)
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


def _logistic_loss(theta, y):
    """Kullback-Leibler divergence of y from the softmax; labels need no logarithm of an array."""
    of_labels, odd = thresholds.label_loss(theta, y)

    def of_proportions(theta, y):
        u, p = thresholds.center(theta), thresholds.entmax(theta, jnp.ones((), theta.dtype), 1)
        mass = total(jnp.exp(u))
        mass = jnp.where(mass == 0, 1, mass)
        near, far = (y > 0) & (y <= 2 * p), y > 2 * p
        ratio = jnp.where(near, y / jnp.where(near, p, 1), jnp.where(far, y, 1))
        log = jnp.log(ratio) - jnp.where(far, u - jnp.log(mass), 0)
        return total(jnp.maximum(y * log - (y - p), 0))

    labels = (odd == 0).all()
    return jax.lax.cond(labels, lambda *_: of_labels, of_proportions, theta, y)[..., 0]


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
        check_order(self.order, 0, 1, "order")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        return thresholds.renyimax(theta, float(self.order))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        power = (p**self.order).sum(-1)
        return jnp.log(jnp.where(power == 0, 1, power)) / (self.order - 1)


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
