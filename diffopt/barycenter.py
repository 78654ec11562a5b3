r"""Barycenters of time series under soft-DTW and its divergences. Chapter: :ref:`soft_dtw`."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_choice, check_range
from diffopt.pairwise import CORES, LOSSES, pad_series
from diffopt.soft_dtw import squared_euclidean

__all__ = ["Barycenter", "soft_dtw_barycenter"]


class Barycenter(NamedTuple):
    """A barycenter, and how the search for it ended."""

    value: jax.Array
    """The series, of the shape of the start."""
    objective: float
    """The weighted mean of its losses to the series."""
    num_iter: int
    """Iterations made."""
    converged: bool
    """Whether the solver stopped for another reason than `max_iter`."""


def soft_dtw_barycenter(
    series,
    weights=None,
    *,
    init=None,
    loss="divergence",
    gamma=1.0,
    cost=squared_euclidean,
    tol=1e-6,
    max_iter=100,
):
    r"""Series of least weighted mean loss to given series, by L-BFGS.

    .. math::

        \operatorname*{argmin}_{x} \; \sum_s \omega_s D(x, y^{(s)})

    Parameters
    ----------
    series : array of shape [S, m, d], or sequence of arrays of shapes [m_s, d]
        The series; they may have different lengths.
    weights : array of shape [S], optional
        Weights :math:`\omega`, not negative. By default 1 / S.
    init : array of shape [n, d], optional
        Where to start; its length is that of the result. By default the weighted mean of the
        series, or, where their lengths differ, the first of the longest.
    loss : str, default "divergence"
        One of "soft_dtw", "divergence", "sharp", "sharp_divergence", "mean_cost",
        "mean_cost_divergence".
    gamma : float, default 1.0
        Temperature; the mean costs have none.
    cost : function, default squared_euclidean
        Cost of two points.
    tol, max_iter : float and int
        When L-BFGS stops: at so small a gradient, or after so many iterations.

    Returns
    -------
    Barycenter
        The series and how the search ended. A local minimum: none of the losses is convex.

    Raises
    ------
    TypeError
        If `series` are not arrays of real numbers, or `gamma` is not a number.
    ValueError
        If there is no series, or a shape, a weight, `loss` or `gamma` does not fit.

    Notes
    -----
    An iteration takes O(S n m) time. Needs numbers, not tracers. Blondel et al.
    :cite:p:`blondel2021differentiable`, section 5. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import soft_dtw_barycenter
    >>> y = np.array([[[0.0], [2.0]], [[0.0], [4.0]]])
    >>> found = soft_dtw_barycenter(y, loss="mean_cost_divergence")
    >>> print(abs(np.asarray(found.value).round(3).T))
    [[0. 3.]]
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    check_choice(loss, LOSSES, "loss")
    check_range(gamma, 0, math.inf, "gamma")
    padded, lengths = pad_series(series, "series")
    weights = _weights(weights, len(lengths))
    start = _start(padded, lengths, weights) if init is None else as_float(init, "init")
    if start.ndim != 2 or start.shape[1] != padded.shape[2]:
        raise ValueError(f"init must have shape [n, {padded.shape[2]}], got {start.shape}")
    arrays = padded, jnp.array(lengths), weights
    gamma = float(gamma)
    limit = gamma if gamma in (0, math.inf) else None  # such a gamma is not traced
    static = {"loss": loss, "cost": cost, "limit": limit, "ragged": len(set(lengths)) > 1}
    constant = float(_own(*arrays, gamma, **static)) if loss in CORES else 0.0

    def call(point):
        x = jnp.asarray(point.reshape(start.shape), start.dtype)
        value, gradient = _slope(x, *arrays, gamma, **static)
        return float(value) - constant, np.asarray(gradient, float).ravel()

    found = minimize(
        call,
        np.asarray(start, float).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "gtol": tol},
    )
    value = jnp.asarray(found.x.reshape(start.shape), start.dtype)
    return Barycenter(value, float(found.fun), int(found.nit), found.status == 0)


def _core(loss, cost, gamma, limit):
    """Give what a loss is made of, at its temperature."""
    options = {} if loss.startswith("mean_cost") else {"gamma": gamma if limit is None else limit}
    return functools.partial(LOSSES[CORES.get(loss, loss)], cost=cost, **options)


_STATIC = ("loss", "cost", "limit", "ragged")  # compiled once for each of their values


@functools.partial(jax.jit, static_argnames=_STATIC)
def _own(padded, lengths, weights, gamma, *, loss, cost, limit, ragged):
    """Weighted mean of what the series lose against themselves, halved."""
    core = _core(loss, cost, gamma, limit)

    def one(y, length):
        return core(y, y, x_length=length, y_length=length) if ragged else core(y, y)

    return weights @ jax.vmap(one)(padded, lengths) / 2


@functools.partial(jax.jit, static_argnames=_STATIC)
def _slope(x, padded, lengths, weights, gamma, *, loss, cost, limit, ragged):
    """Value and gradient of the objective, but for what does not depend on x."""
    core = _core(loss, cost, gamma, limit)

    def objective(x):
        def one(y, length):
            return core(x, y, y_length=length) if ragged else core(x, y)

        total = weights @ jax.vmap(one)(padded, lengths)
        return total - weights.sum() * core(x, x) / 2 if loss in CORES else total

    return jax.value_and_grad(objective)(x)


def _weights(weights, count):
    if weights is None:
        return jnp.full(count, 1 / count)
    weights = as_float(weights, "weights")
    if weights.shape != (count,) or not (weights >= 0).all():
        raise ValueError(f"weights must be {count} numbers, none negative, got {weights}")
    return weights


def _start(padded, lengths, weights):
    if len(set(lengths)) == 1:
        return jnp.tensordot(weights / weights.sum(), padded.astype(weights.dtype), 1)
    longest = int(np.argmax(lengths))
    return padded[longest]
