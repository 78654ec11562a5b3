r"""Sparse logistic regression and support vector machines as functions with derivatives.

Solutions of non-smooth convex problems, whose coordinates are free, at zero, or at a bound; which
of these they are stays as it is under a small change of the hyperparameters, and those that are
free follow from one linear system. Chapter: :ref:`nonsmooth_learning`.
"""

from typing import NamedTuple

import jax

from diffopt.checks import as_float, check_positive
from diffopt.sparse_linear import SVM, SVR, SimplexSVR, SparseLogistic
from diffopt.sparse_linear.fit import check_signs, fit

__all__ = ["DualSolution", "simplex_svr", "sparse_logistic", "svm", "svr"]


class DualSolution(NamedTuple):
    """A solution that was found in the dual.

    Attributes
    ----------
    coef : array of shape [p]
        The coefficients, which can be differentiated.
    dual : array of shape [n]
        The dual variables, which can be differentiated; those of items within the margin are zero.
    gap : array of shape []
        The duality gap.
    num_iter : int array of shape []
        Number of iterations.
    converged : bool array of shape []
        Whether the gap is at most the tolerance.
    margin : array of shape []
        Relative distance to the nearest change of which dual variables are zero or at their bound.
    """

    coef: jax.Array
    dual: jax.Array
    gap: jax.Array
    num_iter: jax.Array
    converged: jax.Array
    margin: jax.Array


def sparse_logistic(
    X, y, lam, *, weights=None, fit_intercept=False, init=None, tol=1e-10, max_iter=10_000
):
    r"""Solve logistic regression with an absolute penalty.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac1n \sum_{i=1}^n
        \log\bigl(1 + e^{-y_i (x_i^\top \beta + b)}\bigr) + \sum_{j=1}^p \lambda_j |\beta_j|

    Parameters
    ----------
    X : array, sparse matrix of SciPy, or SparseDesign, of shape [n, p]
        The features.
    y : array of shape [n]
        The classes, -1 and 1, or booleans.
    lam : float, or array of shape [p]
        Weights :math:`\lambda_j \ge 0` of the penalty; scikit-learn's ``C`` is ``1 / (lam * n)``.
    weights : array of shape [n], optional
        Non-negative weights of the items in the mean of the losses; they are divided by their sum.
    fit_intercept : bool, default False
        Whether to fit b, which is not penalised.
    init : Solution, optional
        Where to start.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol` times :math:`\log 2`.
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
    With the support S, :math:`D = \operatorname{diag}(\sigma_i (1 - \sigma_i))` and
    :math:`H = \frac1n X_S^\top D X_S`, the derivative in the penalty is
    :math:`\mathrm{d}\beta_S = -H^{-1} \operatorname{sign}(\beta_S)\, \mathrm{d}\lambda_S`; one
    system of size :math:`|S|` forward or backward. An iteration costs O(np), on a CPU plus Newton
    steps on a working set. Bertrand et al. :cite:p:`bertrand2022implicit`, proposition 2. Chapter:
    :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt import sparse_logistic
    >>> X = jnp.array([[1.0, 0.1], [-1.0, 0.1], [1.0, -0.1], [-1.0, -0.1]])
    >>> found = sparse_logistic(X, jnp.array([1, -1, 1, -1]), 0.25)
    >>> print(np.asarray(found.coef).round(3), np.log(3).round(3))  # where 1 / (1 + exp(b)) = lam
    [1.099 0.   ] 1.099
    """
    options = {"weights": weights, "init": init, "tol": tol, "max_iter": max_iter}
    return fit(SparseLogistic(fit_intercept), X, check_signs(y), lam, **options)[1]


