r"""Models: from data and hyperparameters to a convex problem, and back to coefficients.

With `weights` :math:`w_i` of sum one, :math:`1/n` by default, scores :math:`z = X \beta + b`, and
hyperparameters `lam`:

=================== ============================================================ ==============
model               objective                                                    `lam`
=================== ============================================================ ==============
`Lasso`             :math:`\frac12 \sum_i w_i (y_i - z_i)^2 +
                    \sum_j \lambda_j |\beta_j|`                                  [] or [p]
`ElasticNet`        the same :math:`+ \frac12 \lambda_2 \|\beta\|^2`             [2]
`SparseLogistic`    :math:`\sum_i w_i \log(1 + e^{-y_i z_i}) +
                    \sum_j \lambda_j |\beta_j|`                                  [] or [p]
`SVM`               :math:`\frac12 \|\beta\|^2 + C \sum_i (1 - y_i z_i)_+`       []
`SVR`               :math:`\frac12 \|\beta\|^2 + C \sum_i (|y_i - z_i| -
                    \varepsilon)_+`                                              [2]
`SimplexSVR`        the same, on the simplex                                     [2]
=================== ============================================================ ==============

The last three are solved in the dual, have no intercept, and weights multiply :math:`C`, with sum
n. A model is a small immutable object with ``problem``, ``coef`` and ``loss``.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffopt.sparse_linear.design import SparseDesign, matvec
from diffopt.sparse_linear.problem import Problem, loss_value

__all__ = ["SVM", "SVR", "ElasticNet", "Lasso", "Model", "SimplexSVR", "SparseLogistic"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model; subclasses say how its problem looks."""

    fit_intercept: bool = False
    loss: ClassVar[str] = "squared"
    target_loss: ClassVar[str] = "squared"  # what a prediction is usually measured by
    mean_loss: ClassVar[bool] = True  # whether weights have sum one, or else n

    def problem(self, X, y, lam, weights=None):
        """Make the problem for a design [n, p], targets [n] and hyperparameters."""
        raise NotImplementedError

    def coef(self, problem, solution):
        """Compute the coefficients [p] of the model from those of the problem."""
        return solution

    def unit(self, y, lam, weights):
        """Objective of the coefficient 0, the unit of the duality gap."""
        return jnp.sum(weights * loss_value(self.loss, jnp.zeros_like(y), y))


@dataclasses.dataclass(frozen=True)
class Lasso(Model):
    """The Lasso; a vector `lam` gives the weighted Lasso."""

    def problem(self, X, y, lam, weights=None):
        """Make the problem."""
        return _penalised(X, y, lam, 0.0, weights)


@dataclasses.dataclass(frozen=True)
class ElasticNet(Model):
    """The elastic net; `lam` holds the weights of the absolute and of the squared penalty."""

    def problem(self, X, y, lam, weights=None):
        """Make the problem."""
        return _penalised(X, y, lam[0], lam[1], weights)


@dataclasses.dataclass(frozen=True)
class SparseLogistic(Model):
    """Logistic regression with an absolute penalty, for targets -1 and 1."""

    loss: ClassVar[str] = "logistic"
    target_loss: ClassVar[str] = "logistic"

    def problem(self, X, y, lam, weights=None):
        """Make the problem."""
        return _penalised(X, y, lam, 0.0, weights)


@dataclasses.dataclass(frozen=True)
class SVM(Model):
    r"""The support vector machine, for targets -1 and 1, by its dual

    .. math::

        \min_{0 \le v \le C} \; \tfrac12 \Bigl\| \sum_i v_i y_i x_i \Bigr\|^2 - \sum_i v_i
    """

    target_loss: ClassVar[str] = "smoothed_hinge"
    mean_loss: ClassVar[bool] = False

    def problem(self, X, y, lam, weights=None):
        """Make the dual problem, whose columns are the items."""
        high = lam * (jnp.ones_like(y) if weights is None else weights * y.size)
        zeros = jnp.zeros_like(y)
        return _dual(_transpose(X, y), zeros, zeros, high, -jnp.ones_like(y))

    def coef(self, problem, solution):
        """Compute the coefficients from the dual variables."""
        return matvec(problem.X, solution)

    def unit(self, y, lam, weights):
        """Objective of the coefficient 0."""
        return lam * y.size


