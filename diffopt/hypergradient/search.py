"""Search for hyperparameters: by hypergradients, on a grid, or at random."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_choice, check_positive
from diffopt.hypergradient.methods import State, _initial, _value, hypergradient
from diffopt.sparse_linear.design import as_design, rmatvec
from diffopt.sparse_linear.models import SVR, ElasticNet, Lasso, SparseLogistic

__all__ = ["History", "SearchResult", "grad_search", "grid_search", "lam_max", "random_search"]

OPTIMIZERS = ("line_search", "adaptive", "adam")
_LONG = 2.0  # seconds after which a search shows a progress bar


class History(NamedTuple):
    """What each evaluation found, in order.

    Attributes
    ----------
    lam : array of shape [T, ...]
        Hyperparameters.
    value : array of shape [T]
        The criterion.
    grad_norm : array of shape [T]
        Norm of the gradient in the logarithms; nan where none was computed.
    gap : array of shape [T]
        The largest duality gap.
    time : array of shape [T]
        Seconds since the start.
    """

    lam: np.ndarray
    value: np.ndarray
    grad_norm: np.ndarray
    gap: np.ndarray
    time: np.ndarray


class SearchResult(NamedTuple):
    """The best hyperparameters found.

    Attributes
    ----------
    lam : array
        The hyperparameters.
    value : float
        The criterion there.
    history : History
        All evaluations.
    converged : bool
        Whether the search stopped because no step was left to make, not because of `max_iter`.
    state : State
        Solutions at `lam`, where another search may start.
    """

    lam: np.ndarray
    value: float
    history: History
    converged: bool
    state: State


def lam_max(model, X, y, weights=None):
    r"""Compute the smallest weight of the absolute penalty for which all coefficients are zero.

    .. math::

        \lambda_{\max} = \max_j \Bigl| \sum_i w_i\, \ell'(b_0, y_i)\, x_{ij} \Bigr|

    with :math:`b_0` the intercept of the model that has nothing else.

    Parameters
    ----------
    model : Lasso, ElasticNet or SparseLogistic
        The model.
    X, y : arrays of shapes [n, p] and [n]
        The data; `X` may be sparse.
    weights : array of shape [n], optional
        Weights of the items, which are divided by their sum; by default equal.

    Returns
    -------
    array of shape []
        The weight.

    Raises
    ------
    ValueError
        If the model has no absolute penalty on its coefficients.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.hypergradient import lam_max
    >>> from diffopt.sparse_linear import Lasso
    >>> print(lam_max(Lasso(), jnp.eye(2), jnp.array([4.0, 1.0])))
    2.0
    """
    if not isinstance(model, Lasso | ElasticNet | SparseLogistic):
        raise ValueError(f"model must have an absolute penalty on its coefficients, got {model}")
    X, y = as_design(X), as_float(y, "y")
    y = y.astype(X.dtype)
    w = jnp.ones_like(y) if weights is None else as_float(weights, "weights").astype(y.dtype)
    w = w / w.sum()
    if model.loss == "squared":
        center = jnp.vdot(w, y) if model.fit_intercept else jnp.zeros((), y.dtype)
        r = w * (center - y)
    else:
        share = jnp.sum(jnp.where(y > 0, w, 0)) if model.fit_intercept else 0.5
        r = w * jnp.where(y > 0, share - 1, share)
    return jnp.abs(rmatvec(X, r)).max(initial=0)


def search_bounds(criterion, model, lam, bounds=None):
    """Bounds of the search, of the shape of `lam`."""
    lam = np.asarray(lam, float)
    if bounds is None and isinstance(model, Lasso | ElasticNet | SparseLogistic):
        weights = getattr(criterion, "weights", None)
        top = float(lam_max(model, criterion.X, criterion.y, weights))
        bounds = (1e-4 * top, top)
    elif bounds is None:
        bounds = (1e-4 * lam, 1e4 * lam)
    low, high = (np.broadcast_to(np.asarray(b, float), lam.shape) for b in bounds)
    if not (np.all(low > 0) and np.all(low <= high)):
        raise ValueError(f"bounds must be positive and in order, got {bounds}")
    return low, high


class _Recorder:
    """Evaluates, remembers, and shows a progress bar when it takes long."""

    def __init__(self, criterion, model, total, progress, max_iter):
        self.criterion, self.model, self.max_iter = criterion, model, max_iter
        self.start, self.rows = time.perf_counter(), []
        self.best: Any = None
        self.total, self.bar = total, None
        self.progress = progress

    def add(self, lam, value, grad_norm, gap, state):
        lam, value = np.array(lam, float), float(value)
        elapsed = time.perf_counter() - self.start
        self.rows.append((lam, value, grad_norm, float(np.max(gap)), elapsed))
        if self.best is None or value < self.best[1]:
            self.best = lam, value, state
        self.show(elapsed)

    def show(self, elapsed):
        if self.progress and self.bar is None and elapsed > _LONG:
            self.bar = _bar(self.total, len(self.rows) - 1)
        if self.bar is not None:
            self.bar.set_postfix_str(f"best {self.best[1]:.6g}", refresh=False)
            self.bar.update()

    def value(self, lam, state, tol):
        """Compute the criterion alone."""
        lam = jnp.asarray(lam, self.criterion.y.dtype)
        start = _initial(self.criterion, self.model, lam, "implicit", state)
        settings = tuple(jnp.asarray(x, lam.dtype) for x in (tol, self.max_iter))
        value, (solution, _) = _value(self.model, self.criterion, lam, start, settings)
        state = State(solution.coef, solution.intercept)
        self.add(lam, value, np.nan, solution.gap, state)
        return state

    def gradient(self, log, state, tol, method):
        """Compute the criterion and its gradient in the logarithms."""
        lam = np.exp(log)
        result = hypergradient(
            self.criterion, self.model, lam, method=method, tol=tol, max_iter=self.max_iter,
            init=state,
        )  # fmt: skip
        slope = np.asarray(result.grad, float) * lam
        self.add(lam, result.value, float(np.linalg.norm(slope)), result.gap, result.state)
        return float(result.value), slope, result.state

    def finish(self, converged):
        if self.bar is not None:
            self.bar.close()
        history = History(*(np.array(column) for column in zip(*self.rows, strict=True)))
        lam, value, state = self.best
        return SearchResult(lam, value, history, converged, state)


def _bar(total, done):
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return None
    return tqdm(total=total, initial=done, leave=False)


def grad_search(
    criterion, model, lam0, *, optimizer="line_search", max_iter=50, tol=1e-8, bounds=None,
    method="implicit", first_tol=1e-4, solver_max_iter=1000, rtol=1e-4, init=None, progress=False,
):  # fmt: skip
    r"""Minimise a criterion by its hypergradients, in the logarithms of the hyperparameters.

    .. math::

        \operatorname*{argmin}_{l \le \log \lambda \le u} \; \mathcal{C}(\hat\beta(\lambda))

    Parameters
    ----------
    criterion : HeldOut, CrossValidation or SURE
        What is minimised.
    model : Model
        One of the models of `diffopt.sparse_linear`.
    lam0 : float, or array of shape [k]
        Where to start.
    optimizer : {"line_search", "adaptive", "adam"}, default "line_search"
        - ``"line_search"``: projected gradient steps, as long as the last two gradients suggest,
          halved until the criterion decreases;
        - ``"adaptive"``: a step that grows while the criterion decreases, and is halved, from where
          it was, when it does not;
        - ``"adam"``: Adam, for many hyperparameters.
    max_iter : int, default 50
        Bound on the number of evaluations.
    tol : float, default 1e-8
        Tolerance of the duality gap in the end, relative to the objective of the coefficient 0.
    bounds : pair of floats or arrays, optional
        Bounds of the hyperparameters; by default :func:`lam_max` times 1e-4 and 1, or `lam0` times
        1e-4 and 1e4 for a model that has no such number.
    method : str, default "implicit"
        As for :func:`hypergradient`.
    first_tol : float, default 1e-4
        Tolerance in the beginning; it decreases tenfold from one accepted step to the next.
    solver_max_iter : int, default 1000
        Bound on the iterations of the solver in one evaluation.
    rtol : float, default 1e-4
        Stop when a step changes no logarithm by more than this.
    init : State, optional
        Where the first solution starts.
    progress : bool, default False
        Show a progress bar, if tqdm is installed and the search takes more than some seconds.

    Returns
    -------
    SearchResult
        The best hyperparameters, and all that were tried.

    Raises
    ------
    ValueError
        If `lam0` or the bounds are not positive, or `optimizer` has another name.

    Notes
    -----
    The criterion need not be convex: what is found is near a local minimum, and a start far from
    it may stop at a knot. Each evaluation starts from the solutions of the one before (and from
    their Jacobian, for the methods that carry it along).

    Bertrand et al. :cite:p:`bertrand2022implicit`, section 4.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.hypergradient import HeldOut, grad_search
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.eye(2), jnp.array([4.0, 1.0])
    >>> found = grad_search(HeldOut(X, y, X, jnp.array([3.0, 0.0])), Lasso(), 1.5)
    >>> print(f"{found.lam:.3f}")  # soft thresholding of 4 by 1 gives 3
    0.500
    """
    check_choice(optimizer, OPTIMIZERS, "optimizer")
    check_positive(lam0, "lam0")
    low, high = search_bounds(criterion, model, lam0, bounds)
    low, high = np.log(low), np.log(high)
    recorder = _Recorder(criterion, model, max_iter, progress, solver_max_iter)
    schedule = lambda k: max(tol, first_tol * 0.1**k)
    evaluate = lambda log, state, k: recorder.gradient(log, state, schedule(k), method)
    run = {"line_search": _line_search, "adaptive": _adaptive, "adam": _adam}[optimizer]
    log = np.clip(np.log(np.asarray(lam0, float)), low, high)
    project = lambda log: np.clip(log, low, high)
    enough = lambda k: schedule(k) <= tol
    return recorder.finish(run(evaluate, project, log, init, max_iter, rtol, enough))


def _first_step(slope):
    """Step that moves the logarithms by one."""
    size = np.abs(slope).max()
    return 1 / size if size > 0 else 1.0


def _line_search(evaluate, project, log, state, max_iter, rtol, enough):
    """Projected gradient with the steps of Barzilai and Borwein, and Armijo's condition."""
    value, slope, state = evaluate(log, state, 0)
    accepted, step, made = 0, _first_step(slope), 1
    while made < max_iter:
        new = project(log - step * slope)
        if np.abs(new - log).max() <= rtol:
            if enough(accepted):
                return True
            accepted += 1  # exact enough for no step yet
            value, slope, state = evaluate(log, state, accepted)
            made, step = made + 1, max(step, _first_step(slope) * 0.1)
            continue
        tried, new_slope, new_state = evaluate(new, state, accepted)
        made += 1
        if not tried <= value + 1e-4 * np.sum(slope * (new - log)):
            step = _shorter(step, value, tried, np.sum(slope * (new - log)))
            continue
        move, change = new - log, new_slope - slope
        curvature = np.sum(move * change)
        limit = _first_step(new_slope)
        step = min(np.sum(move**2) / curvature, limit) if curvature > 0 else limit
        log, value, slope, state, accepted = new, tried, new_slope, new_state, accepted + 1
    return False


