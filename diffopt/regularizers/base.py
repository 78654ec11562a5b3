"""What all regularizers share: their methods, and the way from arguments to rows."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from diffopt.checks import as_float, as_mask, check_axis, check_shape, working_dtype
from diffopt.kernels import thresholds

__all__ = ["Regularizer"]


@dataclasses.dataclass(frozen=True)
class Regularizer:
    r"""A convex function of predictions, from which everything else follows.

    A subclass gives two methods, which work on the last axis of arrays of any rank:
    ``value_of_rows(p)``, without that axis, and ``argmax_of_rows(theta)``. It may add
    ``loss_of_rows(theta, y, p)``, a form of the Fenchel-Young loss that keeps more digits than
    :math:`\Omega(y) - \Omega(p) - \langle\theta, y - p\rangle`. With ``sums_to_one = True`` it
    says that predictions lie in the probability simplex, so that scores may be shifted. Fields
    that are arrays can be differentiated; numbers and functions are constants when compiling.

    Examples
    --------
    Half the squared norm on the unit cube:

    >>> import jax.numpy as jnp
    >>> from diffopt.regularizers import Regularizer
    >>> class Cube(Regularizer):
    ...     def value_of_rows(self, p):
    ...         return 0.5 * (p * p).sum(-1)
    ...
    ...     def argmax_of_rows(self, theta):
    ...         return jnp.clip(theta, 0, 1)
    >>> print(Cube().argmax(jnp.array([2.0, 0.5, -1.0])))
    [1.  0.5 0. ]
    >>> print(Cube().max(jnp.array([2.0, 0.5, -1.0])))
    1.625
    """

    sums_to_one: ClassVar[bool] = (
        False  # whether scores may be shifted, and dropped by minus infinity
    )
    takes_mask: ClassVar[bool] = True  # whether some items can be left out
    per_item: ClassVar[
        tuple[str, ...]
    ] = ()  # fields with an entry for each item; other arrays have one for each row

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_node(cls, _flatten, functools.partial(_unflatten, cls))

    def value_of_rows(self, p):
        """Return the value on the last axis."""
        raise NotImplementedError("a regularizer needs value_of_rows(p)")

    def argmax_of_rows(self, theta):
        """Return the prediction along the last axis."""
        raise NotImplementedError("a regularizer needs argmax_of_rows(theta)")

    def value_where(self, p, kept):
        """Return the value on the last axis, over the items that are kept; the others are 0."""
        del kept
        return self.value_of_rows(p)

    def max_of_rows(self, theta, p):
        """Return the conjugate on the last axis, given the prediction `p`."""
        u = self.scores(theta)
        top = theta.max(-1, initial=-jnp.inf) if self.sums_to_one else 0
        gain = jnp.where(p == 0, 0, jnp.where(p == 0, 0, u) * p).sum(-1)
        return top + (gain - self.value_where(p, self.kept(theta)))

    def loss_of_rows(self, theta, y, p):
        """Return the loss on the last axis, given the prediction `p`: zero exactly at y = p."""
        kept, same = self.kept(theta), y == p
        slope = jnp.where(same, 0, jnp.where(same, 0, self.scores(theta)) * (y - p)).sum(-1)
        gap = self.value_where(y, kept) - self.value_where(p, kept) - slope
        return jnp.maximum(jnp.where(same.all(-1), 0, gap), 0)

    def scores(self, theta):
        """Return the scores, shifted to a maximum of zero where that changes nothing."""
        return thresholds.center(theta) if self.sums_to_one else theta

    def kept(self, theta):
        """Return which items take part."""
        return theta > -jnp.inf

    def value(self, p, *, axis=-1, where=None):
        r"""Return :math:`\Omega(p)`, without `axis`. Inside its domain, which is not checked."""
        p, axis, where = check_data(self, p, axis, where, "p")
        return value_along(self, p, where, axis)

    def max(self, theta, *, axis=-1, where=None):
        r"""Return the conjugate :math:`\Omega^*(\theta)`, without `axis`; its gradient is `argmax`.

        Minus infinity where no item takes part.
        """
        theta, axis, where = check_data(self, theta, axis, where, "theta")
        return max_along(self, theta, where, axis)

    def argmax(self, theta, *, axis=-1, where=None):
        r"""Return the prediction :math:`\hat y(\theta)`, of the shape of `theta`."""
        theta, axis, where = check_data(self, theta, axis, where, "theta")
        return argmax_along(self, theta, where, axis)


# --- from arguments to rows -----------------------------------------------------------------------


def is_leaf(value):
    return not (isinstance(value, (int, float, str)) or callable(value))


def known_array(value, name, default):
    """Return a parameter as a NumPy array, or a valid one where it is traced."""
    if isinstance(value, jax.core.Tracer):
        return np.array(default, float)
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers, got {value!r}") from None


def _flatten(regularizer):
    fields = {f.name: getattr(regularizer, f.name) for f in dataclasses.fields(regularizer)}
    leaves = {name: value for name, value in fields.items() if is_leaf(value)}
    constants = tuple((name, value) for name, value in fields.items() if name not in leaves)
    return tuple(leaves.values()), (tuple(leaves), constants)


def _unflatten(cls, structure, leaves):
    names, constants = structure
    regularizer = object.__new__(cls)
    for name, value in (*constants, *zip(names, leaves, strict=True)):
        object.__setattr__(regularizer, name, value)
    return regularizer


def check_data(regularizer, data, axis, where, name):
    """Check what a method is called with; give the mask the shape of the data."""
    data = as_float(data, name)
    axis = check_axis(data, axis, name)
    if where is not None:
        if not regularizer.takes_mask:
            name_of_class = type(regularizer).__name__
            raise ValueError(
                f"where must be None: a {name_of_class} projects all items, got a mask"
            )
        where = as_mask(where, data.shape, name)
    return data, axis, where


def to_rows(regularizer, data, where, axis, masked):
    """Move `axis` last, in single precision at least, the regularizer's arrays alike."""
    dtype = working_dtype(data.dtype)
    rows = data.astype(dtype)
    if where is not None:
        rows = jnp.where(where, rows, masked)
    leaves, (names, constants) = _flatten(regularizer)
    aligned = []
    for name, leaf in zip(names, leaves, strict=True):
        leaf = as_float(leaf, name).astype(dtype)
        if leaf.ndim:
            check_shape(leaf, data.shape, name, "theta")
            leaf = leaf.reshape((1,) * (data.ndim - leaf.ndim) + leaf.shape)
            if name not in regularizer.per_item and leaf.shape[axis] != 1:
                raise ValueError(f"{name} must have size 1 along axis, got {leaf.shape[axis]}")
            leaf = jnp.moveaxis(leaf, axis, -1)
        aligned.append(leaf)
    regularizer = _unflatten(type(regularizer), (names, constants), aligned)
    return regularizer, jnp.moveaxis(rows, axis, -1)


