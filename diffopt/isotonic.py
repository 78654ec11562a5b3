r"""Isotonic regression: the best monotone fit to a sequence, differentiable.

The solution is piecewise constant. The solver finds its blocks; given the blocks, the solution
has a closed form, and so have its derivatives, forwards and backwards, in linear time.
Chapter: :ref:`sorting`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffopt.checks import as_float, check_axis, check_shape, working_dtype
from diffopt.kernels import Kernel, parallel
from diffopt.kernels.partition import block_expect, block_mean, block_sum

__all__ = ["isotonic_kl", "isotonic_l2"]

_INT = jnp.dtype("int32")
_kernel_l2 = Kernel("isotonic_l2", parallel.isotonic_l2, lambda y, weights: (y, _INT))
_kernel_kl = Kernel("isotonic_kl", parallel.isotonic_kl, lambda y, w: (y, _INT))


def isotonic_l2(y, *, weights=None, increasing=True, axis=-1):
    r"""Isotonic regression for the squared loss.

    .. math::

        \operatorname*{argmin}_{v_1 \le \dots \le v_n} \; \sum_i \omega_i \, (v_i - y_i)^2

    Parameters
    ----------
    y : array of shape [..., n, ...]
        The sequence to fit, along `axis`.
    weights : array that broadcasts to the shape of `y`, optional
        Positive weights :math:`\omega`. All one by default.
    increasing : bool, default True
        Fit a non-decreasing sequence; a non-increasing one otherwise.
    axis : int, default -1
        The axis along which `y` is a sequence.

    Returns
    -------
    array of the shape and dtype of `y`
        The fit. A NaN in a sequence makes all of its fit NaN.

    Raises
    ------
    TypeError
        If `y` or `weights` is not an array of real numbers.
    ValueError
        If `axis` is out of range, or `weights` does not broadcast to `y`.

    Notes
    -----
    O(n) time on a CPU (pool adjacent violators), :math:`O(\log^2 n)` depth elsewhere (merging
    halves). On a block B, the value is :math:`v = \sum_B \omega_i y_i / \sum_B \omega_i`, hence
    :math:`\mathrm{d}v = \sum_B (\omega_i\,\mathrm{d}y_i + (y_i - v)\,\mathrm{d}\omega_i) /
    \sum_B \omega_i`. Best et al. :cite:p:`best2000minimizing`; Blondel et al.
    :cite:p:`blondel2020fast`, section 5. Chapter: :ref:`sorting`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import isotonic_l2
    >>> print(isotonic_l2(jnp.array([1.0, 3.0, 2.0, 4.0])))
    [1.  2.5 2.5 4. ]
    """
    y = as_float(y, "y")
    axis = check_axis(y, axis, "y")
    if weights is not None:
        weights = check_shape(as_float(weights, "weights"), y.shape, "weights", "y")
    return _isotonic_l2(y, weights, increasing, axis)


def isotonic_kl(y, w, *, increasing=True, axis=-1):
    r"""Isotonic regression for the Kullback-Leibler divergence, in logarithms.

    .. math::

        \operatorname*{argmin}_{v_1 \le \dots \le v_n} \; \sum_i e^{y_i - v_i} + e^{w_i} v_i

    Parameters
    ----------
    y : array of shape [..., n, ...]
        Logarithms of the sequence to fit, along `axis`.
    w : array that broadcasts to the shape of `y`
        Logarithms of its weights.
    increasing : bool, default True
        Fit a non-decreasing sequence; a non-increasing one otherwise.
    axis : int, default -1
        The axis along which `y` is a sequence.

    Returns
    -------
    array of the shape and dtype of `y`
        The fit. A NaN in a sequence makes all of its fit NaN.

    Raises
    ------
    TypeError
        If `y` or `w` is not an array of real numbers.
    ValueError
        If `axis` is out of range, or `w` does not broadcast to `y`.

    Notes
    -----
    O(n) time on a CPU, :math:`O(\log^2 n)` depth elsewhere; never overflows. On a block B, the
    value is :math:`\operatorname{LSE}(y_B) - \operatorname{LSE}(w_B)` with
    :math:`\operatorname{LSE}(z) = \log \sum_i e^{z_i}`, hence
    :math:`\mathrm{d}v = \langle \operatorname{softmax}(y_B), \mathrm{d}y_B \rangle -
    \langle \operatorname{softmax}(w_B), \mathrm{d}w_B \rangle`. Blondel et al.
    :cite:p:`blondel2020fast`, section 5. Chapter: :ref:`sorting`.

    Examples
    --------
    With equal weights it is isotonic regression of :math:`e^y` itself:

    >>> import jax.numpy as jnp
    >>> from diffopt import isotonic_kl
    >>> fit = isotonic_kl(jnp.log(jnp.array([1.0, 3.0, 2.0, 4.0])), jnp.zeros(4))
    >>> print(jnp.exp(fit).round(4))
    [1.  2.5 2.5 4. ]
    """
    y = as_float(y, "y")
    axis = check_axis(y, axis, "y")
    w = check_shape(as_float(w, "w"), y.shape, "w", "y")
    return _isotonic_kl(y, w, increasing, axis)


@functools.partial(jax.jit, static_argnames=("increasing", "axis"))
def _isotonic_l2(y, weights, increasing, axis):
    if weights is None:
        weights = jnp.zeros(0, y.dtype)
    return _along(_solve_l2, (y, weights), increasing, axis)


@functools.partial(jax.jit, static_argnames=("increasing", "axis"))
def _isotonic_kl(y, w, increasing, axis):
    return _along(_solve_kl, (y, w), increasing, axis)


def _along(solve, operands, increasing, axis):
    """Apply `solve` to increasing problems along `axis`, in single precision at least."""
    dtype = operands[0].dtype

    def prepare(x):
        x = x.astype(working_dtype(dtype))
        x = jnp.moveaxis(x, axis, -1) if x.ndim > 1 else x
        return x if increasing else jnp.flip(x, -1)

    v, _ = solve(*map(prepare, operands))
    v = v if increasing else jnp.flip(v, -1)
    return jnp.moveaxis(v, -1, axis).astype(dtype)


@jax.custom_jvp
def _solve_l2(y, weights):
    return tuple(_kernel_l2(y, weights))


@functools.partial(_solve_l2.defjvp, symbolic_zeros=True)
def _solve_l2_jvp(primals, tangents):
    y, weights = primals
    v, block = _solve_l2(y, weights)
    dy, dweights = tangents
    if weights.size == 0:
        return (v, block), (block_mean(dy, block), no_tangent(block))
    gap = jnp.where(jnp.isfinite(y) & jnp.isfinite(v), y - v, 0)
    dv = sum_tangents(
        None if is_zero(dy) else weights * dy,
        None if is_zero(dweights) else gap * dweights,
    )
    return (v, block), (block_sum(dv, block) / block_sum(weights, block), no_tangent(block))


@jax.custom_jvp
def _solve_kl(y, w):
    return tuple(_kernel_kl(y, w))


@functools.partial(_solve_kl.defjvp, symbolic_zeros=True)
def _solve_kl_jvp(primals, tangents):
    v, block = _solve_kl(*primals)
    (y, w), (dy, dw) = primals, tangents
    dv = sum_tangents(
        None if is_zero(dy) else block_expect(dy, y, block),
        None if is_zero(dw) else -block_expect(dw, w, block),
    )
    return (v, block), (dv, no_tangent(block))


def is_zero(tangent):
    """Tell whether a tangent is a symbolic zero."""
    return isinstance(tangent, SymbolicZero)


def no_tangent(x):
    """Return the tangent of an integer array."""
    return np.zeros(x.shape, jax.dtypes.float0)


def sum_tangents(*tangents):
    """Add up the tangents that are not None."""
    first, *rest = [t for t in tangents if t is not None]
    return sum(rest, start=first)