def _shorter(step, before, tried, slope):
    """Step to the minimum of the parabola through what is known, within limits."""
    if not np.isfinite(tried):
        return 0.1 * step
    bend = tried - before - slope
    return step * np.clip(-slope / (2 * bend) if bend > 0 else 0.5, 0.1, 0.5)


def _adaptive(evaluate, project, log, state, max_iter, rtol, enough):
    """Gradient steps that grow by a half, or are halved."""
    value, slope, state = evaluate(log, state, 0)
    step, accepted = 0.5 * _first_step(slope), 0
    for _ in range(max_iter - 1):
        new = project(log - step * slope)
        if np.abs(new - log).max() <= rtol and enough(accepted):
            return True
        tried, new_slope, new_state = evaluate(new, state, accepted)
        if tried < value or (not enough(accepted) and tried <= value):
            log, value, slope, state = new, tried, new_slope, new_state
            step, accepted = 1.5 * step, accepted + 1
        else:
            step, accepted = 0.5 * step, accepted + 1
    return False


def _adam(evaluate, project, log, state, max_iter, rtol, enough):
    """Adam with a rate that decays to zero."""
    mean, square = np.zeros_like(log), np.zeros_like(log)
    for k in range(max_iter):
        _, slope, state = evaluate(log, state, k)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.99 * square + 0.01 * slope**2
        direction = mean / (1 - 0.9 ** (k + 1))
        direction /= np.sqrt(square / (1 - 0.99 ** (k + 1))) + 1e-30
        new = project(log - 0.3 * (1 - k / max_iter) * direction)
        if np.abs(new - log).max() <= rtol and enough(k):
            return True
        log = new
    return False


