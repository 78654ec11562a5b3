r"""A computable bound on the error of a hypergradient, from the duality gap.

Let :math:`G` be the gap of an approximate solution :math:`\beta`, :math:`\hat\beta` the exact one,
:math:`L` the largest second derivative of the loss (1, or :math:`\max_i y_i^2 / 4`). Three steps:

**The support.** The excess of the objective, at most :math:`G`, is at least the Bregman divergence
of the loss, so that by its smoothness, with :math:`r_i = w_i \ell'(z_i)`,

.. math::

    \sum_i \frac{(r_i - \hat r_i)^2}{w_i} \le 2 L G, \qquad
    |x_j^\top r - x_j^\top \hat r| \le \|x_j\|_w \sqrt{2 L G}.

If minus :math:`x_j^\top r` lies that far inside the subdifferential of the penalty at
:math:`\beta_j`, then :math:`\hat\beta_j = \beta_j`: this certifies what is at zero or at a bound.

**The solution.** On the face where these are fixed, let :math:`H` be the Hessian of the free ones
at :math:`\beta`, and :math:`\kappa = \max_i |y_i| \|x_{i,S}\|_{H^{-1}}` for the logistic loss, 0
otherwise. The loss is self-concordant in the sense that :math:`\ell''(z + t) \ge e^{-|y t|}
\ell''(z)`; integrated twice along the segment to :math:`\hat\beta`,

.. math::

    G \ge \frac{1 - (1 + a) e^{-a}}{\kappa^2}, \quad a = \kappa R, \qquad
    R = \|\hat\beta_S - \beta_S\|_H,

which is :math:`G \ge R^2 / 2` for :math:`\kappa = 0`. It bounds :math:`R`, for the logistic loss as
soon as :math:`\kappa^2 G` is small. With :math:`\mu` the smallest eigenvalue of :math:`H`,
:math:`\|\hat\beta_S - \beta_S\| \le R / \sqrt\mu`; coordinate by coordinate, :math:`|\hat\beta_j -
\beta_j| \le R \sqrt{(H^{-1})_{jj}}`. If no sign or bound lies that near, all signs are certified.
Then the slope :math:`g` of the objective on the face, which vanishes at :math:`\hat\beta`, says
more: integrated once along the segment, :math:`(1 - e^{-a}) / \kappa \le \|g\|_{H^{-1}}`, which is
:math:`R \le \|g\|_{H^{-1}}` for :math:`\kappa = 0`. This bound is linear in the error.

**The hypergradient.** Now both Jacobians solve :math:`H J = -B`, with what belongs to them. With
:math:`\theta = e^a - 1`, which bounds the relative change of all second derivatives, and
:math:`D_\rho` the derivative of the ridges,

.. math::

    \|\hat J - J\|_H \le \delta = \frac{\|H^{-1/2} D_\rho H^{-1/2}\| R
    + \theta (\|J\|_H + \|X_F \dot\beta_F\|_d)}{1 - \theta},

and with :math:`M` a bound of the criterion's Hessian, and :math:`\dot\beta` the whole tangent,

.. math::

    |\hat J^\top \nabla \mathcal{C}(\hat\beta) - J^\top \nabla \mathcal{C}(\beta)| \le
    \|M_S\, \dot\beta\|_{H^{-1}} R + \|\nabla_S \mathcal{C}(\beta)\|_{H^{-1}}\, \delta
    + \|H^{-1/2} M_{SS} H^{-1/2}\|\, R\, \delta

(the first term for a squared criterion; :math:`\sqrt{\dot\beta^\top M \dot\beta}\,
\|H^{-1/2} M_{SS} H^{-1/2}\|^{1/2} R` for others). What is given is compared with
:math:`J^\top \nabla \mathcal{C}(\beta)`, solved directly, and the distance added: it is the error
of the linear system, or of an unfinished Jacobian. As :math:`R` is of the order of the error of
the solution, so is the bound.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.hypergradient.methods import penalty_of, problem_of
from diffopt.sparse_linear.design import SparseDesign, matvec
from diffopt.sparse_linear.models import Model
from diffopt.sparse_linear.problem import LOSSES, free_mask, loss_curvature, loss_slope

__all__ = ["Certificate", "hypergradient_error_bound"]

_SLACK = 1 + 1e-9  # what rounding may add


class Certificate(NamedTuple):
    """A bound, and what it rests on.

    For a criterion of several fits, `identified` says whether all supports are, `solution_error`
    and `strong_convexity` are the worst.

    Attributes
    ----------
    error : array, of the shape of `lam`
        Bound on the error of each entry of the gradient; infinite without a certificate.
    identified : bool
        Whether the support, the signs and the active bounds are those of the exact solution.
    solution_error : float
        Bound on the Euclidean error of the problem's solution; infinite without a certificate.
    strong_convexity : float
        Smallest eigenvalue of the Hessian of the free coordinates.
    """

    error: np.ndarray
    identified: bool
    solution_error: float
    strong_convexity: float


class _Fit(NamedTuple):
    """Arrays of one fit, on the host."""

    loss: str
    fit_intercept: bool
    X: np.ndarray  # [n, s], free columns, and the intercept's
    z: np.ndarray  # [n]
    r: np.ndarray  # [n], weighted slopes
    d: np.ndarray  # [n], weighted curvatures
    y: np.ndarray
    weights: np.ndarray
    coef: np.ndarray  # [p]
    penalty: np.ndarray  # [5, p]
    tangents: np.ndarray  # [5, p, K]
    free: np.ndarray  # [p], mask
    products: np.ndarray  # [p], of the columns with r
    norms: np.ndarray  # [p], weighted norms of the columns
    moved: np.ndarray  # [n, K], scores of the tangents of the bounds


class _View(NamedTuple):
    """A criterion, as seen from the free coordinates of one fit, and the tangents of its bounds."""

    slope: np.ndarray  # [s]
    moved_slope: np.ndarray  # [K]
    root: np.ndarray  # [m, s], of its curvature
    moved_root: np.ndarray  # [m, K]
    quadratic: bool


def hypergradient_error_bound(criterion, model, lam, result):
    r"""Bound the error of a hypergradient that comes from an approximate solution.

    .. math::

        |g - \nabla_\lambda \mathcal{C}(\hat\beta(\lambda))| \le \mathrm{error} =
        O(\|\hat\beta - \beta\|)

    Parameters
    ----------
    criterion, model, lam
        As for :func:`hypergradient`.
    result : Hypergradient
        What that returned, for any method and tolerance.

    Returns
    -------
    Certificate
        The bound, for each hyperparameter. It is infinite if the gap is too large to tell the
        support, if columns of the support depend on each other, or a coordinate other than the
        intercept is neither penalised nor bounded.

    Notes
    -----
    The derivation stands at the head of the source file. Rounding errors are not bounded,
    nor, with an intercept, is what its equation lacks: both are of the order of the precision.
    Costs O(n p + n s^2 + s^3) for s free coefficients, on the host, in double precision.

    Bertrand et al. :cite:p:`bertrand2022implicit`, theorem 9, show the rate; constants there
    are not computable.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt.hypergradient import HeldOut, hypergradient, hypergradient_error_bound
    >>> from diffopt.sparse_linear import Lasso
    >>> X, y = jnp.array([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]), jnp.array([4.0, 1.0, 1.0])
    >>> criterion = HeldOut(X, y, X, y)
    >>> result = hypergradient(criterion, Lasso(), 0.1, tol=1e-5)
    >>> certificate = hypergradient_error_bound(criterion, Lasso(), 0.1, result)
    >>> print(certificate.identified, bool(certificate.error < 0.1))
    True True
    """
    lam = jnp.asarray(lam, criterion.y.dtype)
    gaps = np.atleast_1d(np.asarray(result.gap, float))
    seen = _read(criterion, model, lam, result.state)
    exact = np.zeros(lam.size)
    error, mu, solution_error, identified = np.zeros(lam.size), np.inf, 0.0, True
    for gap, (fit, view) in zip(gaps, seen, strict=True):
        grad, bound, radius, smallest, fine = _bound(fit, view, max(gap, 0.0))
        exact, error = exact + grad, error + bound
        mu, identified = min(mu, smallest), identified and fine
        solution_error = max(solution_error, radius)
    given = np.asarray(result.grad, float).ravel()
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(error), error + np.abs(given - exact), np.inf)
    return Certificate(error.reshape(lam.shape), identified, solution_error, mu)


# --- reading what is needed ---------------------------------------------------------------------


def _read(criterion, model, lam, state):
    """Give the arrays of each fit, and how the criterion looks from there."""
    fits, measure = criterion.fits(), criterion.measure()
    for f in range(fits.masks.shape[0]):
        y = fits.y[f] if fits.y.ndim == 2 else fits.y
        problem = problem_of(criterion, model, lam, y, fits.masks[f])
        penalty = functools.partial(_penalty, criterion, model, y, fits.masks[f])
        variables, intercept = state.solution[f], state.intercept[f]
        fit, bounds = _read_fit(model, problem, penalty, lam, variables, intercept)
        view = _view(criterion.loss_for(model), measure, f, model, problem, fit, intercept, bounds)
        yield fit, view


def _penalty(criterion, model, y, mask, lam):
    return penalty_of(problem_of(criterion, model, lam, y, mask))


def _view(loss, measure, f, model, problem, fit, intercept, bounds):
    """Give the slopes of the criterion, and a root of its curvature.

    Each belongs to the free coordinates, and to the tangents of the bounds.
    """
    to_scores = lambda v: np.asarray(matvec(measure.X, model.coef(problem, v)), float)
    z = to_scores(jnp.asarray(fit.coef, problem.y.dtype)) + float(intercept)
    slope, curvature = _measured(loss, z, np.asarray(measure.y, float))
    v, q = np.asarray(measure.weights[f], float), np.asarray(measure.tilt[f], float)
    A = _columns_of(measure.X, model, problem, fit, to_scores)
    moved = np.stack([to_scores(b) for b in bounds], axis=-1)
    root, weighted = np.sqrt(v * curvature)[:, None], v * slope + q
    return _View(weighted @ A, weighted @ moved, root * A, root * moved, loss == "squared")


def _measured(loss, z, y):
    """Slope of the criterion's loss, and a bound of its curvature."""
    if loss == "squared":
        return 2 * (z - y), np.full_like(z, 2.0)
    if loss == "logistic":
        return -y / (1 + np.exp(np.minimum(y * z, 700))), y**2 / 4
    return -y * np.clip(1 - y * z, 0, 1), y**2


