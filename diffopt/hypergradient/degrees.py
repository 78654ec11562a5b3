"""Degrees of freedom of linear models with absolute penalties, and the risk estimate from them."""

import jax.numpy as jnp
import numpy as np

from diffopt.hypergradient.criteria import SURE
from diffopt.sparse_linear.design import SparseDesign, as_design, matvec
from diffopt.sparse_linear.models import ElasticNet, Lasso
from diffopt.sparse_linear.problem import solve

__all__ = ["degrees_of_freedom", "exact_sure"]


def degrees_of_freedom(model, X, coef, lam):
    r"""Compute the divergence of the fitted values of a Lasso or an elastic net.

    .. math::

        \mathrm{df} = \operatorname{tr} X_S (X_S^\top X_S + n \lambda_2 I)^{-1} X_S^\top

    With an intercept, columns are centred and one is added. Without a squared penalty this is the
    rank of :math:`X_S`, the size of the support if its columns are independent.

    Parameters
    ----------
    model : Lasso or ElasticNet
        The model.
    X : array of shape [n, p]
        The design; may be sparse.
    coef : array of shape [p]
        Coefficients of the model.
    lam : float or array
        Hyperparameters.

    Returns
    -------
    float
        The degrees of freedom.

    Raises
    ------
    ValueError
        If the model is another one.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt.hypergradient import degrees_of_freedom
    >>> from diffopt.sparse_linear import Lasso
    >>> print(degrees_of_freedom(Lasso(), np.eye(3), np.array([1.0, 0.0, -2.0]), 0.1))
    2.0
    """
    if not isinstance(model, Lasso | ElasticNet):
        raise ValueError(f"model must be a Lasso or an elastic net, got {model}")
    X, support = as_design(X), np.asarray(coef) != 0
    ridge = float(np.asarray(lam)[1]) if isinstance(model, ElasticNet) else 0.0
    columns = _columns(X, support)
    if model.fit_intercept:
        columns = columns - columns.mean(axis=0)
    squares = np.linalg.svd(columns, compute_uv=False) ** 2
    squares = squares[squares > 1e-12 * squares.max(initial=0)]
    return float(np.sum(squares / (squares + X.shape[0] * ridge))) + model.fit_intercept


def _columns(X, support):
    if not isinstance(X, SparseDesign):
        return np.asarray(X, float)[:, support]
    basis = np.eye(len(support))[support]
    columns = [np.asarray(matvec(X, jnp.asarray(e, X.dtype)), float) for e in basis]
    return np.stack(columns, axis=-1) if columns else np.zeros((X.num_rows, 0))


def exact_sure(criterion, model, lam, *, tol=1e-8, max_iter=1000):
    r"""Compute Stein's unbiased estimate of the risk with exact degrees of freedom.

    .. math::

        \| y - X \hat\beta(y) \|^2 - n \sigma^2 + 2 \sigma^2\, \mathrm{df}

    It is piecewise smooth in `lam`, and jumps where the support changes: its value is what
    :class:`SURE` tends to, in the mean over probes, but not its gradient.

    Parameters
    ----------
    criterion : SURE
        The data and the level of noise.
    model : Lasso or ElasticNet
        The model.
    lam : float or array
        Hyperparameters.
    tol, max_iter : float and int
        As for :func:`diffopt.sparse_linear.solve`.

    Returns
    -------
    float
        The estimate.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.hypergradient import SURE, exact_sure
    >>> from diffopt.sparse_linear import Lasso
    >>> criterion = SURE(jnp.eye(2), jnp.array([4.0, 1.0]), 1.0)
    >>> print(exact_sure(criterion, Lasso(), 1.0))  # 2^2 + 1^2 - 2 + 2
    5.0
    """
    if not isinstance(criterion, SURE):
        raise ValueError(f"criterion must be SURE, got {type(criterion).__name__}")
    X, y = criterion.X, criterion.y
    problem = model.problem(X, y, jnp.asarray(lam, y.dtype))
    found = solve(
        problem, loss=model.loss, fit_intercept=model.fit_intercept, tol=tol, max_iter=max_iter
    )
    residual = np.asarray(y - matvec(X, found.coef) - found.intercept, float)
    variance = float(criterion.sigma) ** 2
    freedom = degrees_of_freedom(model, X, found.coef, lam)
    return float(residual @ residual - y.size * variance + 2 * variance * freedom)