def _default_grid(criterion, model, num, bounds, like):
    """Geometric grid from large to small, the product of one for each hyperparameter."""
    low, high = search_bounds(criterion, model, like, bounds)
    if low.ndim == 0:
        return np.geomspace(high, low, num)
    if low.size > 3:
        raise ValueError(f"grid must be given for {low.size} hyperparameters: {num}^{low.size}")
    axes = [np.geomspace(b, a, num) for a, b in zip(low, high, strict=True)]
    return np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _like(model):
    """Hyperparameters of the shape that a model takes."""
    return np.ones(2) if isinstance(model, ElasticNet | SVR) else np.ones(())


def _try_all(criterion, model, grid, tol, solver_max_iter, progress):
    recorder, state = _Recorder(criterion, model, len(grid), progress, solver_max_iter), None
    for lam in grid:
        state = recorder.value(lam, state, tol)
    return recorder.finish(True)


def grid_search(
    criterion, model, grid=None, *, num=100, bounds=None, tol=1e-8, solver_max_iter=1000,
    progress=False,
):  # fmt: skip
    """Evaluate a criterion on a grid, each solution starting from the one before.

    Parameters
    ----------
    criterion, model
        As for :func:`grad_search`.
    grid : array of shape [T] or [T, k], optional
        Hyperparameters, in the order in which they are tried; by default a geometric grid from
        large to small, with `num` values of each.
    num : int, default 100
        Values of each hyperparameter.
    bounds, tol, solver_max_iter, progress
        As for :func:`grad_search`.

    Returns
    -------
    SearchResult
        The best hyperparameters, and all that were tried.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt.hypergradient import HeldOut, grid_search
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.eye(2), jnp.array([4.0, 1.0])
    >>> found = grid_search(HeldOut(X, y, X, jnp.array([3.0, 0.0])), Lasso(), [1.0, 0.5, 0.1])
    >>> print(found.lam, np.round(np.asarray(found.history.value, float), 4))
    0.5 [0.5  0.   0.64]
    """
    criterion.check(model)
    if grid is None:
        grid = _default_grid(criterion, model, num, bounds, _like(model))
    return _try_all(criterion, model, np.asarray(grid, float), tol, solver_max_iter, progress)


