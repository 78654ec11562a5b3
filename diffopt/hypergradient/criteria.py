r"""Criteria: what a model, fitted with some hyperparameters, is judged by.

A criterion asks for one or more fits, which share a design, and is a sum of losses of their
scores :math:`z_f = X_m \beta_f + b_f`, plus a linear term:

.. math::

    \mathcal{C} = c + \sum_f \sum_i v_{fi}\, \ell(z_{fi}, t_i) + q_{fi}\, z_{fi}
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_choice
from diffopt.sparse_linear.design import SparseDesign, as_design, matvec

__all__ = ["SURE", "CrossValidation", "Criterion", "HeldOut"]

LOSSES = ("squared", "logistic", "smoothed_hinge")


class Fits(NamedTuple):
    """The fits of a criterion."""

    X: Any  # [n, p]
    y: jax.Array  # [n], or [F, n]
    masks: jax.Array  # [F, n], weights of the items, zero for one that is not fitted


class Measure(NamedTuple):
    """How scores are judged."""

    X: Any  # [m, p]
    y: jax.Array  # [m]
    weights: jax.Array  # [F, m], v
    tilt: jax.Array  # [F, m], q
    constant: jax.Array  # [], c


def measured_loss(loss, z, y):
    """Loss by which predictions are measured."""
    if loss == "squared":
        return jnp.square(z - y)
    if loss == "logistic":
        return jnp.logaddexp(jnp.zeros_like(z), -y * z)
    slack = 1 - y * z
    return jnp.where(slack > 1, slack - 0.5, 0.5 * jnp.square(jnp.maximum(slack, 0)))


def scores(X, coef, intercept):
    """Scores [F, m] of F fits."""
    if isinstance(X, SparseDesign):
        return jax.vmap(matvec, in_axes=(None, 0))(X, coef) + intercept[:, None]
    return coef @ X.T + intercept[:, None]


def _register(data, meta=("loss",)):
    """Make a class of criteria a pytree; what is unflattened is not checked again."""

    def register(cls):
        def unflatten(aux, children):
            made = object.__new__(cls)
            for name, value in zip((*data, *meta), (*children, *aux), strict=True):
                object.__setattr__(made, name, value)
            return made

        def with_keys(x):
            children = [(jax.tree_util.GetAttrKey(k), getattr(x, k)) for k in data]
            return children, tuple(getattr(x, k) for k in meta)

        jax.tree_util.register_pytree_with_keys(cls, with_keys, unflatten)
        return cls

    return register


class Criterion:
    """What criteria share."""

    loss: Any = None
    squeeze = True  # whether there is one fit, so that results have no axis of fits

    def fits(self):
        """Give the fits."""
        raise NotImplementedError

    def measure(self):
        """Give how scores are judged."""
        raise NotImplementedError

    def loss_for(self, model):
        """Name of the loss by which scores are judged."""
        return self.loss or model.target_loss

    def value(self, model, coef, intercept):
        """Compute the criterion from coefficients [F, p] and intercepts [F]."""
        m = self.measure()
        z = scores(m.X, coef, intercept)
        losses = measured_loss(self.loss_for(model), z, m.y[None])
        return jnp.sum(m.weights * losses) + jnp.sum(m.tilt * z) + m.constant

    def check(self, model):
        """Raise if the criterion does not suit the model."""


def _data(X, y, names=("X", "y")):
    """Check a design and its targets; both get the same type."""
    X, y = as_design(X, names[0]), as_float(y, names[1])
    if y.shape != X.shape[:1]:
        raise ValueError(
            f"{names[1]} must have shape [{X.shape[0]}], one target for each row of {names[0]}, "
            f"got {y.shape}"
        )
    return X, y.astype(X.dtype)


def _weights(weights, y, name):
    """Check weights of items; all are one by default."""
    if weights is None:
        return jnp.ones_like(y)
    weights = as_float(weights, name).astype(y.dtype)
    if weights.shape != y.shape:
        raise ValueError(f"{name} must have shape {y.shape}, got {weights.shape}")
    return weights


def _set(criterion, **values):
    for name, value in values.items():
        object.__setattr__(criterion, name, value)


@_register(("X", "y", "X_val", "y_val", "weights", "weights_val"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HeldOut(Criterion):
    r"""Mean loss of held-out items.

    .. math::

        \mathcal{C}(\lambda) = \frac1m \sum_{i=1}^m
        \ell(x_i^\top \hat\beta(\lambda) + \hat b(\lambda), t_i)

    Parameters
    ----------
    X, y : arrays of shapes [n, p] and [n]
        What models are fitted to; `X` may be sparse.
    X_val, y_val : arrays of shapes [m, p] and [m]
        What is held out.
    loss : {"squared", "logistic", "smoothed_hinge"}, optional
        The loss: :math:`(z - t)^2`, :math:`\log(1 + e^{-tz})`, or a hinge that is a parabola for
        :math:`0 < tz < 1`. By default that of the model.
    weights, weights_val : arrays of shapes [n] and [m], optional
        Weights of the items; they are divided by their sum.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, or the loss has another name.
    """

    X: Any
    y: Any
    X_val: Any
    y_val: Any
    loss: str | None = None
    weights: Any = dataclasses.field(default=None, kw_only=True)
    weights_val: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        check_choice(self.loss, (None, *LOSSES), "loss")
        X, y = _data(self.X, self.y)
        X_val, y_val = _data(self.X_val, self.y_val, ("X_val", "y_val"))
        if X_val.shape[1] != X.shape[1]:
            raise ValueError(f"X_val must have the {X.shape[1]} columns of X, got {X_val.shape[1]}")
        X_val, y_val = X_val.astype(X.dtype), y_val.astype(X.dtype)
        weights = _weights(self.weights, y, "weights")
        weights_val = _weights(self.weights_val, y_val, "weights_val")
        _set(self, X=X, y=y, X_val=X_val, y_val=y_val, weights=weights, weights_val=weights_val)

    def fits(self):
        """Give the fit."""
        return Fits(self.X, self.y, self.weights[None])

    def measure(self):
        """Give how scores are judged."""
        weights = (self.weights_val / self.weights_val.sum())[None]
        zero = jnp.zeros((), self.y.dtype)
        return Measure(self.X_val, self.y_val, weights, jnp.zeros_like(weights), zero)


@_register(("X", "y", "folds", "weights"), ("loss", "num_folds"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CrossValidation(Criterion):
    r"""Mean over folds of the mean loss of a fold, by the model fitted to the others.

    Folds are weights of zero and one: all fits share the design, and are solved as one batch.

    Parameters
    ----------
    X, y : arrays of shapes [n, p] and [n]
        The data; `X` may be sparse.
    folds : int, or int array of shape [n], default 5
        How many folds there are, item i in fold ``i % folds``; or the fold of each item.
    loss : {"squared", "logistic", "smoothed_hinge"}, optional
        As for :class:`HeldOut`.
    weights : array of shape [n], optional
        Weights of the items, in the fits and in the means.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, there are fewer than two folds, or one is empty.
    """

    X: Any
    y: Any
    folds: Any = 5
    loss: str | None = None
    weights: Any = dataclasses.field(default=None, kw_only=True)
    num_folds: int = dataclasses.field(init=False)
    squeeze = False

    def __post_init__(self):
        check_choice(self.loss, (None, *LOSSES), "loss")
        X, y = _data(self.X, self.y)
        folds = np.asarray(self.folds)
        if folds.ndim == 0:
            folds = np.arange(y.size) % max(int(folds), 1)
        if folds.shape != y.shape or not np.issubdtype(folds.dtype, np.integer):
            raise ValueError(
                f"folds must be an integer, or an integer for each of the {y.size} items, "
                f"got shape {folds.shape} of {folds.dtype}"
            )
        labels: Any
        names, labels = np.unique(folds, return_inverse=True)
        if len(names) < 2 or (np.ndim(self.folds) == 0 and len(names) < int(self.folds)):
            raise ValueError(f"folds must be two at least, none empty, got {self.folds}")
        weights = _weights(self.weights, y, "weights")
        labels = jnp.asarray(labels, jnp.int32)
        _set(self, X=X, y=y, folds=labels, num_folds=len(names), weights=weights)

    def _held_out(self):
        held_out = self.folds[None] == jnp.arange(self.num_folds, dtype=jnp.int32)[:, None]
        return held_out.astype(self.y.dtype)

    def fits(self):
        """Give one fit for each fold."""
        return Fits(self.X, self.y, self.weights[None] * (1 - self._held_out()))

    def measure(self):
        """Give how scores are judged."""
        held_out = self.weights[None] * self._held_out()
        weights = held_out / held_out.sum(axis=1, keepdims=True) / self.num_folds
        zero = jnp.zeros((), self.y.dtype)
        return Measure(self.X, self.y, weights, jnp.zeros_like(weights), zero)


@_register(("X", "y", "sigma", "step", "probe"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SURE(Criterion):
    r"""Stein's unbiased estimate of the risk, by finite differences and one random probe.

    For :math:`y = \mu + \sigma\, \mathrm{noise}` and a probe :math:`\delta` of independent
    standard normals it estimates :math:`\mathbb{E} \| X \hat\beta(y) - \mu \|^2` by

    .. math::

        \mathcal{C}(\lambda) = \| y - X \hat\beta(y) \|^2 - n \sigma^2
        + \frac{2 \sigma^2}{\epsilon} \langle X \hat\beta(y + \epsilon \delta) - X \hat\beta(y),
        \delta \rangle

    Parameters
    ----------
    X, y : arrays of shapes [n, p] and [n]
        The data; `X` may be sparse.
    sigma : float
        Standard deviation of the noise.
    step : float, optional
        The step :math:`\epsilon`; by default :math:`2 \sigma / n^{0.3}`.
    key : key of `jax.random`, optional
        Draws the probe; by default ``jax.random.key(0)``.
    probe : array of shape [n], optional
        The probe itself.

    Notes
    -----
    Two fits, that share the design. The expectation of the last term over the probe tends to
    :math:`2 \sigma^2` times the degrees of freedom as :math:`\epsilon \to 0`; see
    :func:`exact_sure`. A small step makes the value unbiased, but a gradient in `lam` of large
    variance, as few probes see the support change; the default is a compromise.
    Deledalle et al. (2014), *Stein Unbiased GrAdient estimator of the Risk*.
    """

    X: Any
    y: Any
    sigma: Any
    step: Any = dataclasses.field(default=None, kw_only=True)
    key: Any = dataclasses.field(default=None, kw_only=True)
    probe: Any = dataclasses.field(default=None, kw_only=True)
    loss = "squared"
    squeeze = False

    def __post_init__(self):
        X, y = _data(self.X, self.y)
        sigma = as_float(self.sigma, "sigma").astype(y.dtype)
        if self.probe is None:
            key = jax.random.key(0) if self.key is None else self.key
            probe = jax.random.normal(key, y.shape, y.dtype)
        else:
            probe = as_float(self.probe, "probe").astype(y.dtype)
        step = 2 * sigma / y.size**0.3 if self.step is None else self.step
        step = jnp.asarray(step, y.dtype)
        _set(self, X=X, y=y, sigma=sigma, step=step, probe=probe, key=None)

    def check(self, model):
        """Raise if the model does not fit means."""
        if model.loss != "squared" or model.target_loss != "squared":
            raise ValueError(f"SURE judges models of a squared loss, got {model}")

    def fits(self):
        """Give the fits, to the targets and to perturbed ones."""
        y = jnp.stack([self.y, self.y + self.step * self.probe])
        return Fits(self.X, y, jnp.ones_like(y))

    def measure(self):
        """Give how scores are judged."""
        ones = jnp.ones_like(self.y)
        q = 2 * self.sigma**2 / self.step * self.probe
        weights = jnp.stack([ones, jnp.zeros_like(ones)])
        constant = -self.y.size * jnp.square(self.sigma)
        return Measure(self.X, self.y, weights, jnp.stack([-q, q]), constant)