jax.tree_util.register_pytree_node(
    Regularizer, _flatten, functools.partial(_unflatten, Regularizer)
)


@functools.partial(jax.jit, static_argnames="axis")
def value_along(regularizer, p, where, axis):
    rows, q = to_rows(regularizer, p, where, axis, 0)
    kept = jnp.ones(q.shape, bool) if where is None else jnp.moveaxis(where, axis, -1)
    return rows.value_where(q, kept).astype(p.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def argmax_along(regularizer, theta, where, axis):
    rows = to_rows(regularizer, theta, where, axis, -jnp.inf)
    return jnp.moveaxis(rows[0].argmax_of_rows(rows[1]), -1, axis).astype(theta.dtype)


@functools.partial(jax.jit, static_argnames="axis")
def max_along(regularizer, theta, where, axis):
    return _conjugate(*to_rows(regularizer, theta, where, axis, -jnp.inf)).astype(theta.dtype)


@jax.custom_jvp
def _conjugate(regularizer, theta):
    return regularizer.max_of_rows(theta, regularizer.argmax_of_rows(theta))


@functools.partial(_conjugate.defjvp, symbolic_zeros=True)
def _conjugate_jvp(primals, tangents):
    regularizer, theta = primals
    p = regularizer.argmax_of_rows(theta)
    moved = jnp.zeros(theta.shape[:-1], theta.dtype)
    if not isinstance(tangents[1], SymbolicZero):
        moved = (p * tangents[1]).sum(-1)
    moved = moved - slope_in_fields(regularizer, tangents[0], p, regularizer.kept(theta))
    return regularizer.max_of_rows(theta, p), moved


def slope_in_fields(regularizer, tangent, p, kept):
    """Return the derivative of the value at a fixed `p`, as the regularizer's arrays move."""
    is_zero = lambda x: isinstance(x, SymbolicZero)
    leaves, structure = jax.tree.flatten(tangent, is_leaf=is_zero)
    if all(map(is_zero, leaves)):
        return jnp.zeros(p.shape[:-1], p.dtype)
    leaves = [jnp.zeros(x.aval.shape, x.aval.dtype) if is_zero(x) else x for x in leaves]
    moved = jax.tree.unflatten(structure, leaves)
    return jax.jvp(lambda r: r.value_where(p, kept), (regularizer,), (moved,))[1]


def check_order(order, low, high, name, closed=False):
    if isinstance(order, bool) or not isinstance(order, (int, float)):
        raise TypeError(f"{name} must be a number, known when compiling, got {order!r}")
    if not (low < order < high or (closed and order == high)):
        end = "]" if closed else ")"
        raise ValueError(f"{name} must lie in ({low}, {high}{end}, got {order}")