def _read_fit(model, problem, penalty, lam, variables, intercept):
    value, push = jax.linearize(penalty, lam)
    basis = jnp.eye(lam.size, dtype=lam.dtype).reshape(lam.size, *lam.shape)
    tangents = np.asarray(jax.vmap(push)(basis), float).reshape(lam.size, 5, -1)
    flags = (LOSSES.index(model.loss), int(model.fit_intercept))
    free = np.asarray(free_mask(flags, problem, jnp.append(variables, intercept)))[:-1]
    z = matvec(problem.X, variables) + intercept
    r = problem.weights * loss_slope(model.loss, z, problem.y)
    d = problem.weights * loss_curvature(model.loss, z, problem.y)
    products, norms = _products(problem.X, r, problem.weights)
    coef = np.asarray(variables, float)
    low, high = np.asarray(problem.low), np.asarray(problem.high)
    sides = np.where(coef <= low, tangents[:, 2], np.where(coef >= high, tangents[:, 3], 0))
    bounds = [jnp.asarray(side, variables.dtype) for side in sides]
    moved = np.stack([np.asarray(matvec(problem.X, b), float) for b in bounds], axis=-1)
    X = _gather(problem.X, free)
    if model.fit_intercept:
        X = np.column_stack([X, np.ones(len(X))])
    z, r, d, y, weights = (np.asarray(x, float) for x in (z, r, d, problem.y, problem.weights))
    penalty, tangents = np.asarray(value, float).reshape(5, -1), np.moveaxis(tangents, 0, -1)
    fit = _Fit(
        model.loss, model.fit_intercept, X, z, r, d, y, weights, coef, penalty, tangents, free,
        products, norms, moved,
    )  # fmt: skip
    return fit, bounds