@dataclasses.dataclass(frozen=True)
class SVR(Model):
    r"""Support vector regression, with `lam` the pair :math:`(C, \varepsilon)`, by its dual

    .. math::

        \min_{-C \le v \le C} \; \tfrac12 \| X^\top v \|^2 - \langle y, v \rangle
        + \varepsilon \| v \|_1
    """

    mean_loss: ClassVar[bool] = False

    def problem(self, X, y, lam, weights=None):
        """Make the dual problem, whose columns are the items."""
        high = lam[0] * (jnp.ones_like(y) if weights is None else weights * y.size)
        A = _transpose(X, jnp.ones_like(y))
        return _dual(A, jnp.broadcast_to(lam[1], y.shape), -high, high, -y)

    def coef(self, problem, solution):
        """Compute the coefficients from the dual variables."""
        return matvec(problem.X, solution)

    def unit(self, y, lam, weights):
        """Objective of the coefficient 0."""
        excess = jnp.maximum(jnp.abs(y) - lam[1], 0)
        return lam[0] * y.size * jnp.sum(weights * excess)


@dataclasses.dataclass(frozen=True)
class SimplexSVR(SVR):
    r"""Support vector regression with coefficients on the simplex, by its dual

    .. math::

        \min_{-C \le v \le C,\; \gamma \ge 0,\; \mu} \; \tfrac12 \| X^\top v + \gamma + \mu 1 \|^2
        - \langle y, v \rangle + \varepsilon \| v \|_1 - \mu
    """

    mean_loss: ClassVar[bool] = False

    def problem(self, X, y, lam, weights=None):
        """Make the dual problem: a column for each item, for each feature, and one of ones."""
        n, p = X.shape
        A = jnp.concatenate(
            [_dense(X).T, jnp.eye(p, dtype=y.dtype), jnp.ones((p, 1), y.dtype)], axis=1
        )
        bound = lam[0] * (jnp.ones_like(y) if weights is None else weights * n)
        join = lambda v, gamma, mu: jnp.concatenate(
            [v, jnp.full(p, gamma, y.dtype), jnp.full(1, mu, y.dtype)]
        )
        return _dual(
            A,
            join(jnp.broadcast_to(lam[1], y.shape), 0, 0),
            join(-bound, 0, -jnp.inf),
            join(bound, jnp.inf, jnp.inf),
            join(-y, 0, -1),
        )


def _penalised(X, y, lam, ridge, weights):
    n, p = X.shape
    free = jnp.full(p, jnp.inf, y.dtype)
    weights = jnp.full(n, 1 / n, y.dtype) if weights is None else weights
    wide = lambda x: jnp.broadcast_to(jnp.asarray(x, y.dtype), (p,))
    return Problem(X, y, weights, wide(lam), wide(ridge), -free, free, jnp.zeros(p, y.dtype))


def _dual(A, l1, low, high, tilt):
    zeros = jnp.zeros(A.shape[0], tilt.dtype)
    return Problem(A, zeros, zeros + 1, l1, jnp.zeros_like(tilt), low, high, tilt)


def _dense(X):
    if isinstance(X, SparseDesign):
        return jnp.zeros(X.shape, X.dtype).at[X.rows, X.columns].add(X.data)
    return X


def _transpose(X, y):
    """Transpose a design whose rows are multiplied by y."""
    if not isinstance(X, SparseDesign):
        return (X * y[:, None]).T
    order = jnp.argsort(X.rows, stable=True)
    starts = jnp.searchsorted(X.rows[order], jnp.arange(X.num_rows + 1, dtype=X.rows.dtype))
    starts = starts.astype(X.starts.dtype)
    data = (X.data * y[X.rows])[order]
    return SparseDesign(data, X.columns[order], X.rows[order], starts, X.shape[1])
