r"""Models of several outputs, or of groups of features.

With `weights` :math:`w_i`, :math:`1/n` by default, and scores :math:`Z = X W + b`:

======================== ======================================================================
function                 objective
======================== ======================================================================
`group_lasso`            :math:`\frac12 \sum_i w_i (y_i - z_i)^2 + \sum_g \lambda_g \|\beta_g\|`
`multitask_lasso`        :math:`\frac12 \sum_i w_i \|Y_i - Z_i\|^2 + \sum_j \lambda_j \|W_j\|`
`multinomial_logistic`   :math:`\sum_i w_i (\log \sum_c e^{Z_{ic}} - \langle Y_i, Z_i \rangle)
                         + \sum_{j, c} \lambda_j |W_{jc}|`
======================== ======================================================================
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float
from diffopt.sparse_linear.blocks import BlockProblem, solve_blocks
from diffopt.sparse_linear.design import as_design

__all__ = ["group_lasso", "multinomial_logistic", "multitask_lasso"]


def group_lasso(X, y, lam, groups, *, weights=None, num_groups=None, **options):
    r"""Fit the group Lasso.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac12 \sum_i w_i (y_i - x_i^\top \beta - b)^2
        + \sum_g \lambda_g \|\beta_g\|_2

    Parameters
    ----------
    X : array or sparse matrix of shape [n, p]
        The features.
    y : array of shape [n]
        The targets.
    lam : array of shape [] or [number of groups]
        The weights of the penalties.
    groups : int array of shape [p]
        The group of every feature, from 0 on.
    weights : array of shape [n], optional
        The weights of the items; 1/n by default.
    num_groups : int, optional
        The number of groups, needed where `groups` is traced and `lam` is one number.
    **options
        `fit_intercept`, `init`, `tol` and `max_iter`, as for `solve_blocks`.

    Returns
    -------
    BlockSolution
        With coefficients of shape [p], and an intercept of shape [].

    Raises
    ------
    TypeError, ValueError
        If an argument has no such type or shape.

    Notes
    -----
    It can be differentiated in `X`, `y`, `lam` and `weights`. With groups of one it is the Lasso.

    References
    ----------
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt.sparse_linear import group_lasso
    >>> y = jnp.array([3.0, 4.0, 1.0])
    >>> found = group_lasso(3**0.5 * jnp.eye(3), 3**0.5 * y, 2.5, jnp.array([0, 0, 1]))
    >>> print(np.asarray(found.coef).round(3))
    [1.5 2.  0. ]
    """
    if num_groups is None and not isinstance(groups, jax.core.Tracer) and jnp.ndim(lam) == 0:
        num_groups = int(np.max(groups, initial=0)) + 1
    y = as_float(y, "y")
    if y.ndim != 1:
        raise ValueError(f"y must have shape [n], got {y.shape}; take multitask_lasso for [n, k]")
    problem = _problem(X, y[:, None], lam, groups, weights)
    if "init" in options and options["init"] is not None:
        coef, intercept = options["init"]
        options["init"] = coef, jnp.reshape(intercept, (1,))
    solution = solve_blocks(problem, num_groups=num_groups, **options)
    return solution._replace(coef=solution.coef[:, 0], intercept=solution.intercept[0])


def multitask_lasso(X, Y, lam, *, weights=None, **options):
    r"""Fit the multitask Lasso: a feature serves all outputs or none.

    .. math::

        \operatorname*{argmin}_{W, b} \; \frac12 \sum_i w_i \|Y_i - W^\top x_i - b\|^2
        + \sum_j \lambda_j \|W_j\|_2

    Parameters
    ----------
    X : array or sparse matrix of shape [n, p]
        The features.
    Y : array of shape [n, k]
        The targets.
    lam : array of shape [] or [p]
        The weights of the penalties.
    weights : array of shape [n], optional
        The weights of the items; 1/n by default.
    **options
        `fit_intercept`, `init`, `tol` and `max_iter`, as for `solve_blocks`.

    Returns
    -------
    BlockSolution

    Raises
    ------
    TypeError, ValueError
        If an argument has no such type or shape.

    Notes
    -----
    It can be differentiated in `X`, `Y`, `lam` and `weights`.

    References
    ----------
    Obozinski, Taskar and Jordan, Joint covariate selection and joint subspace selection for
    multiple classification problems, 2010.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt.sparse_linear import multitask_lasso
    >>> Y = jnp.array([[3.0, 4.0], [0.5, 0.5]])
    >>> found = multitask_lasso(2**0.5 * jnp.eye(2), 2**0.5 * Y, 2.5)
    >>> print(np.asarray(found.coef).round(3))
    [[1.5 2. ]
     [0.  0. ]]
    """
    return solve_blocks(_problem(X, as_float(Y, "Y"), lam, None, weights), **options)


def multinomial_logistic(X, labels, lam, *, num_classes=None, weights=None, **options):
    r"""Fit multinomial logistic regression with a penalty of absolute values.

    .. math::

        \operatorname*{argmin}_{W, b} \; \sum_i w_i \Bigl(\log \sum_c e^{Z_{ic}} -
        \langle Y_i, Z_i \rangle\Bigr) + \sum_{j, c} \lambda_j |W_{jc}|,
        \quad Z = X W + b

    Parameters
    ----------
    X : array or sparse matrix of shape [n, p]
        The features.
    labels : int array of shape [n], or array of shape [n, k]
        The classes, or their probabilities.
    lam : array of shape [] or [p]
        The weights of the penalties.
    num_classes : int, optional
        The number k of classes, needed where `labels` is a traced vector.
    weights : array of shape [n], optional
        The weights of the items; 1/n by default.
    **options
        `penalty`, for ``"group"`` to penalise norms of rows, `fit_intercept`, `init`, `tol` and
        `max_iter`, as for `solve_blocks`.

    Returns
    -------
    BlockSolution

    Raises
    ------
    TypeError, ValueError
        If an argument has no such type or shape.

    Notes
    -----
    It can be differentiated in `X`, `lam`, `weights`, and probabilities. Intercepts have sum zero.
    With two classes, one column minus the other solves the problem of `SparseLogistic`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.sparse_linear import multinomial_logistic
    >>> print(multinomial_logistic(jnp.eye(3), jnp.arange(3), 0.5).coef)
    [[0. 0. 0.]
     [0. 0. 0.]
     [0. 0. 0.]]
    """
    X, labels = as_design(X), jnp.asarray(labels)
    if labels.ndim == 1:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels of shape [n] must be integers, got dtype {labels.dtype}")
        if num_classes is None:
            num_classes = int(labels.max()) + 1
        labels = jax.nn.one_hot(labels, num_classes, dtype=X.dtype)
    problem = _problem(X, as_float(labels, "labels"), lam, None, weights)
    return solve_blocks(problem, loss="multinomial", **{"penalty": "l1", **options})


def _problem(X, Y, lam, groups, weights):
    """Make a problem of one type."""
    X, lam = as_design(X), as_float(lam, "lam")
    if Y.ndim != 2:
        raise ValueError(f"the targets must have shape [n, k], got {Y.shape}")
    if weights is None:
        weights = jnp.full(X.shape[0], 1 / X.shape[0], X.dtype)
    weights = as_float(weights, "weights")
    Y, weights, lam = (x.astype(X.dtype) for x in (Y, weights, lam))
    return BlockProblem(X, Y, weights, lam, groups)
