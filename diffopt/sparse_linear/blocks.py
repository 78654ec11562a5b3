r"""Convex problems with several outputs, or groups of coefficients.

.. math::

    \min_{W \in \mathbb{R}^{p \times k},\, b \in \mathbb{R}^k} \;
    \sum_{i=1}^n w_i\, \ell(W^\top x_i + b, y_i) + \sum_g \lambda_g \|W_g\|_2

where the groups g share out the entries of W: the rows with the same label (the group Lasso, the
multitask Lasso), or every entry by itself, with :math:`\lambda_j |W_{jc}|`.

The solution is locally a smooth function of the problem on the groups that are not zero: there the
penalty has the second derivative :math:`\lambda_g (I - u u^\top) / \|W_g\|`, with
:math:`u = W_g / \|W_g\|`. Its derivative solves the equations of those groups, by conjugate
gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffopt.checks import check_choice, check_range
from diffopt.kernels import Kernel, proximal_blocks
from diffopt.sparse_linear.design import SparseDesign, matvec, rmatvec

__all__ = ["LOSSES", "PENALTIES", "BlockProblem", "BlockSolution", "solve_blocks"]

LOSSES = ("squared", "logistic", "multinomial")
PENALTIES = ("group", "l1")


class BlockProblem(NamedTuple):
    """The arrays of a problem."""

    X: Any  # [n, p], or a SparseDesign
    Y: jax.Array  # [n, k]
    weights: jax.Array  # [n], w
    lam: jax.Array  # [number of groups], or [p] for absolute values; or []
    groups: Any = None  # int [p], the group of every feature; by default each is one


class BlockSolution(NamedTuple):
    """A solution, its certificate, and what happened.

    Attributes
    ----------
    coef : array of shape [p, k]
        The coefficients W, which can be differentiated.
    intercept : array of shape [k]
        The intercepts, which can be differentiated; 0 without them.
    gap : array of shape []
        The duality gap, a bound on the excess of the objective.
    num_iter : int array of shape []
        Number of iterations.
    converged : bool array of shape []
        Whether the gap is at most the tolerance.
    margin : array of shape []
        Distance to the nearest knot, relative, in [0, 1]: where it is 0, or no more than the error
        of the solution, the derivative is one element of the generalised Jacobian.
    """

    coef: jax.Array
    intercept: jax.Array
    gap: jax.Array
    num_iter: jax.Array
    converged: jax.Array
    margin: jax.Array


class _Entries(NamedTuple):
    """A problem in which every entry of W, number ``j * k + c``, has the label of its group."""

    X: Any
    Y: jax.Array
    weights: jax.Array
    lam: jax.Array  # [number of groups]
    labels: jax.Array  # int [p * k]


def _results(init, *rest):
    return init, init, init


_dense = Kernel("blocks_dense", proximal_blocks.accelerated_dense, _results, like=(0, 0, 5))
_sparse = Kernel("blocks_sparse", proximal_blocks.accelerated_sparse, _results, like=(0, 0, 5))


def solve_blocks(
    problem,
    *,
    loss="squared",
    penalty="group",
    num_groups=None,
    fit_intercept=False,
    init=None,
    tol=1e-10,
    max_iter=1000,
):
    r"""Solve a problem; the solution can be differentiated in every array of floats of it.

    Parameters
    ----------
    problem : BlockProblem
        Its arrays, of one floating type.
    loss : {"squared", "logistic", "multinomial"}
        The loss of an item with scores z and targets y, in :math:`\mathbb{R}^k`:
        :math:`\frac12 \|y - z\|^2`; :math:`\sum_c \log(1 + e^{-y_c z_c})`, for targets -1 and 1;
        :math:`\sum_c y_c (\log \sum_d e^{z_d} - z_c)`, for targets that are not negative.
    penalty : {"group", "l1"}
        Norms of groups of rows, or absolute values of entries.
    num_groups : int, optional
        The number of groups; by default the size of `lam`, or the number of features.
    fit_intercept : bool, default False
        Whether to fit b, which is not penalised.
    init : tuple (coef, intercept), optional
        Where to start.
    tol : float, default 1e-10
        Stop when the duality gap is at most `tol`, in units of the objective.
    max_iter : int, default 1000
        Bound on the number of iterations: gradients of the whole objective on a CPU, proximal steps
        elsewhere.

    Returns
    -------
    BlockSolution

    Raises
    ------
    ValueError
        If the shapes do not agree, or an argument is none of its choices.

    Notes
    -----
    Complexity: an iteration costs O(n p k), a derivative as much per step of conjugate gradients.
    With the multinomial loss the scores of an item matter up to a constant. Where the penalty does
    not choose the constant either (half the entries of a row positive, half negative, none zero),
    there are many solutions, and the derivative is that of smallest norm among its own, up to
    scaling.
    """
    check_choice(loss, LOSSES, "loss")
    check_choice(penalty, PENALTIES, "penalty")
    entries = _entries(problem, penalty, num_groups)
    k, pk, dtype = problem.Y.shape[1], entries.labels.size, problem.Y.dtype
    if init is None:
        start = jnp.zeros(pk + k, dtype)
    else:
        start = jnp.append(init[0].reshape(-1), init[1]).astype(dtype)
    settings = jnp.asarray([tol, max_iter, 0, 0], dtype)
    flags = (LOSSES.index(loss), int(fit_intercept), k)
    coef, gradient, info = _solve(flags, entries, start, settings)
    margin = _knot_margin(entries, *jax.lax.stop_gradient((coef[:pk], gradient[:pk])))
    W, b = coef[:pk].reshape(-1, k), coef[pk:]
    if loss == "multinomial":  # which sees intercepts up to a constant
        b = b - b.mean()
    return BlockSolution(W, b, info[0], info[1].astype(int), info[3] > 0, margin)


def _entries(problem, penalty, num_groups):
    """Label every entry by its group."""
    X, Y, weights, lam, groups = problem
    (n, p), k = X.shape, Y.shape[-1]
    if Y.shape != (n, k) or weights.shape != (n,):
        raise ValueError(
            f"Y and weights must have shapes {(n, k)} and {(n,)}, as X has shape {(n, p)}, "
            f"got {Y.shape} and {weights.shape}"
        )
    if penalty == "l1":
        lam = jnp.repeat(jnp.broadcast_to(lam, (p,)), k)
        return _Entries(X, Y, weights, lam, jnp.arange(p * k, dtype=jnp.int32))
    if groups is None:
        groups, num_groups = jnp.arange(p, dtype=jnp.int32), p
    groups = jnp.asarray(groups, jnp.int32)
    if groups.shape != (p,):
        raise ValueError(f"groups must have shape {(p,)}, as X has {p} columns, got {groups.shape}")
    size = num_groups or (lam.size if lam.ndim else p)
    if lam.ndim and lam.size != size:
        raise ValueError(f"lam must hold a number for each of {size} groups, got {lam.shape}")
    check_range(groups, 0, size - 1, "groups")
    groups = jnp.clip(groups, 0, size - 1)  # what is traced cannot be checked
    return _Entries(X, Y, weights, jnp.broadcast_to(lam, (size,)), jnp.repeat(groups, k))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(flags, problem, start, settings):
    (X, Y, *rest), start, settings = jax.lax.stop_gradient((problem, start, settings))
    operands = (start, Y.reshape(-1), *rest, settings)
    if isinstance(X, SparseDesign):
        return tuple(_sparse(*operands, X.data, X.rows, X.starts, flags=flags))
    return tuple(_dense(*operands, X.reshape(-1), flags=flags))


@_solve.defjvp
def _solve_jvp(flags, primals, tangents):
    problem, *rest = primals
    solution = _solve(flags, problem, *rest)
    tangent = _implicit_tangent(flags, problem, solution[0], tangents[0])
    return solution, (tangent, *(jnp.zeros_like(x) for x in solution[1:]))


def _knot_margin(problem, coef, gradient):
    """Relative distance of a solution to the nearest change of its support."""
    lam, penalised = problem.lam, problem.lam > 0
    sizes, slopes = (_norms(problem, x) for x in (coef, gradient))
    slack = (lam - slopes) / jnp.where(penalised, lam, 1)
    largest = sizes.max(initial=0)
    inside = sizes / jnp.where(largest > 0, largest, 1)
    distance = jnp.where(penalised, jnp.where(sizes == 0, slack, inside), 1)
    return jnp.clip(distance.min(initial=1), 0, 1)


# --- the derivative -----------------------------------------------------------------------------


def _sum_groups(problem, x):
    return jnp.zeros(problem.lam.size, x.dtype).at[problem.labels].add(x)


def _norms(problem, x):
    """Norms of the groups, of derivative zero where they are zero."""
    square = _sum_groups(problem, jnp.square(x))
    there = square > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, square, 1)), 0)


def _ratios(problem, beta):
    """Weight of the penalty over the norm of the group, entry by entry; 0 where that is 0."""
    norms = _norms(problem, beta)
    return jnp.where(norms > 0, problem.lam / jnp.where(norms > 0, norms, 1), 0)[problem.labels]


def _scores(X, coef, k):
    W, b = coef[:-k].reshape(-1, k), coef[-k:]
    return jax.vmap(functools.partial(matvec, X), 1, 1)(W) + b[None]


def _products(X, R):
    U = jax.vmap(functools.partial(rmatvec, X), 1, 1)(R)
    return jnp.append(U.reshape(-1), R.sum(0))


def _slopes(loss, Z, Y, weights):
    """Derivatives of the weighted losses in the scores."""
    if loss == "squared":
        slopes = Z - Y
    elif loss == "logistic":
        slopes = -Y * jax.nn.sigmoid(-Y * Z)
    else:
        slopes = Y.sum(1, keepdims=True) * jax.nn.softmax(Z, axis=1) - Y
    return weights[:, None] * slopes


def _stationarity(flags, problem, coef):
    """Gradient of the objective, where it is smooth."""
    pk, k = problem.labels.size, flags[2]
    R = _slopes(LOSSES[flags[0]], _scores(problem.X, coef, k), problem.Y, problem.weights)
    return _products(problem.X, R).at[:pk].add(_ratios(problem, coef[:pk]) * coef[:pk])


def _implicit_tangent(flags, problem, coef, dproblem):
    """Derivative of the coefficients along a tangent of the problem."""
    beta, k = jax.lax.stop_gradient(coef[: problem.labels.size]), flags[2]
    free = ((_norms(problem, beta) > 0) | (problem.lam == 0))[problem.labels]
    free = jnp.append(free, jnp.full(k, bool(flags[1])))
    along = lambda problem: _stationarity(flags, problem, coef)
    _, slope = jax.jvp(along, (problem,), (dproblem,))
    return _restricted_solve(flags, problem, coef, free, jnp.where(free, -slope, 0))


def _restricted_solve(flags, problem, coef, free, rhs):
    """Solve with the Hessian restricted to what is free; zero elsewhere, as `rhs` is there."""
    keep = lambda v: jnp.where(free, v, 0)

    def hessian(v):
        along = lambda coef: _stationarity(flags, problem, coef)
        _, product = jax.jvp(along, (coef,), (keep(v),))
        return jnp.where(free, product, v)

    inverse = jax.lax.stop_gradient(_inverse_diagonal(flags, problem, coef, free))

    def solve(apply, b):
        return _conjugate_gradients(apply, keep(b), inverse) + jnp.where(free, 0, b)

    return jax.lax.custom_linear_solve(hessian, rhs, solve, symmetric=True)


def _inverse_diagonal(flags, problem, coef, free):
    """Inverse of the diagonal of the Hessian; zero where that is, or nothing is free."""
    X, Y, weights = problem[:3]
    pk, k = problem.labels.size, flags[2]
    beta, Z = coef[:pk], _scores(X, coef, k)
    if flags[0] == LOSSES.index("squared"):
        D = jnp.ones_like(Z)
    elif flags[0] == LOSSES.index("logistic"):
        D = jnp.square(Y) * jax.nn.sigmoid(Z) * jax.nn.sigmoid(-Z)
    else:
        share = jax.nn.softmax(Z, axis=1)
        D = Y.sum(1, keepdims=True) * share * (1 - share)
    diagonal = _products(_square(X), weights[:, None] * D)
    norms = _norms(problem, beta)[problem.labels]
    unit = beta / jnp.where(norms > 0, norms, 1)
    diagonal = diagonal.at[:pk].add(_ratios(problem, beta) * (1 - jnp.square(unit)))
    there = free & (diagonal > 0)
    return jnp.where(there, 1 / jnp.where(there, diagonal, 1), 0)


def _square(X):
    """Square every entry of a design."""
    if isinstance(X, SparseDesign):
        return SparseDesign(jnp.square(X.data), X.rows, X.columns, X.starts, X.num_rows)
    return jnp.square(X)


def _conjugate_gradients(apply, b, inverse):
    """Solve until rounding allows no more, preconditioned by a diagonal; b lies in the range."""
    eps = jnp.finfo(b.dtype).eps

    def step(state):
        x, rest, direction, before, num_iter, _ = state
        product = apply(direction)
        form = jnp.vdot(direction, product)
        size = jnp.vdot(direction, direction / jnp.where(inverse > 0, inverse, 1))
        curved = form > 1e4 * eps * size
        length = jnp.where(curved, before / jnp.where(curved, form, 1), 0)
        x, rest = x + length * direction, rest - length * product
        after = jnp.vdot(rest, inverse * rest)
        ratio = after / jnp.where(before > 0, before, 1)
        return x, rest, inverse * rest + ratio * direction, after, num_iter + 1, curved

    def iterate(x, rest, floor):
        going = lambda s: (s[3] > floor) & (s[4] < 4 * b.size + 100) & s[5]
        first = inverse * rest
        start = (x, rest, first, jnp.vdot(rest, first), jnp.zeros((), int), jnp.array(True))
        return jax.lax.while_loop(going, step, start)[0]

    floor = jnp.square(10 * eps) * jnp.vdot(b, inverse * b)
    x = iterate(jnp.zeros_like(b), b, floor)
    return iterate(x, b - apply(x), floor)
