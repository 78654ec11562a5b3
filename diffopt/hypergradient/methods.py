r"""Four ways to differentiate a criterion in the hyperparameters of a model.

With the solution :math:`\hat\beta(\lambda)` of a problem and its Jacobian :math:`\mathcal{J}`, the
hypergradient is :math:`\mathcal{J}^\top \nabla \mathcal{C}(\hat\beta)`. The Jacobian comes from
the equations that hold on the support, or from coordinate descent, differentiated.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffopt.checks import as_float, check_choice
from diffopt.kernels import Kernel, unrolled
from diffopt.sparse_linear.design import SparseDesign
from diffopt.sparse_linear.problem import LOSSES, Solution, knot_margin, solve

__all__ = ["METHODS", "Hypergradient", "State", "criterion_value", "hypergradient"]

METHODS = ("implicit", "implicit_forward", "forward", "backward")


class State(NamedTuple):
    """Where to start the next time."""

    solution: jax.Array  # [F, p'], of the problems
    intercept: jax.Array  # [F]
    jacobian: Any = None  # [F, p' + 1, K], or None


class Hypergradient(NamedTuple):
    """A criterion, its gradient, and what happened.

    For a criterion of several fits, everything but `value` and `grad` has an axis of fits first.

    Attributes
    ----------
    value : array of shape []
        The criterion.
    grad : array, of the shape of `lam`
        Its gradient.
    coef : array of shape [p]
        Coefficients of the model.
    intercept : array of shape []
        The intercept.
    gap : array of shape []
        The duality gap.
    num_iter : int array of shape []
        Number of iterations of the solver, or passes of coordinate descent.
    converged : bool array of shape []
        Whether the gap is at most `tol`, and the Jacobian has settled.
    margin : array of shape []
        Distance to the nearest knot, relative: where it is 0 the gradient is one of several.
    state : State
        What the argument `init` takes.
    """

    value: jax.Array
    grad: jax.Array
    coef: jax.Array
    intercept: jax.Array
    gap: jax.Array
    num_iter: jax.Array
    converged: jax.Array
    margin: jax.Array
    state: State


def hypergradient(criterion, model, lam, *, method="implicit", tol=1e-8, max_iter=1000, init=None):
    r"""Compute a criterion and its gradient in the hyperparameters.

    .. math::

        \nabla_\lambda \mathcal{C}(\hat\beta(\lambda)) = \mathcal{J}^\top \nabla \mathcal{C}
        (\hat\beta), \qquad \hat\beta(\lambda) \in \operatorname*{argmin}_\beta \;
        F_\lambda(\beta)

    Parameters
    ----------
    criterion : HeldOut, CrossValidation or SURE
        What is differentiated.
    model : Model
        One of the models of `diffopt.sparse_linear`.
    lam : float, or array of shape [k]
        The hyperparameters, as the model takes them.
    method : {"implicit", "implicit_forward", "forward", "backward"}, default "implicit"
        Where the Jacobian comes from.

        - ``"implicit"``: from the equations on the support, by one linear system of its size, for
          any number of hyperparameters;
        - ``"implicit_forward"``: from passes of coordinate descent on the Jacobian, at the
          solution;
        - ``"forward"``: from coordinate descent on both at once;
        - ``"backward"``: from stored iterates of coordinate descent, in reverse.
    tol : float, default 1e-8
        Stop when the duality gap is at most `tol`, relative to the objective of the coefficient 0,
        and (the second and third method) no entry of the Jacobian changes by more than
        ``1e-2 * sqrt(tol)`` times the largest in a pass.
    max_iter : int, default 1000
        Bound on the number of iterations, as in :func:`diffopt.sparse_linear.solve`, or of passes.
    init : State, optional
        Where to start: the `state` of an earlier result.

    Returns
    -------
    Hypergradient
        The value, the gradient, and what happened.

    Raises
    ------
    ValueError
        If `method` has another name, or the criterion does not suit the model.

    Notes
    -----
    With K hyperparameters and s free coefficients the first method costs one solution, and
    O(n s^2 + s^3). A pass of the others costs O(n p) for the solution; the Jacobian adds O(n s K)
    to it, or, backwards, as much as the pass again, and memory for all iterates. Under `jit` and
    `vmap` all of them work. The derivative is that of the solution; where the support changes,
    `margin` is 0, and the gradient one of several. The gradient of the gradient is not defined:
    for derivatives in the data, differentiate :func:`criterion_value`.

    Bertrand et al. :cite:p:`bertrand2020implicit`, algorithms 1 to 3;
    Bertrand et al. :cite:p:`bertrand2022implicit`, section 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.hypergradient import HeldOut, hypergradient
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.eye(2), jnp.array([4.0, 1.0])
    >>> result = hypergradient(HeldOut(X, y, X, y), Lasso(), 1.0)  # soft thresholding by 2
    >>> print(result.coef, result.value, result.grad)
    [2. 0.] 2.5 4.0
    """
    check_choice(method, METHODS, "method")
    criterion.check(model)
    lam = as_float(lam, "lam").astype(criterion.y.dtype)
    state = _initial(criterion, model, lam, method, init)
    settings = (jnp.asarray(tol, lam.dtype), jnp.asarray(max_iter, lam.dtype))
    if method == "implicit":
        result = _implicit(model, criterion, lam, state, settings)
    elif method == "backward":
        result = _backward(model, int(max_iter), criterion, lam, state, settings)
    else:
        result = _forward(model, method == "forward", criterion, lam, state, settings)
    return result


def criterion_value(criterion, model, lam, *, tol=1e-8, max_iter=1000, init=None):
    """Compute a criterion, which JAX can differentiate in the hyperparameters and in all data.

    Parameters
    ----------
    criterion, model, lam, tol, max_iter, init
        As for :func:`hypergradient`.

    Returns
    -------
    array of shape []
        The criterion.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from diffopt.hypergradient import HeldOut, criterion_value
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.eye(2), jnp.array([4.0, 1.0])
    >>> value = lambda y: criterion_value(HeldOut(X, y, X, jnp.zeros(2)), Lasso(), 1.0)
    >>> print(jax.grad(value)(y)[0])  # half of the square of 4 - 2
    2.0
    """
    criterion.check(model)
    lam = as_float(lam, "lam").astype(criterion.y.dtype)
    state = _initial(criterion, model, lam, "implicit", init)
    settings = (jnp.asarray(tol, lam.dtype), jnp.asarray(max_iter, lam.dtype))
    return _value(model, criterion, lam, state, settings)[0]


# --- the problems of a criterion ----------------------------------------------------------------


def problem_of(criterion, model, lam, y, mask):
    """Make the problem of one fit."""
    total = mask.sum() if model.mean_loss else jnp.asarray(mask.size, mask.dtype)
    return model.problem(criterion.X, y, lam, mask / total)


def gap_of(model, tol, lam, y, mask):
    """Largest duality gap allowed in one fit."""
    unit = model.unit(y, lam, mask / mask.sum())
    return tol * jax.lax.stop_gradient(jnp.where(unit > 0, unit, 1))


def over_fits(function, criterion, *arguments):
    """Call ``function(y, mask, *arguments)`` for all fits at once; the design is shared."""
    fits = criterion.fits()
    axes = (0 if fits.y.ndim == 2 else None, 0, *[0] * len(arguments))
    return jax.vmap(function, in_axes=axes)(fits.y, fits.masks, *arguments)


def _initial(criterion, model, lam, method, init):
    """Where to start: at zero, or where another result ended."""
    zero = _zeros(model, method in ("implicit_forward", "forward"), criterion, lam)
    if init is None:
        return zero
    state = State(*init)
    if state.solution.shape != zero.solution.shape:
        num_fits, p = zero.solution.shape
        raise ValueError(
            f"init must be the state of {num_fits} fits with {p} variables, got an array of shape "
            f"{state.solution.shape}"
        )
    jacobian = zero.jacobian
    if jacobian is not None and state.jacobian is not None:
        jacobian = state.jacobian.reshape(jacobian.shape)
    return State(state.solution, state.intercept, jacobian)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _zeros(model, with_jacobian, criterion, lam):
    """The state zero; nothing but its shape is computed, once for all data of a shape."""
    one = problem_of(criterion, model, lam, criterion.y, jnp.ones_like(criterion.y))
    num_fits, p = criterion.fits().masks.shape[0], one.l1.shape[0]
    zero = lambda *shape: jnp.zeros((num_fits, *shape), lam.dtype)
    return State(zero(p), zero(), zero(p + 1, lam.size) if with_jacobian else None)


def solve_all(criterion, model, lam, state, settings):
    """Solve all fits; give the solutions of the problems, and the coefficients of the model."""

    def one(y, mask, start, shift):
        problem = problem_of(criterion, model, lam, y, mask)
        solution = solve(
            problem,
            loss=model.loss,
            fit_intercept=model.fit_intercept,
            init=(start, shift),
            tol=gap_of(model, settings[0], lam, y, mask),
            max_iter=settings[1],
        )
        return solution, model.coef(problem, solution.coef)

    return over_fits(one, criterion, state.solution, state.intercept)


def _finish(criterion, value, grad, coef, solution, jacobian):
    state = State(solution.coef, solution.intercept, jacobian)
    parts = solution._replace(coef=coef)
    if criterion.squeeze:
        parts = jax.tree.map(lambda x: x[0], parts)
    result = Hypergradient(value=value, grad=grad, state=state, **parts._asdict())
    return jax.lax.stop_gradient(result)


# --- implicit -----------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _value(model, criterion, lam, state, settings):
    solution, coef = solve_all(criterion, model, lam, state, settings)
    return criterion.value(model, coef, solution.intercept), (solution, coef)


@functools.partial(jax.jit, static_argnums=0)
def _implicit(model, criterion, lam, state, settings):
    objective = lambda lam: _value(model, criterion, lam, state, settings)
    (value, (solution, coef)), grad = jax.value_and_grad(objective, has_aux=True)(lam)
    return _finish(criterion, value, grad, coef, solution, None)


# --- coordinate descent, differentiated ---------------------------------------------------------


def _no_types(*dtypes):
    return (dtypes[0],) * 4


_kernels = {
    "jacobian_dense": Kernel(
        "jacobian_dense", unrolled.jacobian_dense, _no_types, like=(0, 1, 0, 4)
    ),
    "jacobian_sparse": Kernel(
        "jacobian_sparse", unrolled.jacobian_sparse, _no_types, like=(0, 1, 0, 4)
    ),
    "descent_dense": Kernel("descent_dense", unrolled.descent_dense, _no_types, like=(0, 1, 0, 4)),
    "descent_sparse": Kernel(
        "descent_sparse", unrolled.descent_sparse, _no_types, like=(0, 1, 0, 4)
    ),
    "reverse_dense": Kernel(
        "reverse_dense", unrolled.reverse_dense, lambda b, *rest: (b,), like=(4,)
    ),
    "reverse_sparse": Kernel(
        "reverse_sparse", unrolled.reverse_sparse, lambda b, *rest: (b,), like=(4,)
    ),
}


def _call(name, problem, *operands, flags):
    X = problem.X
    if isinstance(X, SparseDesign):
        return _kernels[f"{name}_sparse"](*operands, X.data, X.rows, X.starts, flags=flags)
    return _kernels[f"{name}_dense"](*operands, X.reshape(-1), flags=flags)


def penalty_of(problem):
    """Join the arrays of the penalty, as kernels take them."""
    return jnp.concatenate(problem[3:])


def tangents_of(penalty, lam):
    """Penalty, [5 p], and its derivatives in the hyperparameters, [5 p, K]."""
    value, push = jax.linearize(penalty, lam)
    basis = jnp.eye(lam.size, dtype=lam.dtype).reshape(lam.size, *lam.shape)
    return value, jax.vmap(push, out_axes=1)(basis)


def _flags(model):
    return LOSSES.index(model.loss), int(model.fit_intercept)


def _summary(problem, coef, gradient, info):
    """What :class:`diffopt.sparse_linear.Solution` holds."""
    margin = knot_margin(problem, coef[:-1], gradient[:-1])
    return Solution(coef[:-1], coef[-1], info[0], info[1].astype(int), info[3] > 0, margin)


def _cotangents(model, criterion, lam, solution):
    """Value, coefficients, and the gradient in the solutions and intercepts."""

    def value(variables, intercepts):
        one = lambda y, mask, v: model.coef(problem_of(criterion, model, lam, y, mask), v)
        coef = over_fits(one, criterion, variables)
        return criterion.value(model, coef, intercepts), coef

    (result, coef), slopes = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(
        solution.coef, solution.intercept
    )
    return result, coef, jnp.concatenate([slopes[0], slopes[1][:, None]], axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(model, moving, criterion, lam, state, settings):
    tol, max_iter = settings
    start = state
    if not moving:
        solved, _ = solve_all(criterion, model, lam, state, settings)
        start = State(solved.coef, solved.intercept, state.jacobian)

    def one(y, mask, variables, shift, jacobian):
        problem = problem_of(criterion, model, lam, y, mask)
        penalty, tangents = tangents_of(
            lambda lam: penalty_of(problem_of(criterion, model, lam, y, mask)), lam
        )
        init, flags = jnp.append(variables, shift), (*_flags(model), int(not moving))
        gap = gap_of(model, tol, lam, y, mask)
        wanted = jnp.stack([gap, max_iter, 1e-2 * jnp.sqrt(tol), jnp.zeros_like(tol)])
        coef, J, gradient, info = _call(
            "jacobian", problem, init, jacobian.reshape(-1), problem.y, problem.weights, wanted,
            penalty, tangents.reshape(-1), flags=flags,
        )  # fmt: skip
        return _summary(problem, coef, gradient, info), J.reshape(jacobian.shape)

    solution, J = over_fits(one, criterion, *start)
    if not moving:
        fine = solution.converged & solved.converged
        solution = solved._replace(converged=fine, num_iter=solved.num_iter + solution.num_iter)
    value, coef, slopes = _cotangents(model, criterion, lam, solution)
    grad = jnp.einsum("fp,fpk->k", slopes, J).reshape(lam.shape)
    return _finish(criterion, value, grad, coef, solution, J)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(model, room, criterion, lam, state, settings):
    tol, max_iter = settings
    zero = jnp.zeros_like(tol)
    store = jnp.zeros((room + 1) * (state.solution.shape[1] + 1), lam.dtype)

    def descend(y, mask, variables, shift):
        problem = problem_of(criterion, model, lam, y, mask)
        wanted = jnp.stack([gap_of(model, tol, lam, y, mask), max_iter, zero, zero])
        coef, iterates, gradient, info = _call(
            "descent", problem, jnp.append(variables, shift), store, problem.y, problem.weights,
            wanted, penalty_of(problem), flags=_flags(model),
        )  # fmt: skip
        return _summary(problem, coef, gradient, info), iterates, info

    solution, iterates, info = over_fits(descend, criterion, *state[:2])
    value, coef, slopes = _cotangents(model, criterion, lam, solution)

    def back(y, mask, bar, iterates, info):
        penalty = lambda lam: penalty_of(problem_of(criterion, model, lam, y, mask))
        problem, (values, pull) = problem_of(criterion, model, lam, y, mask), jax.vjp(penalty, lam)
        bar = _call(
            "reverse", problem, bar, problem.y, problem.weights, info, values, iterates,
            flags=_flags(model),
        )  # fmt: skip
        return pull(bar)[0]

    grad = over_fits(back, criterion, slopes, iterates, info).sum(axis=0)
    return _finish(criterion, value, grad, coef, solution, None)