def random_search(
    key, criterion, model, *, num=100, bounds=None, tol=1e-8, solver_max_iter=1000, progress=False
):
    """Evaluate a criterion at random hyperparameters, of uniform logarithms, from large to small.

    Parameters
    ----------
    key : key of `jax.random`
        Draws them.
    criterion, model
        As for :func:`grad_search`.
    num : int, default 100
        How many.
    bounds, tol, solver_max_iter, progress
        As for :func:`grad_search`.

    Returns
    -------
    SearchResult
        The best hyperparameters, and all that were tried.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from diffopt.hypergradient import HeldOut, random_search
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.eye(2), jnp.array([4.0, 1.0])
    >>> criterion = HeldOut(X, y, X, jnp.array([3.0, 0.0]))
    >>> found = random_search(jax.random.key(0), criterion, Lasso(), num=200, bounds=(0.1, 2.0))
    >>> print(f"{found.lam:.1f}")
    0.5
    """
    criterion.check(model)
    low, high = search_bounds(criterion, model, _like(model), bounds)
    uniform = np.asarray(jax.random.uniform(key, (num, *low.shape)), float)
    grid = np.exp(np.log(low) + uniform * (np.log(high) - np.log(low)))
    order = np.argsort(-grid.reshape(num, -1)[:, 0])
    return _try_all(criterion, model, grid[order], tol, solver_max_iter, progress)