def _gather(X, free):
    """Copy the free columns, as a dense array."""
    if not isinstance(X, SparseDesign):
        return np.asarray(X, float)[:, free]
    data, rows, columns = (np.asarray(x) for x in (X.data, X.rows, X.columns))
    places = np.cumsum(free) - 1
    kept = free[columns]
    out = np.zeros((X.num_rows, int(free.sum())))
    out[rows[kept], places[columns[kept]]] = data[kept]
    return out


def _products(X, r, weights):
    """Products of all columns with r, and their weighted norms."""
    r, weights = np.asarray(r, float), np.asarray(weights, float)
    if not isinstance(X, SparseDesign):
        dense = np.asarray(X, float)
        return r @ dense, np.sqrt(weights @ dense**2)
    data, rows, columns = (np.asarray(x) for x in (X.data, X.rows, X.columns))
    sums = lambda t: np.bincount(columns, t, minlength=X.shape[1])
    return sums(data * r[rows]), np.sqrt(sums(weights[rows] * data**2))


def _columns_of(X, model, problem, fit, to_scores):
    """The map from free variables, the intercept last, to the scores that are judged."""
    basis = np.eye(fit.coef.size)[fit.free]
    if type(model).coef is Model.coef:
        A = _gather(X, fit.free)
    elif len(basis):
        A = np.stack([to_scores(jnp.asarray(e, problem.y.dtype)) for e in basis], axis=-1)
    else:
        A = np.zeros((X.shape[0], 0))
    return np.column_stack([A, np.ones(len(A))]) if fit.fit_intercept else A


