r"""The Lasso and the elastic net as functions that can be differentiated. Chapter: :ref:`lasso`.

.. math::

    \hat\beta = \operatorname*{argmin}_{\beta, b} \; \frac{1}{2n} \sum_{i=1}^n
    (y_i - x_i^\top \beta - b)^2 + \sum_{j=1}^p \lambda_j |\beta_j|
    + \frac{\rho}{2} \|\beta\|^2

Where no coefficient is about to enter or to leave, the solution is smooth in the data and in the
hyperparameters, and only its support S moves. The implicit function theorem then asks for one
linear system of the size of the support, whatever the solver did.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffopt.checks import as_float, check_range
from diffopt.sparse_linear import ElasticNet, Lasso, Solution
from diffopt.sparse_linear.design import rmatvec
from diffopt.sparse_linear.fit import check_data, check_weights, fit

__all__ = ["elastic_net", "lasso", "lasso_max", "lasso_path"]


def lasso(X, y, lam, *, weights=None, fit_intercept=False, init=None, tol=1e-10, max_iter=10_000):
    r"""Solve the Lasso; a vector `lam` gives the weighted Lasso.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac{1}{2n} \|y - X \beta - b\|^2
        + \sum_{j=1}^p \lambda_j |\beta_j|

    Parameters
    ----------
    X : array, sparse matrix of SciPy, or SparseDesign, of shape [n, p]
        The features.
    y : array of shape [n]
        The targets.
    lam : float, or array of shape [p]
        Weights :math:`\lambda_j \ge 0` of the penalty.
    weights : array of shape [n], optional
        Non-negative weights of the items in the mean of the squares; they are divided by their sum.
    fit_intercept : bool, default False
        Whether to fit b, which is not penalised.
    init : Solution, optional
        Where to start, say the solution at a larger `lam`.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol` times the mean of :math:`y_i^2 / 2`.
    max_iter : int, default 10000
        Bound on the number of iterations.

    Returns
    -------
    Solution
        `coef` [p] and `intercept`, which can be differentiated, and `gap`, `num_iter`,
        `converged`, `margin`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the form that is described here.

    Notes
    -----
    With S the support, the derivative is :math:`\mathrm{d} \beta_S = -(X_S^\top X_S)^{-1}
    [\, n \operatorname{sign}(\beta_S)\, \mathrm{d}\lambda_S + \mathrm{d}X_S^\top (X \beta - y) +
    X_S^\top (\mathrm{d}X \beta - \mathrm{d}y)]`, and zero outside S: one system of size :math:`|S|`
    forward or backward, of any order. `margin` tells how far the nearest knot is, where a
    coefficient enters or leaves; at a knot the derivative is the one that belongs to the present
    support, an element of the generalised Jacobian. It is not defined by this formula where the
    columns of S depend on each other; the solution is not unique then.

    An iteration costs O(np), on a CPU plus coordinate descent on a working set; the derivative
    :math:`O(n |S|^2)`. Bertrand et al. :cite:p:`bertrand2020implicit`, proposition 1. Chapter:
    :ref:`lasso`.

    Examples
    --------
    With an orthonormal design, :math:`X^\top X = n I`, the Lasso is a soft threshold:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from diffopt import lasso
    >>> X = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> y = jnp.array([3.0, 2.0])
    >>> print(X.T @ y / 2, lasso(X, y, 0.75).coef)
    [2.5 0.5] [1.75 0.  ]
    >>> print(jax.jacobian(lambda lam: lasso(X, y, lam).coef)(0.75))
    [-1.  0.]
    """
    options = {"weights": weights, "init": init, "tol": tol, "max_iter": max_iter}
    return fit(Lasso(fit_intercept), X, y, lam, **options)[1]


def elastic_net(
    X, y, lam, ridge, *, weights=None, fit_intercept=False, init=None, tol=1e-10, max_iter=10_000
):
    r"""Solve the elastic net.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac{1}{2n} \|y - X \beta - b\|^2
        + \lambda \|\beta\|_1 + \frac{\rho}{2} \|\beta\|^2

    Parameters
    ----------
    X, y, weights, fit_intercept, init, tol, max_iter
        As for `lasso`.
    lam : float, or array of shape [p]
        Weight :math:`\lambda \ge 0` of the absolute values.
    ridge : float, or array of shape [p]
        Weight :math:`\rho \ge 0` of the squares. With scikit-learn's ``alpha`` and ``l1_ratio``,
        ``lam = alpha * l1_ratio`` and ``ridge = alpha * (1 - l1_ratio)``.

    Returns
    -------
    Solution
        As for `lasso`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the form that is described here.

    Notes
    -----
    The derivative and the cost are those of `lasso`, with :math:`X_S^\top X_S + n \rho I` in place
    of :math:`X_S^\top X_S`. Bertrand et al. :cite:p:`bertrand2020implicit`, appendix. Chapter:
    :ref:`lasso`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import elastic_net
    >>> X = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> print(elastic_net(X, jnp.array([3.0, 2.0]), 0.75, 0.75).coef)
    [1. 0.]
    """
    options = {"weights": weights, "init": init, "tol": tol, "max_iter": max_iter}
    return fit(ElasticNet(fit_intercept), X, y, (lam, ridge), **options)[1]


def lasso_max(X, y, *, weights=None, fit_intercept=False):
    r"""Smallest `lam` that makes every coefficient zero, :math:`\|X^\top y\|_\infty / n`.

    Parameters
    ----------
    X, y, weights, fit_intercept
        As for `lasso`.

    Returns
    -------
    array of shape []

    Notes
    -----
    O(np). With an intercept y is centred first. Chapter: :ref:`lasso`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import lasso_max
    >>> print(lasso_max(jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([3.0, 2.0])))
    2.5
    """
    X, y = check_data(X, y)
    weights = check_weights(weights, y)
    mean = jnp.sum(weights * y) if fit_intercept else jnp.zeros((), y.dtype)
    return jnp.abs(rmatvec(X, weights * (y - mean))).max(initial=0)


class Path(NamedTuple):
    """Solutions along a path, stacked along the first axis.

    Attributes
    ----------
    lam : array of shape [k]
        The weights of the penalty.
    solutions : Solution
        The solutions, each array with a leading axis of length k.
    """

    lam: jax.Array
    solutions: Solution


def lasso_path(
    X, y, lams=None, *, num=50, ratio=1e-2, weights=None, fit_intercept=False, tol=1e-10,
    max_iter=10_000,
):  # fmt: skip
    """Solve the Lasso for many penalties, each from the solution before.

    Parameters
    ----------
    X, y, weights, fit_intercept, tol, max_iter
        As for `lasso`.
    lams : array of shape [k], optional
        The penalties, best in descending order. By default `num` of them, in geometric progression
        from `lasso_max` to `ratio` times that.
    num : int, default 50
        Number of penalties.
    ratio : float, default 1e-2
        Smallest penalty by the largest.

    Returns
    -------
    Path
        The penalties and the solutions.

    Notes
    -----
    Along a path the next solution is near, so that a few iterations find it. Chapter:
    :ref:`lasso`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import lasso_path
    >>> X, y = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([3.0, 2.0])
    >>> print(lasso_path(X, y, jnp.array([2.0, 1.0, 0.25])).solutions.coef)
    [[0.5  0.  ]
     [1.5  0.  ]
     [2.25 0.25]]
    """
    X, y = check_data(X, y)
    if lams is None:
        top = lasso_max(X, y, weights=weights, fit_intercept=fit_intercept)
        lams = top * ratio ** (jnp.arange(num, dtype=y.dtype) / max(num - 1, 1))
    lams = as_float(lams, "lams").astype(y.dtype)
    if lams.ndim != 1:
        raise ValueError(f"lams must have shape [k], got {lams.shape}")
    check_range(lams, 0, jnp.inf, "lams")
    options = {"weights": weights, "fit_intercept": fit_intercept, "max_iter": max_iter}

    def step(before, lam):
        found = lasso(X, y, lam, init=before, tol=tol, **options)
        return (found.coef, found.intercept), found

    start = (jnp.zeros(X.shape[1], y.dtype), jnp.zeros((), y.dtype))
    _, solutions = jax.lax.scan(step, start, lams)
    return Path(lams, solutions)