def svm(X, y, C, *, weights=None, tol=1e-10, max_iter=10_000):
    r"""Solve the linear support vector machine in its dual.

    .. math::

        \operatorname*{argmin}_{\beta} \; \tfrac12 \|\beta\|^2
        + C \sum_{i=1}^n (1 - y_i x_i^\top \beta)_+

    Parameters
    ----------
    X : array, sparse matrix of SciPy, or SparseDesign, of shape [n, p]
        The features; a column of ones adds an intercept, which is penalised then.
    y : array of shape [n]
        The classes, -1 and 1, or booleans.
    C : float
        Weight :math:`C > 0` of the losses, as scikit-learn's.
    weights : array of shape [n], optional
        Weights of the items, scaled to the mean one.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol` times :math:`C n`.
    max_iter : int, default 10000
        Bound on the number of iterations.

    Returns
    -------
    DualSolution
        `coef` [p] and `dual` [n], which can be differentiated, and `gap`, `num_iter`,
        `converged`, `margin`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the form that is described here.

    Notes
    -----
    The dual variables :math:`v`, :math:`0 \le v_i \le C`, minimise :math:`\frac12 \|\sum_i v_i y_i
    x_i\|^2 - \sum_i v_i`, and :math:`\beta = \sum_i v_i y_i x_i`. Those strictly between their
    bounds solve a linear system; those at C move as C does; the others rest at zero. Bertrand et
    al. :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import svm
    >>> print(svm(jnp.array([[1.0], [-3.0]]), jnp.array([1, -1]), 10.0).coef.round(3))
    [1.]
    """
    return _dual(SVM(), X, check_signs(y), _check_weight(C), weights, tol, max_iter)


def svr(X, y, C, epsilon, *, weights=None, tol=1e-10, max_iter=10_000):
    r"""Solve linear support vector regression in its dual.

    .. math::

        \operatorname*{argmin}_{\beta} \; \tfrac12 \|\beta\|^2
        + C \sum_{i=1}^n (|y_i - x_i^\top \beta| - \varepsilon)_+

    Parameters
    ----------
    X, weights, max_iter
        As for `svm`.
    y : array of shape [n]
        The targets.
    C : float
        Weight :math:`C > 0` of the losses, as scikit-learn's.
    epsilon : float
        Errors up to :math:`\varepsilon \ge 0` cost nothing.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol` times the objective of the coefficient 0.

    Returns
    -------
    DualSolution
        As `svm`; dual variables of items within the tube are zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the form that is described here.

    Notes
    -----
    The dual is a Lasso within a box: :math:`-C \le v_i \le C` minimise :math:`\frac12
    \|X^\top v\|^2 - \langle y, v\rangle + \varepsilon \|v\|_1`, and :math:`\beta = X^\top v`.
    Bertrand et al. :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt import svr
    >>> X = jnp.array([[1.0], [2.0], [3.0]])
    >>> found = svr(X, 2 * X[:, 0], 10.0, 0.3)
    >>> print(np.asarray(found.coef).round(3))  # within 0.3 of every target
    [1.9]
    """
    return _dual(SVR(), X, y, (_check_weight(C), epsilon), weights, tol, max_iter)


def simplex_svr(X, y, C, epsilon, *, weights=None, tol=1e-10, max_iter=10_000):
    r"""Solve support vector regression whose coefficients are a distribution.

    .. math::

        \operatorname*{argmin}_{\beta \ge 0, \; \sum_j \beta_j = 1} \; \tfrac12 \|\beta\|^2
        + C \sum_{i=1}^n (|y_i - x_i^\top \beta| - \varepsilon)_+

    Parameters
    ----------
    X, y, C, epsilon, weights, tol, max_iter
        As for `svr`. A sparse X is made dense.

    Returns
    -------
    DualSolution
        As `svr`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the form that is described here.

    Notes
    -----
    The dual has a variable more for each feature, :math:`\gamma \ge 0`, and one for the sum.
    Bertrand et al. :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt import simplex_svr
    >>> X = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
    >>> found = simplex_svr(X, X @ jnp.array([0.25, 0.75, 0.0]), 100.0, 0.0)
    >>> print(np.asarray(found.coef).round(3))
    [0.25 0.75 0.  ]
    """
    return _dual(SimplexSVR(), X, y, (_check_weight(C), epsilon), weights, tol, max_iter)


def _check_weight(C):
    check_positive(as_float(C, "C"), "C")
    return C


def _dual(model, X, y, lam, weights, tol, max_iter):
    problem, found = fit(model, X, y, lam, weights=weights, tol=tol, max_iter=max_iter)
    coef, n = model.coef(problem, found.coef), len(y)
    return DualSolution(coef, found.coef[:n], *found[2:])