# --- the bound ----------------------------------------------------------------------------------


def _bound(fit, view, gap):
    """Gradient of one fit, its bound, that of the solution, the curvature, and whether certain."""
    K = fit.tangents.shape[-1]
    nothing = np.zeros(K), np.full(K, np.inf), np.inf
    H = (fit.X.T * fit.d) @ fit.X + np.diag(_ridge(fit))
    values = np.linalg.eigvalsh(H) if len(H) else np.ones(1)
    mu = float(values[0])
    if _unbounded(fit) or not mu > 1e-12 * values[-1] or not np.isfinite(gap):
        return *nothing, max(mu, 0.0), False
    half = np.linalg.inv(np.linalg.cholesky(H)) if len(H) else np.zeros((0, 0))  # H^-1 = half' half
    radius, theta = _radius(fit, half, gap)
    if not (np.isfinite(radius) and _identified(fit, half, gap, radius)):
        return *nothing, mu, False
    radius, theta = _refined(fit, half, radius, theta)
    J = _jacobian(fit, half)
    grad = view.slope @ J + view.moved_slope
    error = _propagate(fit, half, J, view, radius, theta)
    return grad, _SLACK * error, radius / np.sqrt(mu), mu, True


def _ridge(fit):
    ridge = fit.penalty[1][fit.free]
    return np.append(ridge, 0.0) if fit.fit_intercept else ridge


def _unbounded(fit):
    l1, ridge, low, high, _ = fit.penalty
    return np.any((ridge == 0) & (l1 == 0) & (np.isinf(low) | np.isinf(high)))


def _radius(fit, half, gap):
    """Bound on the error of the solution in the norm of H, and on the change of curvatures."""
    radius = np.sqrt(2 * gap)
    if fit.loss == "squared" or gap == 0:
        return radius, 0.0
    kappa = _kappa(fit, half)
    a = target = kappa**2 * gap
    if target > 0.2:
        return np.inf, np.inf
    a = np.sqrt(2 * target)
    for _ in range(100):
        a = np.sqrt(2 * target * np.exp(a))  # then the integral is at least a^2 exp(-a) / 2
    a *= _SLACK
    return (a / kappa if kappa > 0 else radius), np.expm1(a)


