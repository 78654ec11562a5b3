r"""Euclidean and Kullback-Leibler projections onto polytopes and balls, differentiable.

A projection is a layer: it maps any scores `theta` to the nearest point of a convex set. On each
face of the set it has a closed form in `theta`; a solver finds the face, the closed form gives the
value and derivatives of every order, in both modes. Chapter: :ref:`structured`.

All functions share their arguments: `theta`, an array that holds vectors along `axis`;
`regularization`, ``"l2"`` for the Euclidean projection of `theta` or ``"kl"`` for the KL projection
of :math:`e^\theta`; bounds that are numbers, or arrays of the shape of `theta` without `axis`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import (
    as_float,
    check_axis,
    check_choice,
    check_shape,
    working_dtype,
)
from diffopt.isotonic import isotonic_l2
from diffopt.kernels.simplices import cut_box, exp_weights, finite

__all__ = [
    "project_box",
    "project_knapsack",
    "project_l1_ball",
    "project_l2_ball",
    "project_order_simplex",
    "project_product",
    "project_simplex",
]


def project_box(theta, low=0.0, high=1.0, *, regularization="l2", axis=-1):
    r"""Projection onto a box; by default the unit cube.

    .. math::

        \operatorname*{argmin}_{\mu \in [l, h]^n} \; \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \in [l, h]^n} \; \mathrm{KL}(\mu, e^\theta)
        = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array
        The scores to project.
    low, high : float or array that broadcasts to the shape of `theta`
        The bounds, infinite ones included. For ``"kl"`` non-negative.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    axis : int, default -1
        Of no effect, as the set is a product; there for a uniform signature.

    Returns
    -------
    array of the shape and dtype of `theta`

    Raises
    ------
    TypeError
        If `theta`, `low` or `high` is not an array of real numbers.
    ValueError
        If `low` exceeds `high` or is negative for ``"kl"``, or another argument is invalid.

    Notes
    -----
    O(n). The derivative is one (:math:`\mu_i` for KL) strictly between the bounds, and zero
    elsewhere. Blondel :cite:p:`blondel2019structured`, section 4. Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_box
    >>> print(project_box(jnp.array([-1.0, 0.3, 4.0])))
    [0.  0.3 1. ]
    >>> print(project_box(jnp.array([-jnp.inf, -jnp.log(2.0), 4.0]), regularization="kl"))
    [0.  0.5 1. ]
    """
    theta, axis = _prepare(theta, regularization, axis)
    floor = 0 if regularization == "kl" else -np.inf
    _check_order(low, high, "low", "high", floor=floor)
    low, high = as_float(low, "low"), as_float(high, "high")
    low = check_shape(low, theta.shape, "low", "theta")
    high = check_shape(high, theta.shape, "high", "theta")
    return _project_box(theta, low, high, regularization)


@functools.partial(jax.jit, static_argnames="regularization")
def _project_box(theta, low, high, regularization):
    x, low, high = (a.astype(working_dtype(theta.dtype)) for a in (theta, low, high))
    return _box(x, low, high, regularization).astype(theta.dtype)


def _box(x, low, high, regularization):
    """Clip, with no derivative on the bounds."""
    if regularization == "l2":
        return jnp.where(x <= low, low, jnp.where(x >= high, high, x))
    top = x >= jnp.log(high)
    raw = jnp.exp(jnp.where(top, 0, x))  # keep overflow away from the derivative
    return jnp.where(top, high, jnp.where(raw <= low, low, raw))


def project_simplex(theta, total=1.0, *, regularization="l2", axis=-1):
    r"""Projection onto the simplex, the set of non-negative vectors with a given sum.

    .. math::

        \operatorname*{argmin}_{\mu \ge 0, \; \sum_i \mu_i = t} \; \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \ge 0, \; \sum_i \mu_i = t} \; \mathrm{KL}(\mu, e^\theta)
        = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`. Minus infinity drops an item; plus infinity takes
        all, shared by tied infinities.
    total : float or array of the shape of `theta` without `axis`, default 1.0
        The sum t of the projection, not negative.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta` (sparsemax), or KL projection of :math:`e^\theta`
        (softmax).
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` or `total` is not an array of real numbers.
    ValueError
        If `total` is negative, `theta` has no item, or another argument is invalid.

    Notes
    -----
    O(n) memory; a few passes of O(n). With F the items with :math:`\mu_i > 0`,
    :math:`\mathrm{d}\mu_F = \mathrm{d}\theta_F - \operatorname{mean}(\mathrm{d}\theta_F)` for L2,
    :math:`\mathrm{d}\mu = \mu \, (\mathrm{d}\theta - \langle \mu, \mathrm{d}\theta \rangle / t)`
    for KL. Michelot (1986); Blondel :cite:p:`blondel2019structured`,
    section 4. Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_simplex
    >>> print(project_simplex(jnp.array([-2.0, 0.0, 0.5])))
    [0.   0.25 0.75]
    >>> print(project_simplex(jnp.zeros(4), regularization="kl"))
    [0.25 0.25 0.25 0.25]
    """
    theta, axis = _prepare(theta, regularization, axis)
    _check_order(total, np.inf, "total", "infinity", floor=0)
    if theta.shape[axis] == 0:
        raise ValueError("theta must have at least one item along axis: the simplex is empty")
    return _project_simplex(theta, _bound(total, theta, axis, "total"), regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_simplex(theta, total, regularization, axis):
    x = _to_last(theta, axis)
    total = total.astype(x.dtype)
    return _from_last(simplex_rows(x, total, regularization), theta, axis)


def simplex_rows(x, total, regularization="l2"):
    """Project rows onto simplices of totals of shape [..., 1]."""
    if regularization == "l2":
        return cut_box(x, total, total, total)[0]
    return _softmax(jnp.where(jnp.isinf(x), jax.lax.stop_gradient(x), x), total)


@jax.custom_jvp
def _softmax(x, total):
    return exp_weights(x, total, True)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
    total, dtotal = primals[1], tangents[1]
    mu = _softmax(*primals)
    mass = jnp.where(total == 0, 1, total)
    dx = tangents[0] - ((mu * tangents[0]).sum(-1, keepdims=True) - dtotal) / mass
    return mu, mu * dx


def project_knapsack(
    theta, min_items=0, max_items=None, *, weights=None, regularization="l2", axis=-1
):
    r"""Projection onto the knapsack polytope: soft choices of so many items, or of so much weight.

    .. math::

        \operatorname*{argmin}_{\mu \in [0, 1]^n, \; k \le \sum_i w_i \mu_i \le m} \;
        \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \in [0, 1]^n, \; k \le \sum_i w_i \mu_i \le m} \;
        \mathrm{KL}(\mu, e^\theta) = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`. Minus infinity means at most the share that no other
        item can take, plus infinity one, up to the number of items.
    min_items, max_items : float or array of the shape of `theta` without `axis`
        The bounds k and m on the sum, by default zero and its largest value. Equal bounds make the
        set the capped simplex (the hypersimplex for integers).
    weights : array that broadcasts to the shape of `theta`, optional
        The weights w of the items, not negative; one each by default. With weights, minus infinity
        drops an item, and plus infinity takes it whole.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta`, `weights` or a bound is not an array of real numbers.
    ValueError
        If the bounds leave no point in the set, a weight is negative, or another argument is
        invalid.

    Notes
    -----
    O(n) memory; a few passes of O(n). With F the items strictly between 0 and 1 and one bound k on
    the sum active, :math:`\mathrm{d}\mu_F = \mathrm{d}\theta_F -
    \operatorname{mean}(\mathrm{d}\theta_F)` for L2 and :math:`\mu_F (\mathrm{d}\theta_F -
    \langle \mu_F, \mathrm{d}\theta_F \rangle / \sum_F \mu_i)` for KL. With
    weights, :math:`\mu = \operatorname{clip}(\theta - \tau w, 0, 1)` and
    :math:`\min(e^{\theta - \tau w}, 1)`, differentiable in `theta`, `weights` and the active bound.
    Blondel :cite:p:`blondel2019structured`, section 4. Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_knapsack
    >>> theta = jnp.array([0.5, 2.0, -1.0, 1.5])
    >>> print(project_knapsack(theta, max_items=2))
    [0. 1. 0. 1.]
    >>> print(project_knapsack(theta, min_items=3))
    [1. 1. 0. 1.]
    >>> print(project_knapsack(jnp.zeros(4), 2, 2, regularization="kl"))
    [0.5 0.5 0.5 0.5]
    >>> print(project_knapsack(jnp.ones(2), max_items=1.5, weights=jnp.array([1.0, 3.0])))
    [0.75 0.25]
    """
    theta, axis = _prepare(theta, regularization, axis)
    if weights is not None:
        weights = _check_weights(weights, theta)
        most, name = _largest_weight(weights, axis), "the weight of all items"
    else:
        most, name = theta.shape[axis], "the number of items"
    max_items = most if max_items is None else max_items
    _check_order(min_items, most, "min_items", name)
    _check_order(min_items, max_items, "min_items", "max_items")
    _check_order(0, max_items, "zero", "max_items")
    bounds = (_bound(min_items, theta, axis, "min_items"),
              _bound(max_items, theta, axis, "max_items"))  # fmt: skip
    if weights is not None:
        return _project_weighted(theta, weights, *bounds, regularization, axis)
    return _project_knapsack(theta, *bounds, regularization, axis)


def _check_weights(weights, theta):
    known = not isinstance(weights, jax.core.Tracer)
    if known and not (np.asarray(weights) >= 0).all():
        raise ValueError(f"weights must not be negative, got {weights}")
    weights = check_shape(as_float(weights, "weights"), theta.shape, "weights", "theta")
    return jnp.broadcast_to(weights, theta.shape)


def _largest_weight(weights, axis):
    total = weights.sum(axis)
    return total if isinstance(total, jax.core.Tracer) else np.asarray(total)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_knapsack(theta, low, high, regularization, axis):
    x = _to_last(theta, axis)
    low, high = low.astype(x.dtype), high.astype(x.dtype)
    if regularization == "l2":
        return _from_last(cut_box(x, jnp.ones_like(low), low, high)[0], theta, axis)
    cube = _box(x, jnp.zeros((), x.dtype), jnp.ones((), x.dtype), regularization)
    size = jax.lax.stop_gradient(cube.sum(-1, keepdims=True))
    inside = (low <= size) & (size <= high) & (low < high)
    out = _capped_softmax(finite(x, 1), jnp.where(size < low, low, high))
    return _from_last(jnp.where(inside, cube, out), theta, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_weighted(theta, weights, low, high, regularization, axis):
    x = _to_last(theta, axis)
    w = _to_last(weights.astype(theta.dtype), axis)
    low, high = low.astype(x.dtype), high.astype(x.dtype)
    cube = _box(x, jnp.zeros((), x.dtype), jnp.ones((), x.dtype), regularization)
    settled = jnp.isinf(x)  # dropped, or taken whole
    taken = jnp.where(settled, w * cube, 0).sum(-1, keepdims=True)
    size = jax.lax.stop_gradient((w * cube).sum(-1, keepdims=True))
    inside = (low <= size) & (size <= high)
    total = jnp.maximum(jnp.where(size < low, low, high) - taken, 0)
    x, w = jnp.where(settled, 0, x), jnp.where(settled, 0, w)
    solve = _weighted_l2 if regularization == "l2" else _weighted_kl
    return _from_last(jnp.where(inside | settled, cube, solve(x, w, total)), theta, axis)


def _weighted_l2(x, w, total):
    """Return clip(x - t w, 0, 1) with a weighted sum of total: find the face, then solve on it."""

    fixed_x, fixed_w, goal = jax.lax.stop_gradient((x, w, total))

    def excess(t):
        v = fixed_x - t * fixed_w
        slope = jnp.where((v > 0) & (v < 1), fixed_w**2, 0).sum(-1, keepdims=True)
        return (fixed_w * jnp.clip(v, 0, 1)).sum(-1, keepdims=True) - goal, slope

    left, right = _weighted_bracket((x - 1) / _positive(w), x / _positive(w), w)
    v = x - _weighted_root(excess, left, right) * w
    lower, upper = (jax.lax.stop_gradient(m) for m in (v <= 0, v >= 1))
    free = ~(lower | upper)
    bound = upper.astype(x.dtype)
    rest = (w * jnp.where(free, v, bound)).sum(-1, keepdims=True) - total
    inner = v - w * (rest / _positive(jnp.where(free, w * w, 0).sum(-1, keepdims=True)))
    inner += jax.lax.stop_gradient(jnp.clip(inner, 0, 1) - inner)
    return jnp.where(free, inner, bound)


def _weighted_kl(x, w, total):
    """Return min(exp(x - t w), 1) with a weighted sum of total."""

    def excess(t, x, w, total, full):
        p = jnp.where(full, 1, jnp.exp(jnp.where(full, 0, x - t * w)))
        slope = jnp.where(full, 0, w * w * p).sum(-1, keepdims=True)
        return (w * p).sum(-1, keepdims=True) - total, slope

    fixed_x, fixed_w, goal = jax.lax.stop_gradient((x, w, total))
    root = lambda t: excess(t, fixed_x, fixed_w, goal, fixed_x - t * fixed_w >= 0)
    share = jnp.where(total > 0, total, 1) / x.shape[-1]
    right = (x + jnp.log(_positive(w) / share)) / _positive(w)
    left, right = _weighted_bracket(x / _positive(w), right, w)
    t = _weighted_root(root, left, jnp.maximum(left, right))
    full = x - t * w >= 0
    for _ in range(2):  # Newton steps at the root carry derivatives of the first and second order
        gap, slope = excess(t, x, w, total, full)
        t = t + gap / _positive(slope)
    p = jnp.where(full, 1, jnp.exp(jnp.where(full, 0, x - t * w)))
    return jnp.where((total > 0) | (w == 0), p, 0)


def _positive(x):
    return jnp.where(x > 0, x, 1)


def _weighted_bracket(left, right, w):
    left = jnp.min(jnp.where(w > 0, left, jnp.inf), -1, keepdims=True, initial=jnp.inf)
    right = jnp.max(jnp.where(w > 0, right, -jnp.inf), -1, keepdims=True, initial=-jnp.inf)
    return tuple(jnp.where(jnp.isfinite(side), side, 0) for side in (left, right))


def _weighted_root(function, left, right):
    """Root of a decreasing function, by Newton's method inside a bracket that shrinks."""

    def step(state):
        t, left, right, _, i = state
        value, slope = function(t)
        left, right = jnp.where(value > 0, t, left), jnp.where(value < 0, t, right)
        middle = left + (right - left) / 2
        new = t + value / _positive(slope)
        done = (value == 0) | (middle <= left) | (middle >= right) | ~jnp.isfinite(value)
        newton = (slope > 0) & (new > left) & (new < right) & (i % 4 < 3)
        done |= newton & (new == t)
        return jnp.where(done, t, jnp.where(newton, new, middle)), left, right, done, i + 1

    left, right = jax.lax.stop_gradient((left, right))
    start = (left + (right - left) / 2, left, right, jnp.zeros(left.shape, bool), 0)
    unfinished = lambda state: ~state[3].all() & (state[4] < 1000)
    return jax.lax.stop_gradient(jax.lax.while_loop(unfinished, step, start)[0])


def project_l1_ball(theta, radius=1.0, *, regularization="l2", axis=-1):
    r"""Projection onto the ball of the L1 norm.

    .. math::

        \operatorname*{argmin}_{\|\mu\|_1 \le r} \; \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\|\mu\|_1 \le r} \; \mathrm{KL}(\mu, e^\theta)
        = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`.
    radius : float or array of the shape of `theta` without `axis`, default 1.0
        The radius r, not negative.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`, which is defined on
        the non-negative part of the ball.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` or `radius` is not an array of real numbers.
    ValueError
        If `radius` is negative, or another argument is invalid.

    Notes
    -----
    O(n) memory; a few passes of O(n). The derivative is that of the identity (of the exponential
    for KL) inside, else that of the simplex, with the signs of `theta`. Duchi et
    al. (2008). Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_l1_ball
    >>> print(project_l1_ball(jnp.array([3.0, -2.5, 0.5]), 2.0))
    [ 1.25 -0.75  0.  ]
    >>> print(project_l1_ball(jnp.array([0.25, -0.5])))
    [ 0.25 -0.5 ]
    """
    theta, axis = _prepare(theta, regularization, axis)
    _check_order(radius, np.inf, "radius", "infinity", floor=0)
    return _project_l1_ball(theta, _bound(radius, theta, axis, "radius"), regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_l1_ball(theta, radius, regularization, axis):
    x = _to_last(theta, axis)
    if x.shape[-1] == 0:
        return theta
    radius = radius.astype(x.dtype)
    if regularization == "kl":
        size = jax.nn.logsumexp(x, -1, keepdims=True)
        inside = size <= jnp.log(radius)
        out = jnp.where(
            inside, jnp.exp(jnp.where(inside, x, 0)), simplex_rows(x, radius, regularization)
        )
    else:
        size = jnp.abs(x).sum(-1, keepdims=True)
        outside = jnp.sign(x) * simplex_rows(jnp.abs(x), radius)
        out = jnp.where(size <= radius, x, outside)
    return _from_last(out, theta, axis)


def project_l2_ball(theta, radius=1.0, *, axis=-1):
    r"""Projection onto the ball of the Euclidean norm; there is no KL variant in closed form.

    .. math::

        \operatorname*{argmin}_{\|\mu\|_2 \le r} \; \tfrac12 \|\mu - \theta\|^2

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`.
    radius : float or array of the shape of `theta` without `axis`, default 1.0
        The radius r, not negative.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` or `radius` is not an array of real numbers.
    ValueError
        If `radius` is negative, or `axis` or a shape is invalid.

    Notes
    -----
    O(n). Outside, with :math:`u = \theta / \|\theta\|`, :math:`\mathrm{d}\mu = r (\mathrm{d}\theta
    - u \langle u, \mathrm{d}\theta \rangle) / \|\theta\|`; inside, the identity. Chapter:
    :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_l2_ball
    >>> print(project_l2_ball(jnp.array([3.0, 4.0])))
    [0.6 0.8]
    """
    theta, axis = _prepare(theta, "l2", axis)
    _check_order(radius, np.inf, "radius", "infinity", floor=0)
    return _project_l2_ball(theta, _bound(radius, theta, axis, "radius"), axis)


@functools.partial(jax.jit, static_argnames="axis")
def _project_l2_ball(theta, radius, axis):
    x = _to_last(theta, axis)
    radius = radius.astype(x.dtype)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True, initial=0))
    scaled = x / jnp.where(top == 0, 1, top)  # squares of 1e30 would overflow
    square = (scaled * scaled).sum(-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(top == 0, 1, square))
    out = jnp.where(top * norm <= radius, x, radius * (scaled / norm))
    return _from_last(out, theta, axis)


def project_order_simplex(theta, *, regularization="l2", axis=-1):
    r"""Projection onto the order simplex, the non-increasing vectors of the unit cube.

    .. math::

        \operatorname*{argmin}_{1 \ge \mu_1 \ge \dots \ge \mu_n \ge 0} \;
        \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{1 \ge \mu_1 \ge \dots \ge \mu_n \ge 0} \;
        \mathrm{KL}(\mu, e^\theta) = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`
        A NaN in a vector makes all of its projection NaN.

    Raises
    ------
    TypeError
        If `theta` is not an array of real numbers.
    ValueError
        If `axis` is out of range, or `regularization` is unknown.

    Notes
    -----
    O(n) time and memory: isotonic regression v of `theta`, then :math:`\mu = \min(\max(v, 0), 1)`
    for L2 and :math:`\mu = \min(e^v, 1)` for KL. On a block B, :math:`\mathrm{d}v =
    \operatorname{mean}(\mathrm{d}\theta_B)`. Grotzinger and Witzgall
    (1984); Blondel :cite:p:`blondel2019structured`, section 4.
    Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_order_simplex
    >>> print(project_order_simplex(jnp.array([3.0, 0.25, 0.75, -2.0])))
    [1.  0.5 0.5 0. ]
    >>> print(project_order_simplex(jnp.zeros(3), regularization="kl"))
    [1. 1. 1.]
    """
    theta, axis = _prepare(theta, regularization, axis)
    return _project_order_simplex(theta, regularization, axis)


@functools.partial(jax.jit, static_argnames=("regularization", "axis"))
def _project_order_simplex(theta, regularization, axis):
    x = theta.astype(working_dtype(theta.dtype))
    v = isotonic_l2(x, increasing=False, axis=axis)
    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    return _box(v, zero, one, regularization).astype(theta.dtype)


def project_product(theta, projections, sizes, *, regularization="l2", axis=-1):
    r"""Projection onto a Cartesian product: each part onto its own set.

    .. math::

        \operatorname*{argmin}_{\mu \in \mathcal{C}_1 \times \dots \times \mathcal{C}_m} \;
        \tfrac12 \|\mu - \theta\|^2
        \qquad\text{or}\qquad
        \operatorname*{argmin}_{\mu \in \mathcal{C}_1 \times \dots \times \mathcal{C}_m} \;
        \mathrm{KL}(\mu, e^\theta) = \sum_i \mu_i \log \mu_i - \mu_i - \theta_i \mu_i

    A product of m equal sets needs none of this: shape `theta` as [..., m, n] and project along
    the last axis.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        The scores to project, along `axis`: m vectors one after the other.
    projections : sequence of m functions
        Called as ``project(part, regularization=..., axis=...)``.
    sizes : sequence of m int
        Sizes of the parts, which sum to n.
    regularization : {"l2", "kl"}
        Euclidean projection of `theta`, or KL projection of :math:`e^\theta`.
    axis : int, default -1
        The axis along which `theta` holds vectors.

    Returns
    -------
    array of the shape and dtype of `theta`

    Raises
    ------
    TypeError
        If `theta` is not an array of real numbers.
    ValueError
        If `sizes` does not sum to n or has another length than `projections`, or another argument
        is invalid.

    Notes
    -----
    Cost and derivatives are those of the parts. Blondel :cite:p:`blondel2019structured`, section
    4. Chapter: :ref:`structured`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import project_box, project_product, project_simplex
    >>> theta = jnp.array([0.5, 1.5, 0.25, 3.0])
    >>> print(project_product(theta, [project_simplex, project_box], [2, 2]))
    [0.   1.   0.25 1.  ]
    """
    theta, axis = _prepare(theta, regularization, axis)
    projections, sizes = tuple(projections), tuple(sizes)
    if sum(sizes) != theta.shape[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"sizes must sum to the {theta.shape[axis]} items of theta, got {sizes}")
    if len(sizes) != len(projections):
        raise ValueError(
            f"sizes must have one entry for each of {len(projections)} projections, got {sizes}"
        )
    parts = jnp.split(theta, np.cumsum(sizes)[:-1], axis)
    options = {"regularization": regularization, "axis": axis}
    pairs = zip(projections, parts, strict=True)
    return jnp.concatenate([project(part, **options) for project, part in pairs], axis)


def _capped_softmax(x, total):
    """Return min(exp(x - t), 1) of the given sum: fill up to one, spread the rest, repeat."""

    def spread(full):
        rest = total - full.sum(-1, keepdims=True, dtype=jnp.int32).astype(x.dtype)
        top = jax.lax.stop_gradient(
            jnp.max(jnp.where(full, -jnp.inf, x), -1, keepdims=True, initial=-jnp.inf)
        )
        mass = jnp.where(full, 0, jnp.exp(jnp.where(full, 0, x - top)))
        size = mass.sum(-1, keepdims=True)
        return jnp.maximum(rest, 0) * (mass / jnp.where(size == 0, 1, size))

    def step(state):
        full, _ = state
        more = full | (jax.lax.stop_gradient(spread(full)) >= 1)
        return more, (more != full).any()

    full = jnp.zeros(x.shape, bool)
    full, _ = jax.lax.while_loop(lambda state: state[1], step, (full, jnp.array(True)))
    return jnp.where(full, 1, spread(full))


# ------------------------------------------------------------------------------------ arguments


def _prepare(theta, regularization, axis):
    theta = as_float(theta, "theta")
    axis = check_axis(theta, axis, "theta")
    check_choice(regularization, ("l2", "kl"), "regularization")
    return theta, axis


def _bound(value, theta, axis, name):
    """Return a bound as an array of shape [] or [..., 1], with `axis` moved last."""
    value = as_float(value, name)
    if value.ndim == 0:
        return value.reshape((1,) * theta.ndim)
    shape = theta.shape[:axis] + theta.shape[axis + 1 :]
    return check_shape(value, shape, name, "theta without axis")[..., None]


def _check_order(low, high, low_name, high_name, floor=-np.inf):
    """Raise if the known ones of two bounds are out of order, or the lower below a floor."""
    as_float(low, low_name), as_float(high, high_name)
    if not isinstance(low, jax.core.Tracer) and not (np.asarray(low) >= floor).all():
        raise ValueError(f"{low_name} must be at least {floor}, got {low}")
    if any(isinstance(bound, jax.core.Tracer) for bound in (low, high)):
        return
    if not (np.asarray(low) <= np.asarray(high)).all():
        raise ValueError(
            f"{low_name} must not exceed {high_name}, got {low} and {high}: the set is empty"
        )


def _to_last(x, axis):
    return jnp.moveaxis(x.astype(working_dtype(x.dtype)), axis, -1)


def _from_last(x, like, axis):
    return jnp.moveaxis(x, -1, axis).astype(like.dtype)