def _kappa(fit, half):
    return np.max(np.abs(fit.y) * np.linalg.norm(fit.X @ half.T, axis=1), initial=0)


def _refined(fit, half, radius, theta):
    """The same two bounds, from the slope that the objective has on the certified face."""
    l1, ridge, _, _, tilt = (row[fit.free] for row in fit.penalty)
    beta = fit.coef[fit.free]
    parts = np.stack([fit.products[fit.free], tilt, ridge * beta, np.sign(beta) * l1])
    slope, scale = parts.sum(axis=0), np.abs(parts).max(axis=0)
    if fit.fit_intercept:
        slope, scale = np.append(slope, fit.r.sum()), np.append(scale, np.abs(fit.r).sum())
    size = np.linalg.norm(half @ slope) + 4 * np.finfo(float).eps * np.linalg.norm(half @ scale)
    if fit.loss != "squared":
        kappa = _kappa(fit, half)
        if kappa * size >= 1:
            return radius, theta
        size = -np.log1p(-kappa * size) / kappa if kappa > 0 else size
        theta = min(theta, np.expm1(kappa * size))
    return min(radius, size), theta


def _identified(fit, half, gap, radius):
    """Whether all that is fixed stays so, and all that is free stays on its side."""
    l1, ridge, low, high, tilt = fit.penalty
    beta, fixed = fit.coef, ~fit.free
    smooth = np.max(fit.y**2) / 4 if fit.loss == "logistic" else 1.0
    room = fit.norms * np.sqrt(2 * smooth * gap)
    g = fit.products + tilt + ridge * beta
    left = np.where(beta <= low, -np.inf, g + np.where(beta > 0, l1, -l1))
    right = np.where(beta >= high, np.inf, g + np.where(beta < 0, -l1, l1))
    stays = (left + room < 0) & (right - room > 0)
    if not np.all(stays | ~fixed):
        return False
    reach = radius * np.linalg.norm(half, axis=0)[: int(fit.free.sum())]
    beta, l1, low, high = beta[fit.free], l1[fit.free], low[fit.free], high[fit.free]
    side = np.where(l1 > 0, np.abs(beta), np.inf)
    return bool(np.all(np.minimum(side, np.minimum(beta - low, high - beta)) > reach))


def _jacobian(fit, half):
    """Jacobian of the free coordinates."""
    dl1, dridge, _, _, dtilt = (t[fit.free] for t in fit.tangents)
    beta = fit.coef[fit.free][:, None]
    force = dtilt + np.sign(beta) * dl1 + beta * dridge
    if fit.fit_intercept:
        force = np.vstack([force, np.zeros((1, force.shape[1]))])
    force = force + fit.X.T @ (fit.d[:, None] * fit.moved)
    return -half.T @ (half @ force)


def _bend(fit, half):
    """Norms of the derivatives of the ridges, [K], in the norm of H."""
    dridge = fit.tangents[1][fit.free]
    half = half[:, : len(dridge)]
    if not np.any(dridge):
        return np.zeros(dridge.shape[1])
    return np.array([np.linalg.norm((half * t) @ half.T, 2) for t in dridge.T])


def _propagate(fit, half, J, view, radius, theta):
    """Error of the hypergradient, from that of the solution."""
    if theta >= 1:
        return np.full(J.shape[1], np.inf)
    curved = np.sqrt(fit.d)[:, None]
    size = np.sum((curved * (fit.X @ J)) ** 2, axis=0) + _ridge(fit) @ J**2
    pushed = np.linalg.norm(curved * fit.moved, axis=0)
    delta = (_bend(fit, half) * radius + theta * (np.sqrt(size) + pushed)) / (1 - theta)
    root = view.root @ half.T  # a root of the criterion's curvature, in the norm of H
    largest = np.linalg.norm(root, 2) ** 2 if root.size else 0.0
    whole = view.root @ J + view.moved_root
    if view.quadratic:
        first = np.linalg.norm(root.T @ whole, axis=0)
    else:
        first = np.linalg.norm(whole, axis=0) * np.sqrt(largest)
    return (first + largest * delta) * radius + np.linalg.norm(half @ view.slope) * delta
